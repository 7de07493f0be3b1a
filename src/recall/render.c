/* render.c - an answered call as JSON, written straight into the buffer that goes out. */
#include <string.h>

#include "call.h"

const char *const degraded_words[DEGRADED_COUNT] = {
#define X(id, word) #word,
    RECALL_DEGRADED(X)
#undef X
};

const char *const source_words[] = {"model", "popular", "none"};

const char *const drop_words[DROP_REASONS] = {NULL, "zero", "not_finite", "similar", "unused"};

/* A literal, its length known to the compiler. */
#define PUT(b, literal) buf_put(b, "" literal, sizeof(literal) - 1)
/* The same at `p`, where there is room; the end. */
#define TEXT(p, literal) ((char *)memcpy(p, literal, sizeof(literal) - 1) + sizeof(literal) - 1)
#define ITEM_ROOM (64 + TEXT_F32_ROOM + TEXT_U64_ROOM) /* an item without its id */

/* ---- parts ----------------------------------------------------------------------------- */

static void put_key(struct buf *b, const char *key)
{
    buf_putc(b, '"');
    buf_puts(b, key);
    PUT(b, "\":");
}

static void put_text(struct buf *b, const char *key, const char *s, size_t len)
{
    put_key(b, key);
    buf_json(b, s, len);
}

static void put_number(struct buf *b, const char *key, uint64_t v)
{
    put_key(b, key);
    buf_u64(b, v);
}

static void put_id(struct buf *b, const struct recall_call *c, uint32_t row)
{
    size_t len;
    const char *id = items_id(bundle_items(c->bundle), row, &len);

    PUT(b, "\"id\":");
    buf_json(b, id, len);
}

static void put_degraded(struct buf *b, uint32_t bits)
{
    bool first = true;

    PUT(b, ",\"degraded\":[");
    for (int d = 0; d < DEGRADED_COUNT; d++)
        if (bits & UINT32_C(1) << d) {
            if (!first)
                buf_putc(b, ',');
            first = false;
            buf_putc(b, '"');
            buf_puts(b, degraded_words[d]);
            buf_putc(b, '"');
        }
    buf_putc(b, ']');
}

static void put_head(struct buf *b, const struct recall_call *c)
{
    const char *bundle = bundle_name(c->bundle);

    buf_putc(b, '{');
    put_text(b, "request_id", c->request_id, strlen(c->request_id));
    buf_putc(b, ',');
    put_text(b, "serve_id", c->serve_id, strlen(c->serve_id));
    if (c->user_id.len > 0) {
        buf_putc(b, ',');
        put_text(b, "user_id", c->user_id.p, c->user_id.len);
    }
    buf_putc(b, ',');
    put_text(b, "bundle", bundle, strlen(bundle));
    PUT(b, ",\"arms\":");
    if (c->experiments != NULL)
        experiments_arms_json(c->experiments, &c->assignment, b);
    else
        PUT(b, "{}");
    buf_puts(b, c->assignment.forced ? ",\"forced\":true" : ",\"forced\":false");
    PUT(b, ",\"source\":\"");
    buf_puts(b, source_words[c->source]);
    buf_putc(b, '"');
    put_degraded(b, c->degraded);
    buf_putc(b, ',');
    put_number(b, "history", c->n_rows > 0 ? c->input.used : 0);
    buf_putc(b, ',');
    put_number(b, "interests", (uint64_t)c->n_live);
}

/* ---- items ------------------------------------------------------------------------------- */

/* Every interest that found the row, with its rank there and its score. */
static void put_found_by(struct buf *b, const struct recall_call *c, uint32_t row)
{
    bool first = true;

    PUT(b, ",\"found_by\":[");
    for (int i = 0; i < c->n_live; i++) {
        const struct hit *hits = c->query.hits + (size_t)i * c->query.k;

        for (size_t rank = 0; rank < c->query.found[i]; rank++)
            if (hits[rank].row == row) {
                buf_puts(b, first ? "{" : ",{");
                first = false;
                put_number(b, "interest", (uint64_t)c->live[i]);
                buf_putc(b, ',');
                put_number(b, "rank", rank);
                PUT(b, ",\"score\":");
                buf_f32(b, hits[rank].score);
                buf_putc(b, '}');
                break;
            }
    }
    buf_putc(b, ']');
}

/* The part of an item that an answer has two hundred times: `p` stays in a register, and there is
 * room. */
static char *score_text(char *p, const struct recall_call *c, const struct pick *pick)
{
    p = TEXT(p, ",\"score\":");
    p = text_f32(p, pick->score);
    p = TEXT(p, ",\"interest\":");
    return text_u64(p, (uint64_t)c->live[pick->list]);
}

/* The id with its quotes, which there is room for unless it has to be escaped. */
static char *id_text(struct buf *b, char *p, struct str id, bool plain)
{
    if (plain) {
        *p++ = '"';
        memcpy(p, id.p, id.len);
        p += id.len;
        *p++ = '"';
        return p;
    }
    b->len = (size_t)(p - b->p);
    buf_json(b, id.p, id.len);
    buf_reserve(b, ITEM_ROOM);
    return b->p + b->len;
}

/* A popular item has no score and no interest: the keys are left out. */
static void put_items(struct buf *b, const struct recall_call *c, const struct str *ids)
{
    bool plain = items_plain(bundle_items(c->bundle));

    PUT(b, ",\"items\":[");
    for (size_t i = 0; i < c->n_picks; i++) {
        char *p;

        buf_reserve(b, ids[i].len + ITEM_ROOM);
        p = b->p + b->len;
        p = i > 0 ? TEXT(p, ",{\"id\":") : TEXT(p, "{\"id\":");
        p = id_text(b, p, ids[i], plain);
        if (c->source == SOURCE_MODEL)
            p = score_text(p, c, &c->picks[i]);
        b->len = (size_t)(p - b->p);
        if (c->source == SOURCE_MODEL && c->explain)
            put_found_by(b, c, c->picks[i].row);
        buf_putc(b, '}');
    }
    buf_putc(b, ']');
}

/* ---- explain and vectors -------------------------------------------------------------------- */

static int list_of_interest(const struct recall_call *c, int interest)
{
    for (int i = 0; i < c->n_live; i++)
        if (c->live[i] == interest)
            return i;
    return -1;
}

static size_t kept_of_list(const struct recall_call *c, int list)
{
    size_t n = 0;

    for (size_t i = 0; c->source == SOURCE_MODEL && i < c->n_picks; i++)
        n += c->picks[i].list == list;
    return n;
}

static void put_interest(struct buf *b, const struct recall_call *c, int k)
{
    const float *weights = c->input.weights + (size_t)k * c->input.used;
    int list = list_of_interest(c, k);

    buf_putc(b, '{');
    put_number(b, "interest", (uint64_t)k);
    PUT(b, ",\"dropped\":");
    if (list == -1)
        buf_json(b, drop_words[c->dropped[k]], strlen(drop_words[c->dropped[k]]));
    else
        PUT(b, "null");
    buf_putc(b, ',');
    put_number(b, "found", list == -1 ? 0 : c->query.found[list]);
    buf_putc(b, ',');
    put_number(b, "kept", list == -1 ? 0 : kept_of_list(c, list));
    PUT(b, ",\"history\":[");
    for (size_t s = 0; s < c->input.used; s++) {
        buf_puts(b, s == 0 ? "{" : ",{");
        put_id(b, c, c->rows[c->input.first_used + s]);
        PUT(b, ",\"weight\":");
        buf_f32(b, weights[s]);
        buf_putc(b, '}');
    }
    PUT(b, "]}");
}

static void put_stages(struct buf *b, const struct recall_call *c)
{
    static const char *const names[MOMENT_COUNT] = {
        [MOMENT_PARSED] = "parse",    [MOMENT_BEHAVIOUR] = "behaviour",
        [MOMENT_DEQUEUED] = "queue",  [MOMENT_INTERESTS] = "interests",
        [MOMENT_SEARCHED] = "search", [MOMENT_MERGED] = "merge",
    };

    PUT(b, ",\"stages_us\":{");
    for (int i = MOMENT_PARSED; i < MOMENT_COUNT; i++) {
        if (i > MOMENT_PARSED)
            buf_putc(b, ',');
        put_number(b, names[i], (c->at[i] - c->at[i - 1]) / 1000);
    }
    buf_putc(b, '}');
}

static void put_explain(struct buf *b, const struct recall_call *c)
{
    int k = c->n_rows > 0 ? model_interest_count(bundle_model(c->bundle)) : 0;

    PUT(b, ",\"explain\":{");
    put_number(b, "unknown", c->n_unknown);
    buf_putc(b, ',');
    put_number(b, "malformed", c->job.malformed);
    buf_putc(b, ',');
    put_number(b, "excluded", row_set_count(c->excluded));
    if (c->filter != NULL) {
        buf_putc(b, ',');
        put_number(b, "filter_rows", filter_count(c->filter));
    }
    PUT(b, ",\"interests\":[");
    for (int i = 0; i < k; i++) {
        if (i > 0)
            buf_putc(b, ',');
        put_interest(b, c, i);
    }
    buf_putc(b, ']');
    put_stages(b, c);
    buf_putc(b, '}');
}

static void put_vectors(struct buf *b, const struct recall_call *c)
{
    const struct model *m = bundle_model(c->bundle);
    int k = c->n_rows > 0 ? model_interest_count(m) : 0, dim = model_dim(m);

    PUT(b, ",\"vectors\":[");
    for (int i = 0; i < k; i++) {
        buf_puts(b, i == 0 ? "[" : ",[");
        for (int j = 0; j < dim; j++) {
            if (j > 0)
                buf_putc(b, ',');
            buf_f32(b, c->input.interests[(size_t)i * (size_t)dim + (size_t)j]);
        }
        buf_putc(b, ']');
    }
    buf_putc(b, ']');
}

void render_answer(struct recall_call *c)
{
    struct str *ids = arena_alloc(&c->arena, (c->n_picks + 1) * sizeof *ids);
    struct buf *b = &c->answer;

    if (c->n_picks > 0)
        items_ids(bundle_items(c->bundle), &c->picks->row, sizeof *c->picks, c->n_picks, ids);
    c->ids = ids;
    b->len = 0;
    put_head(b, c);
    put_items(b, c, ids);
    if (c->explain)
        put_explain(b, c);
    if (c->vectors)
        put_vectors(b, c);
    buf_putc(b, ',');
    c->took_us = (clock_ns() - c->at[MOMENT_START]) / 1000;
    put_number(b, "took_us", c->took_us);
    PUT(b, "}\n");
}
