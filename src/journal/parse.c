/* parse.c - an event as clients send it, checked field by field.
 *
 * One table row per field; what is not in the table is refused by name. */
#include <jansson.h>
#include <stdio.h>

#include "recalld/journal.h"

#define WORD_MAX 64
#define ID_MAX 256
#define POSITION_MAX 10000000
/* A time before 1973 was not meant in milliseconds; a clock may go wrong by a day. */
#define TS_MIN INT64_C(100000000000)
#define TS_AHEAD INT64_C(86400000)

struct parse {
    struct arena *arena;
    int64_t now_ms;
    struct journal_event *out;
};

/* ---- kinds of values ----------------------------------------------------------------------- */

static const char *read_word(const json_t *v, struct str *out)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
    const char *s = json_string_value(v);

    if (s == NULL || json_string_length(v) == 0 || json_string_length(v) > WORD_MAX ||
        strspn(s, allowed) != json_string_length(v))
        return "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -";
    *out = (struct str){s, json_string_length(v)};
    return NULL;
}

/* A string, or an integer, which stands for its decimal text. */
static const char *read_id(const struct parse *p, const json_t *v, struct str *out)
{
    if (json_is_integer(v)) {
        char text[24];
        int len = snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v));

        *out = (struct str){arena_strndup(p->arena, text, (size_t)len), (size_t)len};
        return NULL;
    }
    if (!json_is_string(v))
        return "must be a string or an integer";
    *out = (struct str){json_string_value(v), json_string_length(v)};
    if (out->len == 0)
        return "must not be empty";
    return out->len > ID_MAX ? "is longer than 256 bytes" : NULL;
}

/* ---- fields -------------------------------------------------------------------------------- */

static const char *field_event(struct parse *p, const json_t *v)
{
    return read_word(v, &p->out->event);
}

static const char *field_serve_id(struct parse *p, const json_t *v)
{
    return read_word(v, &p->out->serve_id);
}

static const char *field_request_id(struct parse *p, const json_t *v)
{
    return read_word(v, &p->out->request_id);
}

static const char *field_item_id(struct parse *p, const json_t *v)
{
    return read_id(p, v, &p->out->item_id);
}

static const char *field_user_id(struct parse *p, const json_t *v)
{
    return read_id(p, v, &p->out->user_id);
}

static const char *field_event_id(struct parse *p, const json_t *v)
{
    return read_id(p, v, &p->out->event_id);
}

static const char *field_position(struct parse *p, const json_t *v)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > POSITION_MAX)
        return "must be an integer from 0 to 10000000";
    p->out->position = json_integer_value(v);
    return NULL;
}

static const char *field_ts_ms(struct parse *p, const json_t *v)
{
    if (!json_is_integer(v) || json_integer_value(v) < TS_MIN)
        return "must be milliseconds since 1970";
    if (json_integer_value(v) > p->now_ms + TS_AHEAD)
        return "is more than a day ahead";
    p->out->ts_ms = json_integer_value(v);
    return NULL;
}

static const struct field {
    const char *name;
    const char *(*read)(struct parse *p, const json_t *v); /* NULL, or what is wrong */
} fields[] = {
    {"event", field_event},       {"serve_id", field_serve_id}, {"request_id", field_request_id},
    {"item_id", field_item_id},   {"user_id", field_user_id},   {"position", field_position},
    {"event_id", field_event_id}, {"ts_ms", field_ts_ms},
};

static const struct field *find_field(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int require(const struct journal_event *e, struct err *err)
{
    if (e->event.len == 0)
        return err_set(err, ERR_USAGE, "event: is required");
    if (e->item_id.len == 0)
        return err_set(err, ERR_USAGE, "item_id: is required");
    if (e->serve_id.len == 0 && e->request_id.len == 0)
        return err_set(err, ERR_USAGE, "serve_id: serve_id or request_id is required");
    return 0;
}

int journal_event_parse(json_t *v, int64_t now_ms, struct arena *arena, struct journal_event *out,
                        struct err *err)
{
    struct parse p = {.arena = arena, .now_ms = now_ms};
    const char *key;
    json_t *value;

    *out = (struct journal_event){.ts_ms = now_ms, .received_ms = now_ms, .position = -1};
    p.out = out;
    if (!json_is_object(v))
        return err_set(err, ERR_USAGE, "body: an event must be a JSON object");
    json_object_foreach (v, key, value) {
        const struct field *f = find_field(key);
        const char *why = f == NULL ? "is not a field of an event" : f->read(&p, value);

        if (why != NULL)
            return err_set(err, ERR_USAGE, "%.64s: %s", key[0] != '\0' ? key : "\"\"", why);
    }
    return require(out, err);
}
