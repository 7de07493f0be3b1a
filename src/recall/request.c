/* request.c - the body of POST /recall into a call.
 *
 * One table row per field. What is not in the table is refused by name, so a typo never silently
 * changes an answer. Strings stay where jansson put them and live as long as the call. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"

#define USER_ID_MAX 256
#define SCENE_MAX 64
#define HISTORY_MAX 10000
#define EXCLUDE_MAX 10000
#define FILTER_VALUES_MAX 1000
#define DEADLINE_MAX_MS 60000

/* ---- memory ------------------------------------------------------------------------- */

/* While a thread parses a body, jansson's memory comes from the call's arena and goes with it; what
 * jansson frees meanwhile stays where it is. All other JSON is malloc's. NULL: not parsing. */
static _Thread_local struct arena *parsing_into;

static void *json_memory(size_t size)
{
    return parsing_into != NULL ? arena_alloc(parsing_into, size) : malloc(size);
}

static void json_memory_free(void *p)
{
    if (parsing_into == NULL)
        free(p);
}

/* Before main, so before any thread: pointers from malloc and from here may be mixed, but jansson
 * reads these two without a lock. */
static __attribute__((constructor)) void install_json_memory(void)
{
    json_set_alloc_funcs(json_memory, json_memory_free);
}

/* The body as JSON in the call's arena: nobody frees it. */
static json_t *parse_body(struct recall_call *c, json_error_t *why)
{
    const char *body = c->body.p == NULL ? "" : c->body.p;
    json_t *v;

    parsing_into = &c->arena;
    v = json_loadb(body, c->body.len, JSON_REJECT_DUPLICATES, why);
    parsing_into = NULL;
    return v;
}

/* ---- small parts ------------------------------------------------------------------ */

/* How many bytes of `s`, at most `most`, are whole characters. */
static int whole(const char *s, size_t most)
{
    size_t len = strnlen(s, most);

    while (len > 0 && ((unsigned char)s[len] & 0xc0) == 0x80)
        len--;
    return (int)len;
}

static int bad(struct recall_call *c, struct err *err, const char *field, const char *why)
{
    snprintf(c->field, sizeof c->field, "%.*s", whole(field, CALL_FIELD_MAX - 1), field);
    return err_set(err, ERR_USAGE, "%s: %s", field, why);
}

static int bad_at(struct recall_call *c, struct err *err, const char *field, size_t i,
                  const char *why)
{
    char name[CALL_FIELD_MAX];

    snprintf(name, sizeof name, "%s[%zu]", field, i);
    return bad(c, err, name, why);
}

/* An id: a non-empty string, or an integer, which becomes its decimal text. */
static const char *read_id(struct recall_call *c, json_t *v, size_t most, struct str *out)
{
    if (json_is_integer(v)) {
        char text[24];
        int len = snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v));

        out->p = arena_strndup(&c->arena, text, (size_t)len);
        out->len = (size_t)len;
        return NULL;
    }
    if (!json_is_string(v))
        return "must be a string or an integer";
    out->p = json_string_value(v);
    out->len = json_string_length(v);
    if (out->len == 0)
        return "must not be empty";
    if (out->len > most)
        return "is longer than 256 bytes";
    return NULL;
}

static int read_ids(struct recall_call *c, const char *field, json_t *v, size_t most,
                    struct str **out, size_t *n, struct err *err)
{
    char why[64];

    if (!json_is_array(v))
        return bad(c, err, field, "must be a list of ids");
    *n = json_array_size(v);
    if (*n > most) {
        snprintf(why, sizeof why, "has more than %zu ids", most);
        return bad(c, err, field, why);
    }
    *out = arena_alloc(&c->arena, (*n + 1) * sizeof **out);
    for (size_t i = 0; i < *n; i++) {
        const char *reason = read_id(c, json_array_get(v, i), ITEMS_ID_MAX, &(*out)[i]);

        if (reason != NULL)
            return bad_at(c, err, field, i, reason);
    }
    return 0;
}

static int read_bounded(struct recall_call *c, const char *field, json_t *v, int most, int *out,
                        struct err *err)
{
    char why[64];

    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > most) {
        snprintf(why, sizeof why, "must be an integer from 1 to %d", most);
        return bad(c, err, field, why);
    }
    *out = (int)json_integer_value(v);
    return 0;
}

static int read_bool(struct recall_call *c, const char *field, json_t *v, bool *out,
                     struct err *err)
{
    if (!json_is_boolean(v))
        return bad(c, err, field, "must be true or false");
    *out = json_is_true(v);
    return 0;
}

/* ---- fields ------------------------------------------------------------------------ */

static int field_user_id(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    const char *why = read_id(c, v, USER_ID_MAX, &c->user_id);

    (void)n_max;
    return why == NULL ? 0 : bad(c, err, "user_id", why);
}

static int field_n(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    return read_bounded(c, "n", v, n_max, &c->n, err);
}

static int field_deadline(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    return read_bounded(c, "deadline_ms", v, DEADLINE_MAX_MS, &c->deadline_ms, err);
}

static int field_scene(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) > SCENE_MAX)
        return bad(c, err, "scene", "must be a string of 1 to 64 bytes");
    c->scene = (struct str){json_string_value(v), json_string_length(v)};
    return 0;
}

static int field_request_id(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
    const char *s = json_string_value(v);

    (void)n_max;
    if (s == NULL || json_string_length(v) == 0 || json_string_length(v) > REQUEST_ID_MAX ||
        strspn(s, allowed) != json_string_length(v))
        return bad(c, err, "request_id", "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -");
    memcpy(c->request_id, s, json_string_length(v) + 1);
    return 0;
}

static int field_history(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    c->has_history = true;
    return read_ids(c, "history", v, HISTORY_MAX, &c->history, &c->n_history, err);
}

static int field_exclude(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    return read_ids(c, "exclude", v, EXCLUDE_MAX, &c->exclude, &c->n_exclude, err);
}

/* One value of a filter: like an id, since "7" and 7 are meant alike; but it may be empty. */
static int filter_value(struct recall_call *c, const char *field, json_t *v, struct str *out,
                        struct err *err)
{
    if (json_is_string(v)) {
        *out = (struct str){json_string_value(v), json_string_length(v)};
        return 0;
    }
    if (json_is_integer(v) && read_id(c, v, ITEMS_ID_MAX, out) == NULL)
        return 0;
    return bad(c, err, field, "must be a string, an integer or a list of them");
}

static int field_filter(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    const char *key;
    json_t *values;

    (void)n_max;
    if (!json_is_object(v))
        return bad(c, err, "filter", "must be an object of attribute: [values]");
    if (json_object_size(v) > ITEMS_ATTRIBUTES_MAX)
        return bad(c, err, "filter", "has more attributes than a bundle can");
    c->filters = arena_alloc(&c->arena, (json_object_size(v) + 1) * sizeof *c->filters);
    json_object_foreach (v, key, values) {
        struct call_filter *f = &c->filters[c->n_filters++];
        size_t n = json_is_array(values) ? json_array_size(values) : 1;
        char name[CALL_FIELD_MAX];

        snprintf(name, sizeof name, "filter.%.*s", whole(key, sizeof name - sizeof "filter."), key);
        if (n > FILTER_VALUES_MAX)
            return bad(c, err, name, "has more than 1000 values");
        f->attribute = (struct str){key, strlen(key)};
        f->values = arena_alloc(&c->arena, (n + 1) * sizeof *f->values);
        f->n_values = n;
        for (size_t i = 0; i < n; i++)
            if (filter_value(c, name, json_is_array(values) ? json_array_get(values, i) : values,
                             &f->values[i], err) == -1)
                return -1;
    }
    return 0;
}

static int field_explain(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    return read_bool(c, "explain", v, &c->explain, err);
}

static int field_vectors(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    return read_bool(c, "vectors", v, &c->vectors, err);
}

static int field_context(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    c->context = v;
    return json_is_object(v) ? 0 : bad(c, err, "context", "must be an object");
}

/* Layers and arms are looked up by the worker, who knows the experiments that hold. */
static int field_arms(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    c->arms = v;
    return json_is_object(v) ? 0 : bad(c, err, "arms", "must be an object of layer: arm");
}

/* Named in the contract, served by later versions: an empty object asks for nothing. */
static int field_features(struct recall_call *c, json_t *v, int n_max, struct err *err)
{
    (void)n_max;
    if (!json_is_object(v))
        return bad(c, err, "features", "must be an object");
    return json_object_size(v) == 0 ? 0
                                    : bad(c, err, "features", "is not supported by this version");
}

static const struct field {
    const char *name;
    int (*read)(struct recall_call *c, json_t *v, int n_max, struct err *err);
} fields[] = {
    {"user_id", field_user_id},   {"n", field_n},
    {"scene", field_scene},       {"request_id", field_request_id},
    {"history", field_history},   {"deadline_ms", field_deadline},
    {"exclude", field_exclude},   {"filter", field_filter},
    {"features", field_features}, {"arms", field_arms},
    {"explain", field_explain},   {"vectors", field_vectors},
    {"context", field_context},
};

static const struct field *find_field(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

/* ---- the whole ----------------------------------------------------------------------- */

int request_parse(struct recall_call *c, int n_max, struct err *err)
{
    json_error_t why;
    const char *key;
    json_t *value;

    c->json = parse_body(c, &why);
    if (c->json == NULL)
        return err_set(err, ERR_USAGE, "body: line %d, column %d: %s", why.line, why.column,
                       why.text);
    if (!json_is_object(c->json))
        return err_set(err, ERR_USAGE, "body: must be a JSON object");
    /* First, so that even a refusal carries the client's own id. */
    value = json_object_get(c->json, "request_id");
    if (value != NULL && field_request_id(c, value, n_max, err) == -1)
        return -1;
    json_object_foreach (c->json, key, value) {
        const struct field *f = find_field(key);

        if (f == NULL)
            return bad(c, err, key[0] != '\0' ? key : "\"\"", "is not a field of this request");
        if (f->read(c, value, n_max, err) == -1)
            return -1;
    }
    if (c->user_id.len == 0 && !c->has_history)
        return bad(c, err, "user_id", "user_id or history is required");
    return 0;
}
