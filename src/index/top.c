/* top.c - selection and sorting of keys, largest first. */
#include "top.h"

#define SMALL 16

/* At most SMALL keys. A key goes where as many are larger, of equals those before it: no branch
 * depends on a comparison. */
static void rank_sort(uint64_t *keys, size_t n)
{
    uint64_t copy[SMALL];
    uint32_t rank[SMALL];

    for (size_t i = 0; i < n; i++) {
        copy[i] = keys[i];
        rank[i] = 0;
        for (size_t j = 0; j < i; j++) {
            uint32_t larger = copy[i] > copy[j];

            rank[j] += larger;
            rank[i] += 1 - larger;
        }
    }
    for (size_t i = 0; i < n; i++)
        keys[rank[i]] = copy[i];
}

static uint64_t median(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t low = a < b ? a : b, high = a < b ? b : a;

    return c < low ? low : c > high ? high : c;
}

/* Puts the keys above some pivot first and returns how many they are: 1 .. n - 1. Every step writes
 * and only the counter depends on the comparison, so no branch is mispredicted. */
static size_t partition(uint64_t *keys, size_t n)
{
    uint64_t pivot = median(keys[n / 4], keys[n / 2], keys[n - n / 4 - 1]);
    size_t above = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t key = keys[i];

        keys[i] = keys[above];
        keys[above] = key;
        above += key > pivot;
    }
    if (above > 0)
        return above;
    /* Keys differ, so the median of three is below one of them. Should they not, set one apart. */
    for (size_t i = 0; i < n; i++)
        if (keys[i] == pivot) {
            keys[i] = keys[0];
            keys[0] = pivot;
            break;
        }
    return 1;
}

/* The k largest of n keys first, in any order. */
static void select_largest(uint64_t *keys, size_t n, size_t k)
{
    while (n > SMALL && k > 0 && k < n) {
        size_t above = partition(keys, n);

        if (above > k) {
            n = above;
        } else {
            keys += above;
            n -= above;
            k -= above;
        }
    }
    if (k > 0 && k < n)
        rank_sort(keys, n);
}

void top_sort(uint64_t *keys, size_t n)
{
    while (n > SMALL) {
        size_t above = partition(keys, n);

        /* The smaller half by recursion: the depth stays below 64. */
        if (above < n - above) {
            top_sort(keys, above);
            keys += above;
            n -= above;
        } else {
            top_sort(keys + above, n - above);
            n = above;
        }
    }
    rank_sort(keys, n);
}

static uint64_t smallest(const uint64_t *keys, size_t n)
{
    uint64_t least = keys[0];

    for (size_t i = 1; i < n; i++)
        least = keys[i] < least ? keys[i] : least;
    return least;
}

void top_init(struct top *t, uint64_t *room, size_t k, float slack)
{
    *t = (struct top){room, 0, k, k > 0 ? -INFINITY : NAN, slack};
}

uint64_t top_least(const struct top *t, size_t n)
{
    return smallest(t->keys, n);
}

/* Throws out, from behind the first k entries, what cannot be better than all of those. */
static void drop(struct top *t)
{
    float kth = key_score(smallest(t->keys, t->k));
    uint64_t least = hit_order(nextafterf(kth - t->slack, -INFINITY), UINT32_MAX);
    size_t kept = t->k;

    t->floor = fmaxf(t->floor, kth);
    for (size_t i = t->k; i < t->n; i++)
        if (t->keys[i] >= least)
            t->keys[kept++] = t->keys[i];
    t->n = kept;
}

void top_prune(struct top *t)
{
    if (t->n <= t->k)
        return;
    select_largest(t->keys, t->n, t->k);
    drop(t);
}

void top_cut(struct top *t)
{
    if (t->n <= t->k)
        return;
    select_largest(t->keys, t->n, t->k);
    t->n = t->k;
    t->floor = fmaxf(t->floor, key_score(smallest(t->keys, t->k)));
}

void top_join(struct top *t, const uint64_t *keys, size_t n)
{
    size_t kept = 0;

    memmove(t->keys + t->n, keys, n * sizeof *keys);
    top_sort(t->keys, t->n + n);
    for (size_t i = 0; i < t->n + n; i++)
        if (kept == 0 || t->keys[i] != t->keys[kept - 1])
            t->keys[kept++] = t->keys[i];
    t->n = kept;
    top_cut(t);
}

size_t top_finish(struct top *t, struct hit *hits)
{
    top_cut(t);
    top_sort(t->keys, t->n);
    for (size_t i = 0; i < t->n; i++)
        hits[i] = (struct hit){key_row(t->keys[i]), key_score(t->keys[i])};
    return t->n;
}
