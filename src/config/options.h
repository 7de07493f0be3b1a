/* options.h - the table of options, and keys: options and recall settings in one list.
 *
 * A row's default is text and goes through the same parser as a value from a file. The rows of the
 * recall settings (settings.h) join the list as further keys of the section [recall]. Private to
 * config/. */
#ifndef CONFIG_OPTIONS_H
#define CONFIG_OPTIONS_H

#include "recalld/config.h"

#define NAME_MAX_LEN 64 /* of "section.key" and of a variable; longer names are unknown anyway */
#define KEYS_MAX 96

enum option_type {
    OPT_INT,
    OPT_BYTES,  /* a whole number, K, M or G behind it multiplies */
    OPT_SHARE,  /* a number above 0 and up to 1 */
    OPT_WORD,   /* one of `words`, stored as its position: an enum, or a bool for two words */
    OPT_STRING, /* char *, owned by the config */
};

/* What SIGHUP does about a changed value. */
enum option_reload { FROZEN, LIVE };

struct option {
    const char *name;
    enum option_type type;
    size_t offset, width; /* of the field in struct config */
    const char *fallback;
    int64_t min, max;
    enum option_reload reload;
    const char *help;
    const char *const *words;
    const char *(*complaint)(const char *text); /* about a string's form; NULL when it is fine */
};

const struct option *options_table(size_t *n);
void options_free_strings(struct config *c);

struct key {
    char name[NAME_MAX_LEN]; /* section.key */
    const struct option *option;
    const struct setting *setting; /* exactly one of the two is set */
};

struct keys {
    struct key list[KEYS_MAX];
    size_t n;
};

void keys_init(struct keys *keys); /* in the order of the file */
void keys_set_defaults(struct config *c, const struct keys *keys);
const struct key *key_find(const struct keys *keys, const char *name); /* NULL when unknown */
const char *key_default(const struct key *key);
const char *key_help(const struct key *key);
enum option_reload key_reload(const struct key *key);
/* True when both stand in one section. */
bool key_same_section(const struct key *a, const struct key *b);
/* Errors say only what is allowed; whoever read the value puts ahead where it stands. */
int key_set(struct config *c, const struct key *key, const char *text, struct err *err) WARN_UNUSED;
/* "max, quota, diverse" */
void words_put(struct buf *out, const char *const *words);

#endif
