/* set.c - the bundles that are served at one moment: entries, aliases, the default; and the state
 * file they are written to. */
#include "set.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- life ---------------------------------------------------------------------- */

static void set_free(struct ref *ref)
{
    struct bundle_set *s = (struct bundle_set *)ref;

    for (size_t i = 0; i < s->n_entries; i++)
        bundle_release(s->entries[i].bundle);
    ref_release(s->beside);
    free(s->entries);
    free(s->aliases);
    free(s);
}

struct bundle_set *set_new(void)
{
    struct bundle_set *s = xcalloc(1, sizeof *s);

    ref_init(&s->ref, set_free);
    return s;
}

struct bundle_set *set_copy(const struct bundle_set *s)
{
    struct bundle_set *copy = set_new();

    for (size_t i = 0; i < s->n_entries; i++)
        set_add(copy, s->entries[i].bundle, s->entries[i].posted);
    copy->aliases = xcalloc(s->n_aliases + 1, sizeof *s->aliases);
    copy->n_aliases = s->n_aliases;
    if (s->n_aliases > 0)
        memcpy(copy->aliases, s->aliases, s->n_aliases * sizeof *s->aliases);
    memcpy(copy->def, s->def, sizeof s->def);
    copy->def_chosen = s->def_chosen;
    copy->default_bundle = s->default_bundle;
    copy->beside = ref_acquire(s->beside);
    return copy;
}

void bundle_set_release(const struct bundle_set *s)
{
    if (s != NULL)
        ref_release((struct ref *)&s->ref); /* the count is not part of what never changes */
}

/* ---- finding ------------------------------------------------------------------- */

struct bundle *set_bundle(const struct bundle_set *s, const char *name)
{
    for (size_t i = 0; i < s->n_entries; i++)
        if (strcmp(bundle_name(s->entries[i].bundle), name) == 0)
            return s->entries[i].bundle;
    return NULL;
}

static struct set_alias *find_alias(const struct bundle_set *s, const char *alias)
{
    for (size_t i = 0; i < s->n_aliases; i++)
        if (strcmp(s->aliases[i].name, alias) == 0)
            return &s->aliases[i];
    return NULL;
}

/* An alias holds no '@', a bundle's name always does. */
struct bundle *bundle_set_find(const struct bundle_set *s, const char *name)
{
    const struct set_alias *alias;

    if (s == NULL || name == NULL || name[0] == '\0')
        return s == NULL ? NULL : s->default_bundle;
    alias = find_alias(s, name);
    return alias != NULL ? alias->bundle : set_bundle(s, name);
}

size_t bundle_set_count(const struct bundle_set *s)
{
    return s == NULL ? 0 : s->n_entries;
}

struct ref *bundle_set_beside(const struct bundle_set *s)
{
    return s == NULL ? NULL : s->beside;
}

struct bundle *bundle_set_at(const struct bundle_set *s, size_t i)
{
    return s->entries[i].bundle;
}

bool set_has(const struct bundle_set *s, const struct bundle *b)
{
    for (size_t i = 0; i < s->n_entries; i++)
        if (s->entries[i].bundle == b)
            return true;
    return false;
}

/* ---- changing ------------------------------------------------------------------ */

void set_add(struct bundle_set *s, struct bundle *b, bool posted)
{
    for (size_t i = 0; i < s->n_entries; i++) {
        if (s->entries[i].bundle == b) {
            s->entries[i].posted |= posted;
            return;
        }
    }
    s->entries = xrealloc(s->entries, (s->n_entries + 1) * sizeof *s->entries);
    s->entries[s->n_entries++] = (struct set_entry){bundle_acquire(b), posted};
}

void set_remove(struct bundle_set *s, const struct bundle *b)
{
    for (size_t i = 0; i < s->n_entries; i++) {
        if (s->entries[i].bundle != b)
            continue;
        bundle_release(s->entries[i].bundle);
        memmove(&s->entries[i], &s->entries[i + 1], (--s->n_entries - i) * sizeof *s->entries);
        return;
    }
}

void set_beside(struct bundle_set *s, struct ref *take)
{
    ref_release(s->beside);
    s->beside = take;
}

int set_alias(struct bundle_set *s, const char *alias, const char *name, struct err *err)
{
    struct bundle *b = set_bundle(s, name);
    struct set_alias *a = find_alias(s, alias);

    if (!manifest_name_valid(alias))
        return err_set(err, ERR_USAGE, "\"%s\" cannot be an alias: 1 to 60 of A-Z a-z 0-9 . _ -",
                       alias);
    if (b == NULL)
        return err_set(err, ERR_NOT_FOUND,
                       "no bundle \"%s\" is loaded (an alias needs name@version)", name);
    if (a == NULL) {
        s->aliases = xrealloc(s->aliases, (s->n_aliases + 1) * sizeof *s->aliases);
        a = &s->aliases[s->n_aliases++];
        strcpy(a->name, alias); /* fits: the name is valid */
    }
    a->bundle = b;
    return set_default(s, s->def, s->def_chosen, err); /* it may go through this alias */
}

int set_default(struct bundle_set *s, const char *def, bool chosen, struct err *err)
{
    struct bundle *b = def[0] == '\0' ? NULL : bundle_set_find(s, def);

    if (def[0] != '\0' && b == NULL)
        return err_set(err, ERR_NOT_FOUND, "no bundle or alias \"%s\" is loaded", def);
    if (def != s->def)
        strcpy(s->def, def); /* fits: it is the name of something */
    s->def_chosen = chosen;
    s->default_bundle = b;
    return 0;
}

int set_check_unused(const struct bundle_set *s, const struct bundle *b, struct err *err)
{
    if (s->default_bundle == b)
        return err_set(err, ERR_CONFLICT, "%s is the default: choose another one first",
                       bundle_name(b));
    for (size_t i = 0; i < s->n_aliases; i++) {
        if (s->aliases[i].bundle == b)
            return err_set(err, ERR_CONFLICT, "the alias \"%s\" names %s: move it first",
                           s->aliases[i].name, bundle_name(b));
    }
    return 0;
}

/* ---- the state file ------------------------------------------------------------ */

#define STATE_MAX (1024 * 1024)

static int take_paths(struct state *st, const char *path, json_t *list, struct err *err)
{
    if (!json_is_array(list))
        return err_set(err, ERR_FORMAT, "%s: paths: must be a list", path);
    st->paths = xcalloc(json_array_size(list) + 1, sizeof *st->paths);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));

        if (s == NULL)
            return err_set(err, ERR_FORMAT, "%s: paths[%zu]: must be a string", path, i);
        st->paths[st->n_paths++] = s;
    }
    return 0;
}

static int take_aliases(struct state *st, const char *path, json_t *object, struct err *err)
{
    const char *alias;
    json_t *v;

    if (!json_is_object(object))
        return err_set(err, ERR_FORMAT, "%s: aliases: must be an object", path);
    st->aliases = xcalloc(2 * json_object_size(object) + 1, sizeof *st->aliases);
    json_object_foreach (object, alias, v) {
        if (!json_is_string(v))
            return err_set(err, ERR_FORMAT, "%s: aliases.%s: must be a string", path, alias);
        st->aliases[2 * st->n_aliases] = alias;
        st->aliases[2 * st->n_aliases++ + 1] = json_string_value(v);
    }
    return 0;
}

static int take_state(struct state *st, const char *path, struct err *err)
{
    const char *key;
    json_t *v;

    if (!json_is_object((json_t *)st->json))
        return err_set(err, ERR_FORMAT, "%s: must be a JSON object", path);
    json_object_foreach ((json_t *)st->json, key, v) {
        if (strcmp(key, "paths") == 0) {
            if (take_paths(st, path, v, err) == -1)
                return -1;
        } else if (strcmp(key, "aliases") == 0) {
            if (take_aliases(st, path, v, err) == -1)
                return -1;
        } else if (strcmp(key, "default") != 0) {
            return err_set(err, ERR_FORMAT, "%s: %s: unknown field", path, key);
        } else if (!json_is_null(v) && !json_is_string(v)) {
            return err_set(err, ERR_FORMAT, "%s: default: must be a string or null", path);
        }
    }
    st->def = json_string_value(json_object_get(st->json, "default"));
    return 0;
}

int state_read(struct state *st, const char *path, struct err *err)
{
    struct err why = ERR_INIT;
    struct buf text = BUF_INIT;
    json_error_t where;
    int result = -1;

    *st = (struct state){.json = NULL};
    if (path == NULL)
        return 0;
    if (file_read(path, STATE_MAX, &text, &why) == -1) {
        result = why.code == ERR_NOT_FOUND ? 0 : err_set(err, why.code, "%s", why.text);
        goto out;
    }
    st->json = json_loadb(text.len > 0 ? text.p : "", text.len, JSON_REJECT_DUPLICATES, &where);
    if (st->json == NULL) {
        err_set(err, ERR_FORMAT, "%s: line %d, column %d: %s", path, where.line, where.column,
                where.text);
        goto out;
    }
    result = take_state(st, path, err);
out:
    buf_clear(&text);
    if (result == -1)
        state_clear(st);
    return result;
}

void state_clear(struct state *st)
{
    json_decref(st->json);
    free(st->paths);
    free(st->aliases);
    *st = (struct state){.json = NULL};
}

int state_write(const char *path, const struct bundle_set *s, struct err *err)
{
    struct buf out = BUF_INIT;
    const char *comma = "";
    int result;

    buf_puts(&out, "{\"paths\": [");
    for (size_t i = 0; i < s->n_entries; i++) {
        const char *dir = bundle_dir(s->entries[i].bundle);

        if (!s->entries[i].posted)
            continue;
        buf_puts(&out, comma);
        buf_json(&out, dir, strlen(dir));
        comma = ", ";
    }
    buf_puts(&out, "],\n \"aliases\": {");
    for (size_t i = 0; i < s->n_aliases; i++)
        buf_printf(&out, "%s\"%s\": \"%s\"", i > 0 ? ", " : "", s->aliases[i].name,
                   bundle_name(s->aliases[i].bundle));
    buf_puts(&out, "},\n \"default\": ");
    if (s->def_chosen)
        buf_printf(&out, "\"%s\"}\n", s->def);
    else
        buf_puts(&out, "null}\n");
    result = file_write(path, out.p, out.len, err);
    buf_clear(&out);
    return result;
}
