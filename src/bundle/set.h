/* set.h - the bundles that are served at one moment, and the state file that remembers what clients
 * changed. Private to bundle/. */
#ifndef BUNDLE_SET_H
#define BUNDLE_SET_H

#include "manifest.h"

struct set_entry {
    struct bundle *bundle; /* counted */
    bool posted;           /* its directory stands in the state file */
};

struct set_alias {
    char name[MANIFEST_NAME_MAX + 1];
    struct bundle *bundle; /* one of the entries */
};

/* Built by one thread, immutable once published. */
struct bundle_set {
    struct ref ref;
    struct set_entry *entries;
    size_t n_entries;
    struct set_alias *aliases;
    size_t n_aliases;
    char def[BUNDLE_NAME_MAX];     /* the default as chosen: name@version, an alias, or "" */
    bool def_chosen;               /* by a client, so it stands in the state file */
    struct bundle *default_bundle; /* what `def` names, or NULL */
    struct ref *beside;            /* counted; or NULL */
};

struct bundle_set *set_new(void);
/* A set of the same content that may be changed. */
struct bundle_set *set_copy(const struct bundle_set *s);
/* Counts a reference of its own. A bundle that is there already only becomes `posted` too. */
void set_add(struct bundle_set *s, struct bundle *b, bool posted);
void set_remove(struct bundle_set *s, const struct bundle *b);
bool set_has(const struct bundle_set *s, const struct bundle *b);
void set_beside(struct bundle_set *s, struct ref *take); /* owns it; NULL allowed */
/* By name@version only; NULL when there is none. */
struct bundle *set_bundle(const struct bundle_set *s, const char *name);
/* NOT_FOUND, and USAGE for what cannot be an alias. */
int set_alias(struct bundle_set *s, const char *alias, const char *name, struct err *err)
    WARN_UNUSED;
/* `def` may be name@version, an alias or "" (none). NOT_FOUND. */
int set_default(struct bundle_set *s, const char *def, bool chosen, struct err *err) WARN_UNUSED;
/* CONFLICT when the default or an alias names it. */
int set_check_unused(const struct bundle_set *s, const struct bundle *b, struct err *err)
    WARN_UNUSED;

/* ---- the state file: {"paths": [...], "aliases": {alias: name@version}, "default": name or null}
 * ---- */

struct state {
    void *json; /* owner of the strings */
    const char **paths;
    size_t n_paths;
    const char **aliases; /* alias, name, alias, name ... */
    size_t n_aliases;     /* pairs */
    const char *def;      /* NULL = none chosen */
};
/* A file that does not exist is an empty state. FORMAT names the file and the field. */
int state_read(struct state *st, const char *path, struct err *err) WARN_UNUSED;
void state_clear(struct state *st);
int state_write(const char *path, const struct bundle_set *s, struct err *err) WARN_UNUSED;

#endif
