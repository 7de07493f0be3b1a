/* fuzz_config.c - recalld.ini.
 *
 * What is accepted keeps the bounds of the option table. Written down key by key it gives the same
 * configuration, whether the file, the environment or the command line says it. */
#include "../../src/config/options.h"
#include "fuzz.h"

#include <ctype.h>
#include <stdlib.h>

#define NAME "fuzz.ini"

/* ---- one value as text --------------------------------------------------------------------- */

static int64_t number_of(const void *field, size_t width)
{
    if (width == sizeof(bool))
        return *(const bool *)field;
    return width == sizeof(int) ? *(const int *)field : *(const int64_t *)field;
}

static void put_value(struct buf *out, const struct config *c, const struct key *key)
{
    const struct option *o = key->option;
    const void *field;

    if (o == NULL) {
        settings_get(&c->recall, key->setting, out);
        return;
    }
    field = (const char *)c + o->offset;
    if (o->type == OPT_STRING) {
        buf_puts(out, *(char *const *)field);
        return;
    }
    if (o->type == OPT_WORD) {
        buf_puts(out, o->words[number_of(field, o->width)]);
        return;
    }
    if (o->type == OPT_SHARE) {
        assert(*(const double *)field > 0 && *(const double *)field <= 1);
        buf_f64(out, *(const double *)field);
        return;
    }
    assert(number_of(field, o->width) >= o->min && number_of(field, o->width) <= o->max);
    buf_printf(out, "%lld", (long long)number_of(field, o->width));
}

/* ---- all keys, as each source wants them ------------------------------------------------------
 */

static void put_file(struct buf *out, const struct config *c, const struct keys *keys)
{
    for (size_t i = 0; i < keys->n; i++) {
        const struct key *key = &keys->list[i];

        if (i == 0 || !key_same_section(key, key - 1))
            buf_printf(out, "[%.*s]\n", (int)strcspn(key->name, "."), key->name);
        buf_printf(out, "%s = ", strchr(key->name, '.') + 1);
        put_value(out, c, key);
        buf_putc(out, '\n');
    }
}

/* "RECALLD_SECTION_KEY=value"; caller frees. */
static char *variable(const struct config *c, const struct key *key)
{
    struct buf b = BUF_INIT;

    buf_puts(&b, "RECALLD_");
    for (const char *p = key->name; *p != '\0'; p++)
        buf_putc(&b, (char)(*p == '.' ? '_' : toupper(*p)));
    buf_putc(&b, '=');
    put_value(&b, c, key);
    buf_putc(&b, '\0');
    return b.p;
}

static char *argument(const struct config *c, const struct key *key)
{
    struct buf b = BUF_INIT;

    buf_printf(&b, "--%s=", key->name);
    put_value(&b, c, key);
    buf_putc(&b, '\0');
    return b.p;
}

/* ---- the target --------------------------------------------------------------------------------
 */

/* Owns `again`. */
static void assert_same(const struct config *c, struct config *again, const struct buf *text,
                        const struct keys *keys)
{
    struct buf second = BUF_INIT;

    assert(again != NULL);
    put_file(&second, again, keys);
    assert_same_text(text, &second);
    assert(memcmp(&c->recall, &again->recall, sizeof c->recall) == 0);
    buf_clear(&second);
    config_free(again);
}

static void assert_sources_agree(const struct config *c)
{
    struct keys keys;
    struct buf text = BUF_INIT;
    struct err err = ERR_INIT;
    char *env[KEYS_MAX + 1], *args[KEYS_MAX];

    keys_init(&keys);
    put_file(&text, c, &keys);
    for (size_t i = 0; i < keys.n; i++) {
        env[i] = variable(c, &keys.list[i]);
        args[i] = argument(c, &keys.list[i]);
    }
    env[keys.n] = NULL;
    assert_same(c, config_parse(NAME, text.p, text.len, NULL, NULL, 0, &err), &text, &keys);
    assert_same(c, config_parse(NAME, NULL, 0, env, NULL, 0, &err), &text, &keys);
    assert_same(c, config_parse(NAME, NULL, 0, NULL, (const char *const *)args, (int)keys.n, &err),
                &text, &keys);
    for (size_t i = 0; i < keys.n; i++) {
        free(env[i]);
        free(args[i]);
    }
    buf_clear(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct err err = ERR_INIT;
    struct config *c = config_parse(NAME, (const char *)bytes, len, NULL, NULL, 0, &err);

    if (c == NULL) {
        assert(err.code == ERR_USAGE || err.code == ERR_FORMAT);
        assert_refusal(&err, strncmp(err.text, NAME, strlen(NAME)) == 0 ? NAME ":" : "recall.n ");
        return 0;
    }
    assert_sources_agree(c);
    config_free(c);
    return 0;
}
