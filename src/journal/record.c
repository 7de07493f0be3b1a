/* record.c - the two records as lines, written and read in one place.
 *
 * Writing is on the path of every answer: literals of known length, the arrays last and without a
 * key per item. Reading checks every field that it knows and ignores the others. */
#include <jansson.h>
#include <math.h>

#include "recalld/journal.h"

/* ---- writing ------------------------------------------------------------------------------- */

/* A literal, its length known to the compiler. */
#define PUT(b, literal) buf_put(b, "" literal, sizeof(literal) - 1)

static void put_str(struct buf *b, struct str s)
{
    buf_json(b, s.p, s.len);
}

/* ,"key":"text", or nothing. */
#define PUT_TEXT(b, key, s)          \
    do {                             \
        if ((s).len > 0) {           \
            PUT(b, ",\"" key "\":"); \
            put_str(b, s);           \
        }                            \
    } while (0)

static void put_i64(struct buf *b, int64_t v)
{
    if (v < 0)
        buf_putc(b, '-');
    buf_u64(b, v < 0 ? -(uint64_t)v : (uint64_t)v);
}

static void put_arms(struct buf *b, const struct journal_served *s)
{
    PUT(b, ",\"arms\":{");
    for (size_t i = 0; i < s->n_arms; i++) {
        if (i > 0)
            buf_putc(b, ',');
        put_str(b, s->arms[i].name);
        buf_putc(b, ':');
        put_str(b, s->arms[i].value);
    }
    buf_putc(b, '}');
}

static void put_list(struct buf *b, const struct str *list, size_t n)
{
    buf_putc(b, '[');
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buf_putc(b, ',');
        put_str(b, list[i]);
    }
    buf_putc(b, ']');
}

static void put_items(struct buf *b, const struct journal_served *s)
{
    PUT(b, ",\"items\":");
    put_list(b, s->items, s->n_items);
    PUT(b, ",\"scores\":[");
    for (size_t i = 0; i < s->n_scores; i++) {
        if (i > 0)
            buf_putc(b, ',');
        buf_f32(b, s->scores[i]);
    }
    PUT(b, "],\"by\":[");
    for (size_t i = 0; i < s->n_scores; i++) {
        if (i > 0)
            buf_putc(b, ',');
        buf_u64(b, (uint64_t)s->by[i]);
    }
    buf_putc(b, ']');
}

_Static_assert(JOURNAL_VERSION == 1, "the lines below begin with it");

void journal_served_encode(struct buf *out, const struct journal_served *s)
{
    PUT(out, "{\"v\":1,\"ts_ms\":");
    put_i64(out, s->ts_ms);
    PUT_TEXT(out, "serve_id", s->serve_id);
    PUT_TEXT(out, "request_id", s->request_id);
    PUT_TEXT(out, "user_id", s->user_id);
    PUT_TEXT(out, "scene", s->scene);
    put_arms(out, s);
    PUT_TEXT(out, "hash", s->hash);
    if (s->forced)
        PUT(out, ",\"forced\":true,\"experiments\":");
    else
        PUT(out, ",\"forced\":false,\"experiments\":");
    put_i64(out, s->experiments);
    PUT_TEXT(out, "bundle", s->bundle);
    PUT(out, ",\"settings\":");
    if (s->settings.len > 0)
        buf_put(out, s->settings.p, s->settings.len);
    else
        PUT(out, "{}");
    PUT_TEXT(out, "source", s->source);
    PUT(out, ",\"degraded\":");
    put_list(out, s->degraded, s->n_degraded);
    PUT(out, ",\"history\":");
    buf_u64(out, s->history);
    PUT(out, ",\"interests\":");
    buf_u64(out, s->interests);
    PUT(out, ",\"sample\":");
    if (s->sample == 1)
        buf_putc(out, '1');
    else
        buf_f64(out, s->sample);
    PUT(out, ",\"took_us\":");
    buf_u64(out, s->took_us);
    put_items(out, s);
    PUT(out, "}\n");
}

void journal_event_encode(struct buf *out, const struct journal_event *e)
{
    PUT(out, "{\"v\":1,\"ts_ms\":");
    put_i64(out, e->ts_ms);
    PUT(out, ",\"received_ms\":");
    put_i64(out, e->received_ms);
    PUT_TEXT(out, "event", e->event);
    PUT_TEXT(out, "serve_id", e->serve_id);
    PUT_TEXT(out, "request_id", e->request_id);
    PUT_TEXT(out, "item_id", e->item_id);
    PUT_TEXT(out, "user_id", e->user_id);
    if (e->position >= 0) {
        PUT(out, ",\"position\":");
        buf_u64(out, (uint64_t)e->position);
    }
    PUT_TEXT(out, "event_id", e->event_id);
    PUT(out, "}\n");
}

/* ---- reading ------------------------------------------------------------------------------- */

struct line {
    json_t *root;
    struct arena *arena;
    struct err *err;
};

static int complain(const struct line *l, const char *key, const char *what)
{
    return err_set(l->err, ERR_FORMAT, "%s: %s", key, what);
}

static struct str keep(const struct line *l, const char *p, size_t len)
{
    return (struct str){arena_strndup(l->arena, p, len), len};
}

static struct str keep_json(const struct line *l, const json_t *v)
{
    return keep(l, json_string_value(v), json_string_length(v));
}

enum need { OPTIONAL, REQUIRED };

static int get_text(const struct line *l, const char *key, enum need need, struct str *out)
{
    const json_t *v = json_object_get(l->root, key);

    if (v == NULL)
        return need == REQUIRED ? complain(l, key, "is missing") : 0;
    if (!json_is_string(v))
        return complain(l, key, "must be a string");
    if (need == REQUIRED && json_string_length(v) == 0)
        return complain(l, key, "must not be empty");
    *out = keep_json(l, v);
    return 0;
}

static int get_i64(const struct line *l, const char *key, enum need need, int64_t least,
                   int64_t *out)
{
    const json_t *v = json_object_get(l->root, key);

    if (v == NULL)
        return need == REQUIRED ? complain(l, key, "is missing") : 0;
    if (!json_is_integer(v))
        return complain(l, key, "must be an integer");
    if (json_integer_value(v) < least)
        return complain(l, key, "is too small");
    *out = json_integer_value(v);
    return 0;
}

static int get_count(const struct line *l, const char *key, uint64_t *out)
{
    int64_t v = 0;

    if (get_i64(l, key, REQUIRED, 0, &v) == -1)
        return -1;
    *out = (uint64_t)v;
    return 0;
}

static int get_array(const struct line *l, const char *key, const json_t **out, size_t *n)
{
    *out = json_object_get(l->root, key);
    if (!json_is_array(*out))
        return complain(l, key, *out == NULL ? "is missing" : "must be a list");
    *n = json_array_size(*out);
    return 0;
}

static int get_texts(const struct line *l, const char *key, const struct str **out, size_t *n)
{
    const json_t *list;
    struct str *texts;

    if (get_array(l, key, &list, n) == -1)
        return -1;
    *out = texts = arena_alloc(l->arena, (*n + 1) * sizeof *texts);
    for (size_t i = 0; i < *n; i++) {
        const json_t *v = json_array_get(list, i);

        if (!json_is_string(v))
            return complain(l, key, "must hold strings only");
        texts[i] = keep_json(l, v);
    }
    return 0;
}

static int get_arms(const struct line *l, struct journal_served *out)
{
    json_t *arms = json_object_get(l->root, "arms"), *v;
    struct journal_pair *pairs;
    const char *key;

    if (!json_is_object(arms))
        return complain(l, "arms", arms == NULL ? "is missing" : "must be an object");
    out->arms = pairs = arena_alloc(l->arena, (json_object_size(arms) + 1) * sizeof *pairs);
    json_object_foreach (arms, key, v) {
        if (!json_is_string(v))
            return complain(l, "arms", "must hold strings only");
        pairs[out->n_arms++] = (struct journal_pair){keep(l, key, strlen(key)), keep_json(l, v)};
    }
    return 0;
}

static int get_settings(const struct line *l, struct journal_served *out)
{
    const json_t *v = json_object_get(l->root, "settings");
    size_t len;
    char *text;

    if (!json_is_object(v))
        return complain(l, "settings", v == NULL ? "is missing" : "must be an object");
    len = json_dumpb(v, NULL, 0, JSON_COMPACT);
    text = arena_alloc(l->arena, len + 1);
    json_dumpb(v, text, len, JSON_COMPACT);
    out->settings = (struct str){text, len};
    return 0;
}

static int get_forced(const struct line *l, struct journal_served *out)
{
    const json_t *v = json_object_get(l->root, "forced");

    if (!json_is_boolean(v))
        return complain(l, "forced", v == NULL ? "is missing" : "must be true or false");
    out->forced = json_is_true(v);
    return 0;
}

static int get_sample(const struct line *l, struct journal_served *out)
{
    const json_t *v = json_object_get(l->root, "sample");

    if (!json_is_number(v))
        return complain(l, "sample", v == NULL ? "is missing" : "must be a number");
    out->sample = json_number_value(v);
    if (!(out->sample > 0 && out->sample <= 1))
        return complain(l, "sample", "must be above 0, at most 1");
    return 0;
}

static int get_score(const struct line *l, const json_t *v, float *out)
{
    *out = (float)json_number_value(v); /* nine digits: the float that was written */
    return json_is_number(v) && isfinite(*out) ? 0
                                               : complain(l, "scores", "must hold numbers only");
}

static int get_interest(const struct line *l, const json_t *v, int *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT16_MAX)
        return complain(l, "by", "must hold numbers of interests only");
    *out = (int)json_integer_value(v);
    return 0;
}

static int get_scores(const struct line *l, struct journal_served *out)
{
    const json_t *scores, *by;
    size_t n = 0, n_by = 0;
    float *s;
    int *b;

    if (get_array(l, "scores", &scores, &n) == -1 || get_array(l, "by", &by, &n_by) == -1)
        return -1;
    if (n != 0 && n != out->n_items)
        return complain(l, "scores", "must be as many as the items, or none");
    if (n_by != n)
        return complain(l, "by", "must be as many as the scores");
    out->scores = s = arena_alloc(l->arena, (n + 1) * sizeof *s);
    out->by = b = arena_alloc(l->arena, (n + 1) * sizeof *b);
    out->n_scores = n;
    for (size_t i = 0; i < n; i++)
        if (get_score(l, json_array_get(scores, i), &s[i]) == -1 ||
            get_interest(l, json_array_get(by, i), &b[i]) == -1)
            return -1;
    return 0;
}

/* The line as an object of our version. */
static int begin(struct line *l, const char *text, size_t len)
{
    json_error_t why;
    int64_t version = 0;

    l->root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (l->root == NULL)
        return err_set(l->err, ERR_FORMAT, "column %d: %s", why.column, why.text);
    if (!json_is_object(l->root))
        return err_set(l->err, ERR_FORMAT, "not a JSON object");
    if (get_i64(l, "v", REQUIRED, INT64_MIN, &version) == -1)
        return -1;
    return version == JOURNAL_VERSION ? 0
                                      : complain(l, "v", "is a version this program does not know");
}

static int get_served(struct line *l, struct journal_served *out)
{
    if (get_i64(l, "ts_ms", REQUIRED, 0, &out->ts_ms) == -1 ||
        get_text(l, "serve_id", REQUIRED, &out->serve_id) == -1 ||
        get_text(l, "request_id", REQUIRED, &out->request_id) == -1 ||
        get_text(l, "user_id", OPTIONAL, &out->user_id) == -1 ||
        get_text(l, "scene", OPTIONAL, &out->scene) == -1 || get_arms(l, out) == -1 ||
        get_text(l, "hash", OPTIONAL, &out->hash) == -1 || get_forced(l, out) == -1 ||
        get_i64(l, "experiments", REQUIRED, INT64_MIN, &out->experiments) == -1)
        return -1;
    if (get_text(l, "bundle", REQUIRED, &out->bundle) == -1 || get_settings(l, out) == -1 ||
        get_text(l, "source", REQUIRED, &out->source) == -1 ||
        get_texts(l, "degraded", &out->degraded, &out->n_degraded) == -1 ||
        get_count(l, "history", &out->history) == -1 ||
        get_count(l, "interests", &out->interests) == -1 || get_sample(l, out) == -1 ||
        get_count(l, "took_us", &out->took_us) == -1)
        return -1;
    if (get_texts(l, "items", &out->items, &out->n_items) == -1)
        return -1;
    return get_scores(l, out);
}

int journal_served_decode(const char *line, size_t len, struct arena *arena,
                          struct journal_served *out, struct err *err)
{
    struct line l = {NULL, arena, err};
    int result;

    memset(out, 0, sizeof *out);
    result = begin(&l, line, len) == -1 ? -1 : get_served(&l, out);
    json_decref(l.root);
    return result;
}

static int get_event(struct line *l, struct journal_event *out)
{
    out->position = -1;
    if (get_i64(l, "ts_ms", REQUIRED, 0, &out->ts_ms) == -1 ||
        get_i64(l, "received_ms", REQUIRED, 0, &out->received_ms) == -1 ||
        get_text(l, "event", REQUIRED, &out->event) == -1 ||
        get_text(l, "serve_id", OPTIONAL, &out->serve_id) == -1 ||
        get_text(l, "request_id", OPTIONAL, &out->request_id) == -1 ||
        get_text(l, "item_id", REQUIRED, &out->item_id) == -1 ||
        get_text(l, "user_id", OPTIONAL, &out->user_id) == -1 ||
        get_i64(l, "position", OPTIONAL, 0, &out->position) == -1 ||
        get_text(l, "event_id", OPTIONAL, &out->event_id) == -1)
        return -1;
    if (out->serve_id.len == 0 && out->request_id.len == 0)
        return complain(l, "serve_id", "serve_id or request_id is required");
    return 0;
}

int journal_event_decode(const char *line, size_t len, struct arena *arena,
                         struct journal_event *out, struct err *err)
{
    struct line l = {NULL, arena, err};
    int result;

    memset(out, 0, sizeof *out);
    result = begin(&l, line, len) == -1 ? -1 : get_event(&l, out);
    json_decref(l.root);
    return result;
}
