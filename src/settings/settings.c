/* settings.c - the table of recall settings, and values between text and struct. */
#include "recalld/settings.h"

#include <assert.h>
#include <string.h>

static const char *const merge_words[] = {"max", "quota", "diverse", NULL};
static const char *const dynamic_words[] = {"model",    "none",          "floor_log2", "ceil_log2",
                                            "trunc_ln", "floor_log2_1p", NULL};
static const char *const fallback_words[] = {"popular", "none", NULL};

#define AT(field) offsetof(struct settings, field)

/* clang-format off */
static const struct setting table[] = {
    {"bundle", SETTING_STRING, AT(bundle), "", 0, 0, NULL,
     "bundle to answer from: name@version or an alias; empty = the default bundle"},
    {"n", SETTING_INT, AT(n), "200", 1, 10000, NULL,
     "answers when the request does not say how many"},
    {"interests", SETTING_INT, AT(interests), "0", 0, 64, NULL,
     "use at most so many interests of a user; 0 = all"},
    {"candidates", SETTING_INT, AT(candidates), "0", 0, 100000, NULL,
     "hits per interest before the merge; 0 = as many as answers are wanted"},
    {"effort", SETTING_DOUBLE, AT(effort), "1", 0.05, 16, NULL,
     "multiplier on the bundle's search parameter: more finds more and takes longer"},
    {"merge", SETTING_ENUM, AT(merge), "max", 0, 0, merge_words,
     "how the interests' hits become one list: by best score, with a quota, or diverse"},
    {"min_per_interest", SETTING_INT, AT(min_per_interest), "10", 0, 10000, NULL,
     "merge = quota: what every interest keeps at least, at most n / interests"},
    {"lambda", SETTING_DOUBLE, AT(lambda), "0.1", 0, 10, NULL,
     "merge = diverse: taken off an item's score for each chosen item of its category"},
    {"diversity_attribute", SETTING_STRING, AT(diversity_attribute), "", 0, 0, NULL,
     "merge = diverse: the attribute that is the category; empty = the bundle's first"},
    {"exclude_history", SETTING_BOOL, AT(exclude_history), "true", 0, 0, NULL,
     "leave out what the user's history holds"},
    {"exclude_exposed", SETTING_BOOL, AT(exclude_exposed), "true", 0, 0, NULL,
     "leave out what the user was shown lately (behaviour.exposed_key)"},
    {"dynamic_interests", SETTING_ENUM, AT(dynamic_interests), "model", 0, 0, dynamic_words,
     "how many interests a history of some length gets; model = as the bundle says"},
    {"similar_interests", SETTING_DOUBLE, AT(similar_interests), "0.9999", 0, 1, NULL,
     "cosine above which the later of two interests is dropped; 1 = keep all"},
    {"fallback", SETTING_ENUM, AT(fallback), "popular", 0, 0, fallback_words,
     "answer for a user without usable behaviour: the popular items, or none"},
};
/* clang-format on */

const struct setting *settings_table(size_t *n)
{
    *n = ARRAY_LEN(table);
    return table;
}

const struct setting *settings_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

void settings_default(struct settings *s)
{
    struct err err = ERR_INIT;

    memset(s, 0, sizeof *s); /* padding too: equal settings are equal bytes */
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        int ok = settings_set(s, &table[i], table[i].fallback, &err);

        assert(ok == 0);
        (void)ok;
    }
}

/* ---- one value per type -------------------------------------------------------- */

static int set_int(int *field, const struct setting *which, const char *text, struct err *err)
{
    int64_t v;

    if (!parse_i64(text, strlen(text), &v))
        return err_set(err, ERR_USAGE, "must be a whole number from %.0f to %.0f", which->min,
                       which->max);
    if ((double)v < which->min || (double)v > which->max)
        return err_set(err, ERR_USAGE, "must be from %.0f to %.0f", which->min, which->max);
    *field = (int)v;
    return 0;
}

static int set_double(double *field, const struct setting *which, const char *text, struct err *err)
{
    double v;

    if (!parse_f64(text, strlen(text), &v))
        return err_set(err, ERR_USAGE, "must be a number from %g to %g", which->min, which->max);
    if (v < which->min || v > which->max)
        return err_set(err, ERR_USAGE, "must be from %g to %g", which->min, which->max);
    *field = v;
    return 0;
}

static int set_bool(bool *field, const char *text, struct err *err)
{
    if (!parse_bool(text, strlen(text), field))
        return err_set(err, ERR_USAGE, "must be true or false");
    return 0;
}

static int refuse_word(const char *const *words, struct err *err)
{
    struct buf text = BUF_INIT;

    for (int i = 0; words[i] != NULL; i++)
        buf_printf(&text, "%s%s", i > 0 ? ", " : "", words[i]);
    err_set(err, ERR_USAGE, "must be one of %s", buf_cstr(&text));
    buf_clear(&text);
    return -1;
}

static int set_enum(int *field, const struct setting *which, const char *text, struct err *err)
{
    for (int i = 0; which->words[i] != NULL; i++) {
        if (strcmp(which->words[i], text) == 0) {
            *field = i;
            return 0;
        }
    }
    return refuse_word(which->words, err);
}

static int set_string(char field[SETTINGS_NAME_MAX], const char *text, struct err *err)
{
    size_t len = strlen(text);
    bool fits = len < SETTINGS_NAME_MAX && utf8_valid(text, len);

    for (size_t i = 0; i < len; i++)
        fits = fits && (unsigned char)text[i] >= 0x20 && text[i] != 0x7f;
    if (!fits)
        return err_set(err, ERR_USAGE, "must be at most %d bytes of printable UTF-8",
                       SETTINGS_NAME_MAX - 1);
    memset(field, 0, SETTINGS_NAME_MAX);
    memcpy(field, text, len);
    return 0;
}

int settings_set(struct settings *s, const struct setting *which, const char *text, struct err *err)
{
    void *field = (char *)s + which->offset;

    switch (which->type) {
    case SETTING_INT:
        return set_int(field, which, text, err);
    case SETTING_DOUBLE:
        return set_double(field, which, text, err);
    case SETTING_BOOL:
        return set_bool(field, text, err);
    case SETTING_ENUM:
        return set_enum(field, which, text, err);
    case SETTING_STRING:
        return set_string(field, text, err);
    }
    return err_set(err, ERR_USAGE, "cannot be set");
}

void settings_get(const struct settings *s, const struct setting *which, struct buf *out)
{
    const void *field = (const char *)s + which->offset;

    switch (which->type) {
    case SETTING_INT:
        buf_printf(out, "%d", *(const int *)field);
        break;
    case SETTING_DOUBLE:
        buf_f64(out, *(const double *)field);
        break;
    case SETTING_BOOL:
        buf_puts(out, *(const bool *)field ? "true" : "false");
        break;
    case SETTING_ENUM:
        buf_puts(out, which->words[*(const int *)field]);
        break;
    case SETTING_STRING:
        buf_puts(out, field);
        break;
    }
}

const char *settings_word(const char *name, int value)
{
    const struct setting *which = settings_find(name);

    assert(which != NULL && which->type == SETTING_ENUM);
    for (int i = 0; which->words[i] != NULL; i++)
        if (i == value)
            return which->words[i];
    return "?";
}
