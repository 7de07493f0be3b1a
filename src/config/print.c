/* print.c - the annotated recalld.ini: the table as people read it. */
#include "options.h"

#include <stdio.h>
#include <string.h>

static void put_allowed(struct buf *out, const struct key *key)
{
    const struct option *o = key->option;
    const struct setting *s = key->setting;

    if (o != NULL && o->type == OPT_WORD)
        words_put(out, o->words);
    else if (o != NULL && o->type == OPT_SHARE)
        buf_puts(out, "above 0, at most 1");
    else if (o != NULL && o->type != OPT_STRING && o->max == INT64_MAX)
        buf_printf(out, "%lld or more", (long long)o->min);
    else if (o != NULL && o->type != OPT_STRING)
        buf_printf(out, "from %lld to %lld", (long long)o->min, (long long)o->max);
    else if (s != NULL && s->type == SETTING_ENUM)
        words_put(out, s->words);
    else if (s != NULL && s->type == SETTING_BOOL)
        buf_puts(out, "true, false");
    else if (s != NULL && s->type != SETTING_STRING)
        buf_printf(out, "from %g to %g", s->min, s->max);
    else
        return;
    buf_puts(out, "; ");
}

static void put_key(struct buf *out, const struct key *key)
{
    const char *word = strchr(key->name, '.') + 1, *value = key_default(key);

    buf_printf(out, "\n# %s\n# (", key_help(key));
    put_allowed(out, key);
    buf_puts(out, key_reload(key) == LIVE ? "SIGHUP takes a change" : "a change needs a restart");
    buf_printf(out, ")\n%s =%s%s\n", word, value[0] != '\0' ? " " : "", value);
}

void config_print(struct buf *out)
{
    struct keys keys;

    buf_puts(out,
             "# recalld.ini - every key with its default, as recalld --print-config writes it.\n"
             "#\n"
             "# The environment (RECALLD_SECTION_KEY) is stronger than this file, and\n"
             "# --section.key=value on the command line is stronger still. A value runs to the\n"
             "# end of its line. Lines that start with # or ; are comments.\n");
    keys_init(&keys);
    for (size_t i = 0; i < keys.n; i++) {
        const struct key *key = &keys.list[i];

        if (i == 0 || !key_same_section(key, key - 1))
            buf_printf(out, "\n[%.*s]\n", (int)strcspn(key->name, "."), key->name);
        put_key(out, key);
    }
}
