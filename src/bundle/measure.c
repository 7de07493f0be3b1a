/* measure.c - sample interests, and the recall of an index on them.
 *
 * Interests of real users are what an index must be good at: random vectors flatter a graph. So the
 * samples go through the model; without a history file their histories are made up of random items.
 */
#include "measure.h"
#include "recalld/vec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- collecting interests ------------------------------------------------------ */

#define HISTORY_ROWS MODEL_HISTORY_MAX /* the newest so many of a line; models use fewer */

struct collector {
    struct queries *q;
    const struct model *model;
    struct model_scratch *scratch;
    float *interests; /* (K, dim) of one user */
    uint32_t rows[HISTORY_ROWS];
    size_t n_rows;
};

/* Room for the interests of `users`. */
static int collector_init(struct collector *c, struct queries *q, const struct model *m,
                          size_t users, struct err *err)
{
    size_t k = (size_t)model_interest_count(m), n;

    *c = (struct collector){.q = q, .model = m};
    *q = (struct queries){.dim = (size_t)model_dim(m)};
    if (mem_product(users, k * q->dim, &n))
        q->data = mem_try_array(n, sizeof *q->data);
    q->first = mem_try_array(users + 1, sizeof *q->first);
    if (q->data == NULL || q->first == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the interests of %zu sample users", users);
    q->first[0] = 0;
    c->scratch = model_scratch_new();
    c->interests = xcalloc(k * q->dim, sizeof *c->interests);
    return 0;
}

static void collector_clear(struct collector *c)
{
    model_scratch_free(c->scratch);
    free(c->interests);
}

/* The oldest row makes place. */
static void collector_row(struct collector *c, uint32_t row)
{
    if (c->n_rows == HISTORY_ROWS)
        memmove(c->rows, c->rows + 1, --c->n_rows * sizeof *c->rows);
    c->rows[c->n_rows++] = row;
}

/* The user's rows are complete: his interests become queries. */
static void collector_user(struct collector *c)
{
    struct queries *q = c->q;
    struct model_input in = {
        .rows = c->rows, .n_rows = c->n_rows, .dynamic = -1, .interests = c->interests};

    if (c->n_rows == 0)
        return;
    model_interests(c->model, c->scratch, &in, 1);
    for (int k = 0; k < in.live; k++) {
        const float *v = c->interests + (size_t)k * q->dim;
        float length = vec_norm(v, q->dim);

        if (length > 0 && length < INFINITY)
            memcpy(q->data + q->n++ * q->dim, v, q->dim * sizeof *v);
    }
    if (q->n > q->first[q->users])
        q->first[++q->users] = q->n;
    c->n_rows = 0;
}

void queries_thin(struct queries *q, size_t max)
{
    size_t keep = q->n > max ? q->users * max / q->n : q->users, n = 0;

    if (keep == q->users)
        return;
    keep = keep > 0 ? keep : 1;
    for (size_t i = 0; i < keep; i++) {
        size_t user = i * q->users / keep, from = q->first[user];
        size_t count = q->first[user + 1] - from;

        memmove(q->data + n * q->dim, q->data + from * q->dim, count * q->dim * sizeof *q->data);
        q->first[i] = n;
        n += count;
    }
    q->first[keep] = q->n = n;
    q->users = keep;
}

void queries_clear(struct queries *q)
{
    free(q->data);
    free(q->first);
    *q = (struct queries)QUERIES_INIT;
}

/* ---- from a history file ------------------------------------------------------- */

bool history_line_start(struct history_line *h, const char *line, size_t len)
{
    const char *end = line + len, *tab = memchr(line, '\t', len);
    const char *second = tab == NULL ? NULL : memchr(tab + 1, '\t', (size_t)(end - tab - 1));
    const char *blank = tab == NULL ? memchr(line, ' ', len) : tab;

    h->user = line;
    h->user_len = (size_t)((blank == NULL ? end : blank) - line);
    h->p = h->user + h->user_len;
    h->end = end;
    h->separators = second == NULL ? " \t" : "\t";
    return h->user_len > 0;
}

static bool separates(const struct history_line *h, char c)
{
    return c == h->separators[0] || c == '\t';
}

bool history_line_next(struct history_line *h, const char **item, size_t *len)
{
    while (h->p < h->end && separates(h, *h->p))
        h->p++;
    *item = h->p;
    while (h->p < h->end && !separates(h, *h->p))
        h->p++;
    *len = (size_t)(h->p - *item);
    return *len > 0;
}

static void collect_line(struct collector *c, const struct items *it, const char *line, size_t len)
{
    struct history_line h;
    const char *item;

    if (!history_line_start(&h, line, len))
        return;
    while (history_line_next(&h, &item, &len)) {
        uint32_t row = items_row(it, item, len);

        if (row != ITEMS_NONE)
            collector_row(c, row);
    }
    collector_user(c);
}

static size_t count_lines(const struct mapped *text)
{
    struct reader r;
    const char *line;
    size_t n = 0, len;

    reader_init(&r, "", text->bytes, text->len);
    while (reader_line(&r, &line, &len))
        n++;
    return n;
}

int queries_from_histories(struct queries *q, const struct model *m, const struct items *it,
                           const char *path, size_t max, struct err *err)
{
    struct mapped text;
    struct collector c;
    struct reader r;
    const char *line;
    size_t lines, users, len;
    int result;

    if (file_map(&text, path, err) == -1)
        return -1;
    lines = count_lines(&text);
    users = lines < max ? lines : max;
    result = collector_init(&c, q, m, users > 0 ? users : 1, err);
    reader_init(&r, path, text.bytes, text.len);
    for (size_t i = 0, taken = 0; result == 0 && reader_line(&r, &line, &len); i++) {
        if (i != taken * lines / users)
            continue;
        collect_line(&c, it, line, len);
        taken++;
    }
    if (result == 0 && q->n == 0)
        result = err_set(err, ERR_FORMAT, "%s: no line has an item of this bundle", path);
    collector_clear(&c);
    file_unmap(&text);
    queries_thin(q, max);
    return result;
}

/* ---- made up ------------------------------------------------------------------- */

#define MADE_UP_SEED 20
#define MADE_UP_ROWS 8

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int queries_from_rows(struct queries *q, const struct model *m, const struct items *it,
                      size_t users, struct err *err)
{
    uint64_t state = MADE_UP_SEED, first = items_first_row(it);
    uint64_t rows = items_last_row(it) - first + 1;
    struct collector c;
    int result = collector_init(&c, q, m, users, err);

    for (size_t i = 0; result == 0 && i < users; i++) {
        for (uint64_t n = 1 + next_random(&state) % MADE_UP_ROWS; n > 0; n--)
            collector_row(&c, (uint32_t)(first + next_random(&state) % rows));
        collector_user(&c);
    }
    collector_clear(&c);
    return result;
}

/* ---- answers ------------------------------------------------------------------- */

#define USERS_A_CALL 8

/* Requests of some users, and room for what is found. */
struct call {
    struct index_query query[USERS_A_CALL];
    struct hit *hits; /* (interests of a call at most, k) */
    size_t *found;
    uint8_t *from;   /* (USERS_A_CALL, k) */
    struct hit *all; /* (interests of a user at most, k) */
};

static void call_clear(struct call *c)
{
    free(c->hits);
    free(c->found);
    free(c->from);
    free(c->all);
}

static int call_init(struct call *c, const struct queries *q, size_t k, struct err *err)
{
    size_t most = 1, hits, all;

    *c = (struct call){.hits = NULL};
    for (size_t i = 0; i < q->users; i++)
        most = q->first[i + 1] - q->first[i] > most ? q->first[i + 1] - q->first[i] : most;
    if (mem_product(USERS_A_CALL * most, k, &hits) && mem_product(most, k, &all)) {
        c->hits = mem_try_array(hits, sizeof *c->hits);
        c->all = mem_try_array(all, sizeof *c->all);
        c->from = mem_try_array(k, USERS_A_CALL);
    }
    c->found = mem_try_array(USERS_A_CALL * most, sizeof *c->found);
    if (c->hits != NULL && c->all != NULL && c->from != NULL && c->found != NULL)
        return 0;
    call_clear(c);
    return err_set(err, ERR_NOMEM, "no memory to ask for %zu rows", k);
}

static int answers_init(struct answers *a, size_t n, size_t k, struct err *err)
{
    size_t hits;

    *a = (struct answers){.n = n, .k = k};
    if (mem_product(n, k, &hits))
        a->hits = mem_try_array(hits, sizeof *a->hits);
    a->found = mem_try_array(n, sizeof *a->found);
    if (a->hits == NULL || a->found == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu answers of %zu rows", n, k);
    return 0;
}

/* Makes the requests of users `user` and following; returns how many. */
static size_t call_make(struct call *c, const struct queries *q, size_t user, size_t k)
{
    size_t n = q->users - user < USERS_A_CALL ? q->users - user : USERS_A_CALL;

    for (size_t i = 0; i < n; i++) {
        size_t from = q->first[user + i], place = from - q->first[user];

        c->query[i] = (struct index_query){
            .interests = q->data + from * q->dim,
            .n_interests = (int)(q->first[user + i + 1] - from),
            .k = k,
            .together = true,
            .from = c->from + i * k,
            .effort = 1.0,
            .hits = c->hits + place * k,
            .found = c->found + place,
        };
    }
    return n;
}

static int better_first(const void *pa, const void *pb)
{
    const struct hit *a = pa, *b = pb;
    uint64_t x = hit_order(a->score, a->row), y = hit_order(b->score, b->row);

    return x < y ? 1 : x > y ? -1 : 0;
}

static bool has_row(const struct hit *hits, size_t n, uint32_t row)
{
    for (size_t i = 0; i < n; i++)
        if (hits[i].row == row)
            return true;
    return false;
}

/* The best of all lists of a request, no row twice. */
static void take_answer(struct answers *a, size_t user, const struct index_query *q,
                        struct hit *all)
{
    struct hit *out = a->hits + user * a->k;
    size_t n = 0, kept = 0;

    for (int i = 0; i < (q->joined ? 1 : q->n_interests); i++) {
        memcpy(all + n, q->hits + (size_t)i * q->k, q->found[i] * sizeof *all);
        n += q->found[i];
    }
    qsort(all, n, sizeof *all, better_first);
    for (size_t i = 0; i < n && kept < a->k; i++)
        if (!has_row(out, kept, all[i].row))
            out[kept++] = all[i];
    a->found[user] = kept;
}

/* Who answers: an index, or the twin over some rows. */
struct engine {
    const struct index *ix;
    const struct vectors *v;
    uint32_t first_row, rows;
};

static int answers_by(struct answers *a, const struct engine *e, const struct queries *q, size_t k,
                      struct err *err)
{
    struct index_scratch *scratch;
    struct call call;
    int failed = 0;

    if (answers_init(a, q->users, k, err) == -1 || call_init(&call, q, k, err) == -1)
        return -1;
    scratch = index_scratch_new();
    for (size_t user = 0; user < q->users && failed == 0; user += USERS_A_CALL) {
        size_t n = call_make(&call, q, user, k);

        if (e->ix != NULL)
            index_search(e->ix, scratch, call.query, n);
        else
            index_search_brute(e->v, e->first_row, e->rows, call.query, n);
        for (size_t i = 0; i < n; i++) {
            failed += call.query[i].shards_failed;
            take_answer(a, user + i, &call.query[i], call.all);
        }
    }
    index_scratch_free(scratch);
    call_clear(&call);
    if (failed > 0)
        return err_set(err, ERR_FORMAT, "%d of the index's shards cannot be searched", failed);
    return 0;
}

int answers_search(struct answers *a, const struct index *ix, const struct queries *q, size_t k,
                   struct err *err)
{
    return answers_by(a, &(struct engine){.ix = ix}, q, k, err);
}

int answers_brute(struct answers *a, const struct vectors *v, uint32_t first_row, uint32_t rows,
                  const struct queries *q, size_t k, struct err *err)
{
    return answers_by(a, &(struct engine){NULL, v, first_row, rows}, q, k, err);
}

double answers_recall(const struct answers *a, const struct answers *truth)
{
    size_t wanted = 0, got = 0;

    for (size_t i = 0; i < a->n; i++) {
        const struct hit *best = truth->hits + i * truth->k, *hits = a->hits + i * a->k;
        size_t n = truth->found[i];

        wanted += n;
        for (size_t j = 0; n > 0 && j < a->found[i] && j < n; j++)
            got += hits[j].score >= best[n - 1].score;
    }
    return wanted == 0 ? 1.0 : (double)got / (double)wanted;
}

void answers_clear(struct answers *a)
{
    free(a->hits);
    free(a->found);
    *a = (struct answers)ANSWERS_INIT;
}
