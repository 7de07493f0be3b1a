/* element.c - one stored element to the item id in it, and back. Bytes from Redis are somebody
 * else's: nothing is believed, and a bad element costs itself only. */
#include "format.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ELEMENT_BYTES_MAX ((size_t)64 << 10)
#define ID_BYTES_MAX 256
#define INTEGER_TEXT_MAX 24

enum form { FORM_ID, FORM_ID_TS, FORM_JSON };

struct behaviour_element {
    enum form form;
    char *field; /* FORM_JSON */
};

struct behaviour_element *behaviour_element_new(const char *form, struct err *err)
{
    struct behaviour_element *e;
    enum form which = FORM_JSON;

    if (strcmp(form, "id") == 0) {
        which = FORM_ID;
    } else if (strcmp(form, "id:ts") == 0) {
        which = FORM_ID_TS;
    } else if (strncmp(form, "json:", 5) != 0 || form[5] == '\0' ||
               !utf8_valid(form, strlen(form))) {
        err_set(err, ERR_USAGE, "behaviour.element: must be id, id:ts or json:FIELD, not \"%s\"",
                form);
        return NULL;
    }
    e = xcalloc(1, sizeof *e);
    e->form = which;
    if (which == FORM_JSON)
        e->field = xstrdup(form + 5);
    return e;
}

void behaviour_element_free(struct behaviour_element *e)
{
    if (e == NULL)
        return;
    free(e->field);
    free(e);
}

bool behaviour_id_valid(struct str id)
{
    return id.len > 0 && id.len <= ID_BYTES_MAX && utf8_valid(id.p, id.len);
}

/* ---- decoding ------------------------------------------------------------------ */

/* Certainly a number, as times are. */
static bool all_digits(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return len > 0 && len < 20;
}

static bool before_last_colon(struct str element, struct str *id)
{
    const char *colon = memrchr(element.p, ':', element.len);
    double ts;

    if (colon == NULL)
        return false;
    *id = (struct str){element.p, (size_t)(colon - element.p)};
    return all_digits(colon + 1, element.len - id->len - 1) ||
           parse_f64(colon + 1, element.len - id->len - 1, &ts);
}

static bool take_value(const json_t *value, struct arena *scratch, struct str *id)
{
    char *text;

    if (json_is_integer(value)) {
        text = arena_alloc(scratch, INTEGER_TEXT_MAX);
        id->len = (size_t)snprintf(text, INTEGER_TEXT_MAX, "%" JSON_INTEGER_FORMAT,
                                   json_integer_value(value));
    } else if (json_is_string(value)) {
        id->len = json_string_length(value);
        text = arena_alloc(scratch, id->len);
        memcpy(text, json_string_value(value), id->len);
    } else {
        return false;
    }
    id->p = text;
    return true;
}

/* jansson bounds the depth itself (2,048), and the length of the element bounds the rest. */
static bool json_field(const char *field, struct str element, struct arena *scratch, struct str *id)
{
    json_error_t why;
    json_t *object;
    bool found;

    if (flat_field((struct str){field, strlen(field)}, element, id))
        return true;
    object = json_loadb(element.p, element.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    found = take_value(json_object_get(object, field), scratch, id);
    json_decref(object);
    return found;
}

bool behaviour_element_decode(const struct behaviour_element *e, struct str element,
                              struct arena *scratch, struct str *id)
{
    struct str found = element;

    if (element.len == 0 || element.len > ELEMENT_BYTES_MAX)
        return false;
    if (e->form == FORM_ID_TS && !before_last_colon(element, &found))
        return false;
    if (e->form == FORM_JSON && !json_field(e->field, element, scratch, &found))
        return false;
    if (!behaviour_id_valid(found))
        return false;
    *id = found;
    return true;
}

/* ---- encoding ------------------------------------------------------------------ */

void behaviour_element_encode(const struct behaviour_element *e, struct str id, int64_t ts_ms,
                              struct buf *out)
{
    if (e->form == FORM_JSON) {
        buf_putc(out, '{');
        buf_json(out, e->field, strlen(e->field));
        buf_putc(out, ':');
        buf_json(out, id.p, id.len);
        if (strcmp(e->field, "ts") != 0)
            buf_printf(out, ",\"ts\":%lld", (long long)ts_ms);
        buf_putc(out, '}');
        return;
    }
    buf_put(out, id.p, id.len);
    if (e->form == FORM_ID_TS)
        buf_printf(out, ":%lld", (long long)ts_ms);
}
