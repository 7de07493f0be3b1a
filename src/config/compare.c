/* compare.c - which keys differ between two configurations: what a reload asks. */
#include "options.h"

#include <stdio.h>
#include <string.h>

static bool same_value(const struct config *a, const struct config *b, const struct option *o)
{
    const char *x = (const char *)a + o->offset, *y = (const char *)b + o->offset;

    if (o->type == OPT_STRING)
        return strcmp(*(char *const *)x, *(char *const *)y) == 0;
    return memcmp(x, y, o->width) == 0;
}

bool config_same_section(const struct config *a, const struct config *b, const char *section)
{
    size_t len = strlen(section), n;
    const struct option *options = options_table(&n);

    for (size_t i = 0; i < n; i++)
        if (strncmp(options[i].name, section, len) == 0 && options[i].name[len] == '.' &&
            !same_value(a, b, &options[i]))
            return false;
    return true;
}

int config_frozen_changes(const struct config *a, const struct config *b, struct buf *out)
{
    size_t n_options;
    const struct option *options = options_table(&n_options);
    int n = 0;

    for (size_t i = 0; i < n_options; i++)
        if (options[i].reload == FROZEN && !same_value(a, b, &options[i]))
            buf_printf(out, "%s%s", n++ > 0 ? ", " : "", options[i].name);
    return n;
}
