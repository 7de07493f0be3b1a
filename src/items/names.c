/* names.c - numbered byte strings. Text, starts and table are three plain arrays. */
#include "names.h"

#include <stdlib.h>
#include <string.h>

#define EMPTY UINT32_MAX
#define TEXT_MAX ((size_t)UINT32_MAX)
#define AHEAD 32 /* look-ups under way at once */

/* Two thirds full: 6 bytes of table per name, 2 probes on average for a name that is there. */
static size_t slots_for(size_t used)
{
    return used + used / 2 + 8;
}

/* A larger block holding the first `keep` bytes of the old one, which is freed; or NULL. */
static void *enlarged(void *old, size_t keep, size_t n, size_t size)
{
    void *larger = mem_try_array(n, size);

    if (larger == NULL)
        return NULL;
    if (keep > 0)
        memcpy(larger, old, keep);
    free(old);
    return larger;
}

/* ---- table ---------------------------------------------------------------------- */

struct place {
    size_t slot;
    uint32_t tag; /* the hash's share of a slot's bits */
};

/* High half of the hash: where to start. Low half: the tag. */
static struct place place_of(const struct names *s, uint64_t hash)
{
    struct place p = {(size_t)((hash >> 32) * (uint64_t)s->slots >> 32), 0};

    if (s->number_bits < 32)
        p.tag = (uint32_t)hash << s->number_bits;
    return p;
}

static size_t next_slot(const struct names *s, size_t slot)
{
    return slot + 1 == s->slots ? 0 : slot + 1;
}

static uint32_t number_mask(const struct names *s)
{
    return s->number_bits < 32 ? ((uint32_t)1 << s->number_bits) - 1 : UINT32_MAX;
}

static void put(struct names *s, uint64_t hash, uint32_t number)
{
    struct place p = place_of(s, hash);

    while (s->table[p.slot] != EMPTY)
        p.slot = next_slot(s, p.slot);
    s->table[p.slot] = p.tag | number;
}

/* A new table with room for `used` names with numbers below `numbers`, filled with what is there.
 */
static bool build_table(struct names *s, size_t numbers, size_t used)
{
    size_t slots = slots_for(used);
    unsigned bits = 1;
    uint32_t *table;

    /* One spare number, so that no slot in use reads all ones. */
    while (bits < 32 && ((uint64_t)1 << bits) - 1 <= numbers)
        bits++;
    table = slots <= UINT32_MAX ? mem_try_array(slots, sizeof *table) : NULL;
    if (table == NULL)
        return false;
    memset(table, 0xff, slots * sizeof *table);
    free(s->table);
    s->table = table;
    s->slots = slots;
    s->number_bits = bits;
    for (size_t i = 0; i < s->n; i++) {
        size_t len = s->starts[i + 1] - s->starts[i];

        if (len > 0)
            put(s, hash_bytes(s->text + s->starts[i], len), (uint32_t)i);
    }
    return true;
}

/* ---- adding --------------------------------------------------------------------- */

bool names_reserve(struct names *s, size_t numbers, size_t used, size_t bytes)
{
    size_t keep = s->starts == NULL ? 0 : (s->n + 1) * sizeof *s->starts;
    uint32_t *starts;
    char *text;

    if (numbers >= UINT32_MAX || !build_table(s, numbers, used))
        return false;
    if ((starts = enlarged(s->starts, keep, numbers + 1, sizeof *starts)) == NULL)
        return false;
    s->starts = starts;
    s->cap = numbers;
    s->starts[s->n] = (uint32_t)s->text_len;
    if ((text = enlarged(s->text, s->text_len, bytes, 1)) == NULL)
        return false;
    s->text = text;
    s->text_cap = bytes;
    return true;
}

static bool make_room(struct names *s, size_t len)
{
    size_t cap = s->cap, bytes = s->text_cap, used = s->used;

    if (s->n < cap && s->used < s->slots - s->slots / 3 && bytes - s->text_len >= len)
        return true;
    cap = s->n < cap ? cap : cap * 2 + 16;
    used = used * 2 + 16;
    while (bytes - s->text_len < len)
        bytes = bytes * 2 + 256;
    return names_reserve(s, cap, used, bytes);
}

/* The next name from `p` on whose tag is right: it may be the one. *p becomes its slot. */
static uint32_t candidate(const struct names *s, struct place *p)
{
    uint32_t mask = number_mask(s), slot;

    for (; (slot = s->table[p->slot]) != EMPTY; p->slot = next_slot(s, p->slot))
        if ((slot & ~mask) == p->tag)
            return slot & mask;
    return ITEMS_NONE;
}

static bool is_name(const struct names *s, uint32_t number, const char *text, size_t len)
{
    size_t its_len;
    const char *its_text = names_text(s, number, &its_len);

    return its_len == len && memcmp(its_text, text, len) == 0;
}

/* The name at `p`, of which `number` is the candidate, or after it. */
static uint32_t find_from(const struct names *s, struct place p, uint32_t number, const char *text,
                          size_t len)
{
    while (number != ITEMS_NONE && !is_name(s, number, text, len)) {
        p.slot = next_slot(s, p.slot);
        number = candidate(s, &p);
    }
    return number;
}

static uint32_t find(const struct names *s, uint64_t hash, const char *text, size_t len)
{
    struct place p = place_of(s, hash);
    uint32_t number = candidate(s, &p);

    return find_from(s, p, number, text, len);
}

uint32_t names_find(const struct names *s, const char *text, size_t len)
{
    return s->slots == 0 ? ITEMS_NONE : find(s, hash_bytes(text, len), text, len);
}

/* At most AHEAD names: each step asks for what the next one reads. */
static void find_some(const struct names *s, const struct str *texts, size_t n, uint32_t *numbers)
{
    struct place at[AHEAD];

    for (size_t i = 0; i < n; i++) {
        at[i] = place_of(s, hash_bytes(texts[i].p, texts[i].len));
        __builtin_prefetch(&s->table[at[i].slot]);
    }
    for (size_t i = 0; i < n; i++) {
        numbers[i] = candidate(s, &at[i]);
        names_prefetch(s, numbers[i]);
    }
    for (size_t i = 0; i < n; i++)
        if (numbers[i] != ITEMS_NONE)
            __builtin_prefetch(s->text + s->starts[numbers[i]]);
    for (size_t i = 0; i < n; i++)
        numbers[i] = find_from(s, at[i], numbers[i], texts[i].p, texts[i].len);
}

void names_find_all(const struct names *s, const struct str *texts, size_t n, uint32_t *numbers)
{
    for (size_t i = 0; i < n && s->slots == 0; i++)
        numbers[i] = ITEMS_NONE;
    for (size_t i = 0; i < n && s->slots > 0; i += AHEAD)
        find_some(s, texts + i, n - i < AHEAD ? n - i : AHEAD, numbers + i);
}

int names_add(struct names *s, const char *text, size_t len, uint32_t *number, struct err *err)
{
    uint64_t hash = hash_bytes(text, len);

    if (len > TEXT_MAX - s->text_len)
        return err_set(err, ERR_LIMIT, "more than 4 GiB of text");
    if (!make_room(s, len))
        return err_set(err, ERR_NOMEM, "out of memory after %zu names", s->used);
    *number = find(s, hash, text, len);
    if (*number != ITEMS_NONE)
        return 0;
    memcpy(s->text + s->text_len, text, len);
    s->text_len += len;
    *number = (uint32_t)s->n++;
    s->used++;
    s->starts[s->n] = (uint32_t)s->text_len;
    put(s, hash, *number);
    return 1;
}

bool names_skip(struct names *s)
{
    if (s->n >= s->cap)
        return false;
    s->n++;
    s->starts[s->n] = (uint32_t)s->text_len;
    return true;
}

void names_trim(struct names *s)
{
    void *smaller;

    /* Shrinks in place; if that should fail, the larger block is as good. */
    if (s->starts != NULL && (smaller = realloc(s->starts, (s->n + 1) * sizeof *s->starts))) {
        s->starts = smaller;
        s->cap = s->n;
    }
    if (s->text_len > 0 && (smaller = realloc(s->text, s->text_len))) {
        s->text = smaller;
        s->text_cap = s->text_len;
    }
}

void names_clear(struct names *s)
{
    free(s->text);
    free(s->starts);
    free(s->table);
    *s = (struct names)NAMES_INIT;
}

/* ---- reading -------------------------------------------------------------------- */

size_t names_memory(const struct names *s)
{
    return s->text_cap + (s->cap + 1) * sizeof *s->starts + s->slots * sizeof *s->table;
}
