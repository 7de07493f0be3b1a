/* options.c - the table of options, what their values may be, and one way to set a value. */
#include "options.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ----------------------------------------------------------------- */

static const char *const type_words[] = {"list", "zset", NULL};
static const char *const order_words[] = {"newest_first", "oldest_first", NULL};
static const char *const level_words[] = {"debug", "info", "warn", "error", NULL};
static const char *const format_words[] = {"text", "json", NULL};
static const char *const compress_words[] = {"none", "gzip", "zstd", NULL};
static const char *const user_words[] = {"plain", "hmac", NULL};
static const char *const verify_words[] = {"hash", "size", NULL};
static const char *const bool_words[] = {"false", "true", NULL};

static const char *listen_complaint(const char *text);
static const char *redis_complaint(const char *text);
static const char *key_complaint(const char *text);
static const char *exposed_complaint(const char *text);
static const char *element_complaint(const char *text);

#define AT(field) offsetof(struct config, field), sizeof(((struct config *)NULL)->field)

/* clang-format off */
static const struct option options[] = {
    {"http.listen", OPT_STRING, AT(http_listen), "127.0.0.1:8080", 0, 0, FROZEN,
     "host:port to listen on; [address]:port for IPv6; port 0 = any free one",
     NULL, listen_complaint},
    {"http.port_file", OPT_STRING, AT(http_port_file), "", 0, 0, FROZEN,
     "file that receives the port once the daemon listens; empty = none", NULL, NULL},
    {"http.loops", OPT_INT, AT(http_loops), "0", 0, 64, FROZEN,
     "connections are dealt out to so many loops, each run by one thread at a time; 0 = one, and "
     "one more for every four workers", NULL, NULL},
    {"http.max_body", OPT_BYTES, AT(http_max_body), "1M", 1024, 67108864, FROZEN,
     "largest request body in bytes", NULL, NULL},
    {"http.connections", OPT_INT, AT(http_connections), "4096", 1, 65536, FROZEN,
     "open connections at most", NULL, NULL},
    {"http.drain_ms", OPT_INT, AT(http_drain_ms), "0", 0, 600000, LIVE,
     "milliseconds between /readyz turning 503 and the listener closing, for load balancers",
     NULL, NULL},
    {"http.idle_s", OPT_INT, AT(http_idle_s), "60", 1, 3600, FROZEN,
     "seconds after which an idle connection, or one whose request is still incomplete, is closed",
     NULL, NULL},

    {"workers.count", OPT_INT, AT(workers_count), "0", 0, 256, FROZEN,
     "compute threads; 0 = one per core", NULL, NULL},
    {"workers.batch", OPT_INT, AT(workers_batch), "8", 1, 64, FROZEN,
     "requests a worker takes at once, at most; it never waits for a batch to fill", NULL, NULL},
    {"workers.queue", OPT_INT, AT(workers_queue), "256", 1, 65536, FROZEN,
     "requests that may wait for a worker; more are answered 503", NULL, NULL},
    {"workers.effort_control", OPT_WORD, AT(workers_effort_control), "true", 0, 0, FROZEN,
     "under load search with less effort, then for fewer interests, before refusing requests",
     bool_words, NULL},

    {"recall.deadline_ms", OPT_INT, AT(recall_deadline_ms), "50", 1, 60000, LIVE,
     "milliseconds a request may take when it does not say", NULL, NULL},
    {"recall.n_max", OPT_INT, AT(recall_n_max), "1000", 1, 10000, LIVE,
     "answers a request may ask for, at most", NULL, NULL},

    {"redis.address", OPT_STRING, AT(redis_address), "", 0, 0, LIVE,
     "host:port or the path of a unix socket; empty = no Redis, only requests with a history",
     NULL, redis_complaint},
    {"redis.user", OPT_STRING, AT(redis_user), "", 0, 0, LIVE,
     "user name for AUTH; empty = the default user", NULL, NULL},
    {"redis.password_file", OPT_STRING, AT(redis_password_file), "", 0, 0, LIVE,
     "file whose first line is the password; empty = no AUTH", NULL, NULL},
    {"redis.db", OPT_INT, AT(redis_db), "0", 0, 1000000, LIVE,
     "database number", NULL, NULL},
    {"redis.connections", OPT_INT, AT(redis_connections), "2", 1, 64, LIVE,
     "connections; each has a thread that connects and heals it", NULL, NULL},
    {"redis.connect_ms", OPT_INT, AT(redis_connect_ms), "200", 1, 10000, LIVE,
     "milliseconds to connect in", NULL, NULL},
    {"redis.timeout_ms", OPT_INT, AT(redis_timeout_ms), "15", 1, 10000, LIVE,
     "milliseconds to wait for an answer", NULL, NULL},

    {"behaviour.key", OPT_STRING, AT(behaviour_key), "hist:{user_id}", 0, 0, LIVE,
     "key of a user's recent items; {user_id} is replaced", NULL, key_complaint},
    {"behaviour.type", OPT_WORD, AT(behaviour_type), "list", 0, 0, LIVE,
     "what the key holds: a list, or a sorted set scored by time", type_words, NULL},
    {"behaviour.order", OPT_WORD, AT(behaviour_order), "newest_first", 0, 0, LIVE,
     "list: newest_first as LPUSH makes it, or oldest_first (RPUSH); zset: whose score is lowest", order_words, NULL},
    {"behaviour.element", OPT_STRING, AT(behaviour_element), "id", 0, 0, LIVE,
     "what an element looks like: id, id:ts, or json:FIELD for an object with the id in FIELD",
     NULL, element_complaint},
    {"behaviour.exposed_key", OPT_STRING, AT(behaviour_exposed_key), "", 0, 0, LIVE,
     "key of the items a user was shown lately, same type and element; empty = none",
     NULL, exposed_complaint},
    {"behaviour.read", OPT_INT, AT(behaviour_read), "100", 1, 10000, LIVE,
     "newest elements read per user", NULL, NULL},

    {"bundle.paths", OPT_STRING, AT(bundle_paths), "", 0, 0, LIVE,
     "bundle directories to load, separated by commas", NULL, NULL},
    {"bundle.default", OPT_STRING, AT(bundle_default), "", 0, 0, LIVE,
     "name@version or alias that answers when nothing else is said; empty = the only one there is",
     NULL, NULL},
    {"bundle.memory_max", OPT_BYTES, AT(bundle_memory_max), "0", 0, INT64_MAX, FROZEN,
     "bytes that loaded bundles may take together; 0 = no limit", NULL, NULL},
    {"bundle.verify", OPT_WORD, AT(bundle_verify_size), "hash", 0, 0, FROZEN,
     "how a bundle's files are told from others: by SHA-256, or by their size alone, which is quicker",
     verify_words, NULL},

    {"journal.dir", OPT_STRING, AT(journal_dir), "", 0, 0, FROZEN,
     "folder for what was served and what clients report of it; empty = nothing is written",
     NULL, NULL},
    {"journal.rotate_bytes", OPT_BYTES, AT(journal_rotate_bytes), "256M", 1024, INT64_MAX, FROZEN,
     "bytes after which a new file is begun", NULL, NULL},
    {"journal.rotate_s", OPT_INT, AT(journal_rotate_s), "3600", 1, 604800, FROZEN,
     "seconds after which a new file is begun", NULL, NULL},
    {"journal.fsync_ms", OPT_INT, AT(journal_fsync_ms), "1000", 10, 60000, FROZEN,
     "milliseconds between syncs: what a power failure may cost", NULL, NULL},
    {"journal.retain_bytes", OPT_BYTES, AT(journal_retain_bytes), "32G", 0, INT64_MAX, FROZEN,
     "bytes that all files may take together: beyond, the oldest are deleted; 0 = no limit",
     NULL, NULL},
    {"journal.retain_days", OPT_INT, AT(journal_retain_days), "90", 0, 36500, FROZEN,
     "days after which a file is deleted; 0 = no limit", NULL, NULL},
    {"journal.compress", OPT_WORD, AT(journal_compress), "zstd", 0, 0, FROZEN,
     "what becomes of a file that is complete", compress_words, NULL},
    {"journal.sample", OPT_SHARE, AT(journal_sample), "1", 0, 1, FROZEN,
     "share of users whose answers are written; a user is in or out as a whole", NULL, NULL},
    {"journal.user", OPT_WORD, AT(journal_user), "plain", 0, 0, FROZEN,
     "how user ids are written: as they are, or hashed with the key in journal.user_key_file",
     user_words, NULL},
    {"journal.user_key_file", OPT_STRING, AT(journal_user_key_file), "", 0, 0, FROZEN,
     "user = hmac: file whose bytes are the key, 16 at least", NULL, NULL},
    {"journal.ring_bytes", OPT_BYTES, AT(journal_ring_bytes), "8M", 65536, 1073741824, FROZEN,
     "bytes of lines, per compute thread, that may wait for the disk; more are dropped",
     NULL, NULL},

    {"experiments.file", OPT_STRING, AT(experiments_file), "", 0, 0, LIVE,
     "JSON file with layers and arms (docs/experiments.md); empty = none", NULL, NULL},
    {"experiments.remember", OPT_INT, AT(experiments_remember), "1000000", 0, 16777216, FROZEN,
     "newest answers whose events are counted per arm while the daemon runs; 64 bytes each",
     NULL, NULL},

    {"admin.token_file", OPT_STRING, AT(admin_token_file), "", 0, 0, LIVE,
     "file with the token for the administrative routes; empty = they answer 403", NULL, NULL},

    {"state.dir", OPT_STRING, AT(state_dir), "", 0, 0, FROZEN,
     "folder that keeps what was changed over HTTP; empty = such changes answer 409", NULL, NULL},

    {"log.level", OPT_WORD, AT(log_level), "info", 0, 0, LIVE,
     "least severe lines that are written", level_words, NULL},
    {"log.format", OPT_WORD, AT(log_json), "text", 0, 0, LIVE,
     "text = key=value lines; json = one object a line", format_words, NULL},
};
/* clang-format on */

const struct option *options_table(size_t *n)
{
    *n = ARRAY_LEN(options);
    return options;
}

void options_free_strings(struct config *c)
{
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (options[i].type == OPT_STRING)
            free(*(char **)((char *)c + options[i].offset));
}

/* ---- the form of strings ------------------------------------------------------- */

/* host:port or [v6]:port, the port from `least` to 65535. */
static bool is_host_port(const char *text, uint64_t least)
{
    const char *colon = strrchr(text, ':');
    bool bracketed = text[0] == '[';
    uint64_t port;

    if (colon == NULL || !parse_u64(colon + 1, strlen(colon + 1), &port) || port > 65535 ||
        port < least)
        return false;
    if (bracketed)
        return colon - text > 2 && colon[-1] == ']';
    return colon > text && memchr(text, ':', (size_t)(colon - text)) == NULL;
}

static const char *listen_complaint(const char *text)
{
    return is_host_port(text, 0) ? NULL : "must be host:port or [address]:port";
}

static const char *redis_complaint(const char *text)
{
    bool fine = text[0] == '\0' || strchr(text, '/') != NULL || is_host_port(text, 1);

    return fine ? NULL : "must be host:port or the path of a socket";
}

static const char *key_complaint(const char *text)
{
    const char *place = strstr(text, "{user_id}");
    bool fine = place != NULL && strstr(place + 1, "{user_id}") == NULL;

    return fine ? NULL : "must contain {user_id} exactly once";
}

static const char *exposed_complaint(const char *text)
{
    return text[0] == '\0' ? NULL : key_complaint(text);
}

static const char *element_complaint(const char *text)
{
    bool fine = strcmp(text, "id") == 0 || strcmp(text, "id:ts") == 0 ||
                (strncmp(text, "json:", 5) == 0 && text[5] != '\0');

    return fine ? NULL : "must be id, id:ts or json:FIELD";
}

/* ---- keys: options and recall settings in one list ----------------------------- */

static void add_key(struct keys *keys, const char *section, const char *name,
                    const struct option *option, const struct setting *setting)
{
    struct key *key = &keys->list[keys->n++];

    assert(keys->n <= KEYS_MAX);
    snprintf(key->name, sizeof key->name, "%s%s", section, name);
    key->option = option;
    key->setting = setting;
}

static void add_settings(struct keys *keys)
{
    size_t n;
    const struct setting *table = settings_table(&n);

    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].name, "bundle") != 0) /* that is bundle.default */
            add_key(keys, "recall.", table[i].name, NULL, &table[i]);
}

/* The settings follow the last option of [recall]. */
void keys_init(struct keys *keys)
{
    keys->n = 0;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        add_key(keys, "", options[i].name, &options[i], NULL);
        if (strcmp(options[i].name, "recall.n_max") == 0)
            add_settings(keys);
    }
}

const char *key_default(const struct key *key)
{
    return key->option != NULL ? key->option->fallback : key->setting->fallback;
}

const char *key_help(const struct key *key)
{
    return key->option != NULL ? key->option->help : key->setting->help;
}

enum option_reload key_reload(const struct key *key)
{
    return key->option != NULL ? key->option->reload : LIVE;
}

bool key_same_section(const struct key *a, const struct key *b)
{
    size_t len = strcspn(a->name, ".");

    return strncmp(a->name, b->name, len + 1) == 0;
}

const struct key *key_find(const struct keys *keys, const char *name)
{
    for (size_t i = 0; i < keys->n; i++)
        if (strcmp(keys->list[i].name, name) == 0)
            return &keys->list[i];
    return NULL;
}

/* ---- setting a value ----------------------------------------------------------- */

static bool is_printable(const char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return false;
    return true;
}

/* The field's width was taken from the struct: bool, int or enum, int64_t. */
static void store(void *field, size_t width, int64_t v)
{
    if (width == sizeof(bool))
        *(bool *)field = v != 0;
    else if (width == sizeof(int))
        *(int *)field = (int)v;
    else
        *(int64_t *)field = v;
}

static bool parse_bytes(const char *text, int64_t *out)
{
    size_t len = strlen(text);
    int shift = 0;
    int64_t v;

    if (len > 0) {
        char unit = (char)toupper((unsigned char)text[len - 1]);

        shift = unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0;
    }
    return parse_i64(text, len - (shift > 0), &v) &&
           !__builtin_mul_overflow(v, (int64_t)1 << shift, out);
}

static int set_number(void *field, const struct option *o, const char *text, struct err *err)
{
    bool bytes = o->type == OPT_BYTES;
    int64_t v;

    if (!(bytes ? parse_bytes(text, &v) : parse_i64(text, strlen(text), &v)))
        return err_set(err, ERR_USAGE, "must be a whole number%s from %lld to %lld",
                       bytes ? ", with or without K, M or G," : "", (long long)o->min,
                       (long long)o->max);
    if (v < o->min || v > o->max)
        return err_set(err, ERR_USAGE, "must be from %lld to %lld", (long long)o->min,
                       (long long)o->max);
    store(field, o->width, v);
    return 0;
}

static int set_share(double *field, const char *text, struct err *err)
{
    double v;

    if (!parse_f64(text, strlen(text), &v) || v <= 0 || v > 1)
        return err_set(err, ERR_USAGE, "must be a number above 0, at most 1");
    *field = v;
    return 0;
}

void words_put(struct buf *out, const char *const *words)
{
    for (int i = 0; words[i] != NULL; i++)
        buf_printf(out, "%s%s", i > 0 ? ", " : "", words[i]);
}

static int set_word(void *field, const struct option *o, const char *text, struct err *err)
{
    struct buf words = BUF_INIT;

    for (int i = 0; o->words[i] != NULL; i++) {
        if (strcmp(o->words[i], text) == 0) {
            store(field, o->width, i);
            return 0;
        }
    }
    words_put(&words, o->words);
    err_set(err, ERR_USAGE, "must be one of %s", buf_cstr(&words));
    buf_clear(&words);
    return -1;
}

static int set_string(char **field, const struct option *o, const char *text, struct err *err)
{
    const char *complaint = is_printable(text) ? NULL : "must not hold control characters";

    if (complaint == NULL && o->complaint != NULL)
        complaint = o->complaint(text);
    if (complaint != NULL)
        return err_set(err, ERR_USAGE, "%s", complaint);
    free(*field);
    *field = xstrdup(text);
    return 0;
}

static int set_option(struct config *c, const struct option *o, const char *text, struct err *err)
{
    void *field = (char *)c + o->offset;

    switch (o->type) {
    case OPT_INT:
    case OPT_BYTES:
        return set_number(field, o, text, err);
    case OPT_SHARE:
        return set_share(field, text, err);
    case OPT_WORD:
        return set_word(field, o, text, err);
    case OPT_STRING:
        return set_string(field, o, text, err);
    }
    return err_set(err, ERR_USAGE, "cannot be set");
}

int key_set(struct config *c, const struct key *key, const char *text, struct err *err)
{
    if (key->option != NULL)
        return set_option(c, key->option, text, err);
    return settings_set(&c->recall, key->setting, text, err);
}

void keys_set_defaults(struct config *c, const struct keys *keys)
{
    struct err err = ERR_INIT;

    settings_default(&c->recall);
    for (size_t i = 0; i < keys->n; i++) {
        int ok = key_set(c, &keys->list[i], key_default(&keys->list[i]), &err);

        assert(ok == 0);
        (void)ok;
    }
}
