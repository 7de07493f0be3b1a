/* config.c - the daemon's configuration: one table of options, three sources, one way to set a
 * value.
 *
 * A row's default is text and goes through the same parser as a value from a file. The rows of the
 * recall settings (settings.h) join the list as further keys of the section [recall]. */
#include "recalld/config.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)1 << 20)
#define NAME_MAX_LEN 64 /* of "section.key" and of a variable; longer names are unknown anyway */
#define KEYS_MAX 64

/* ---- the table ----------------------------------------------------------------- */

enum option_type {
    OPT_INT,
    OPT_BYTES,  /* a whole number, K, M or G behind it multiplies */
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

static const char *const type_words[] = {"list", "zset", NULL};
static const char *const order_words[] = {"newest_first", "oldest_first", NULL};
static const char *const level_words[] = {"debug", "info", "warn", "error", NULL};
static const char *const format_words[] = {"text", "json", NULL};

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
    {"http.threads", OPT_INT, AT(http_threads), "2", 1, 64, FROZEN,
     "threads that read requests and write answers", NULL, NULL},
    {"http.max_body", OPT_BYTES, AT(http_max_body), "1M", 1024, 67108864, FROZEN,
     "largest request body in bytes", NULL, NULL},
    {"http.connections", OPT_INT, AT(http_connections), "4096", 1, 65536, FROZEN,
     "open connections at most", NULL, NULL},
    {"http.drain_ms", OPT_INT, AT(http_drain_ms), "0", 0, 600000, LIVE,
     "milliseconds between /readyz turning 503 and the listener closing, for load balancers",
     NULL, NULL},
    {"http.idle_s", OPT_INT, AT(http_idle_s), "60", 1, 3600, FROZEN,
     "seconds after which a connection that sends nothing is closed", NULL, NULL},

    {"workers.count", OPT_INT, AT(workers_count), "0", 0, 256, FROZEN,
     "compute threads; 0 = one per core", NULL, NULL},
    {"workers.batch", OPT_INT, AT(workers_batch), "8", 1, 64, FROZEN,
     "requests a worker takes at once, at most; it never waits for a batch to fill", NULL, NULL},
    {"workers.queue", OPT_INT, AT(workers_queue), "256", 1, 65536, FROZEN,
     "requests that may wait for a worker; more are answered 503", NULL, NULL},

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
     "connections, each with its own thread", NULL, NULL},
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

struct key {
    char name[NAME_MAX_LEN]; /* section.key */
    const struct option *option;
    const struct setting *setting; /* exactly one of the two is set */
};

struct keys {
    struct key list[KEYS_MAX];
    size_t n;
};

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

/* In the order of the file: the settings follow the last option of [recall]. */
static void keys_init(struct keys *keys)
{
    keys->n = 0;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        add_key(keys, "", options[i].name, &options[i], NULL);
        if (strcmp(options[i].name, "recall.n_max") == 0)
            add_settings(keys);
    }
}

static const char *key_default(const struct key *key)
{
    return key->option != NULL ? key->option->fallback : key->setting->fallback;
}

static const char *key_help(const struct key *key)
{
    return key->option != NULL ? key->option->help : key->setting->help;
}

static enum option_reload key_reload(const struct key *key)
{
    return key->option != NULL ? key->option->reload : LIVE;
}

/* The same section as the one before in the list? */
static bool same_section(const struct key *a, const struct key *b)
{
    size_t len = strcspn(a->name, ".");

    return strncmp(a->name, b->name, len + 1) == 0;
}

static const struct key *key_find(const struct keys *keys, const char *name)
{
    for (size_t i = 0; i < keys->n; i++)
        if (strcmp(keys->list[i].name, name) == 0)
            return &keys->list[i];
    return NULL;
}

/* ---- unknown names ------------------------------------------------------------- */

/* Levenshtein's distance, row by row. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_MAX_LEN + 1], n = strlen(b);

    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t best = diagonal + (a[i] != b[j]);

            diagonal = row[j + 1];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j + 1] + 1 < best)
                best = row[j + 1] + 1;
            row[j + 1] = best;
        }
    }
    return row[n];
}

/* The key one probably meant: its name nearly so, or the same word in another section. */
static const struct key *key_meant(const struct keys *keys, const char *name)
{
    const struct key *nearest = NULL;
    const char *word = strchr(name, '.');
    size_t least = 4; /* distances below are typing errors */

    if (strlen(name) >= NAME_MAX_LEN)
        return NULL;
    for (size_t i = 0; i < keys->n; i++) {
        size_t distance = edit_distance(name, keys->list[i].name);

        if (distance < least) {
            least = distance;
            nearest = &keys->list[i];
        }
    }
    for (size_t i = 0; i < keys->n && nearest == NULL && word != NULL; i++)
        if (strcmp(strchr(keys->list[i].name, '.'), word) == 0)
            nearest = &keys->list[i];
    return nearest;
}

static int refuse_unknown(const struct keys *keys, const char *name, struct err *err)
{
    const struct key *meant = key_meant(keys, name);

    if (meant == NULL)
        return err_set(err, ERR_USAGE, "unknown key %.80s", name);
    return err_set(err, ERR_USAGE, "unknown key %.80s; did you mean %s?", name, meant->name);
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

static void put_words(struct buf *out, const char *const *words)
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
    put_words(&words, o->words);
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
    case OPT_WORD:
        return set_word(field, o, text, err);
    case OPT_STRING:
        return set_string(field, o, text, err);
    }
    return err_set(err, ERR_USAGE, "cannot be set");
}

/* Errors say only what is allowed; whoever read the value puts ahead where it stands. */
static int set_key(struct config *c, const struct key *key, const char *text, struct err *err)
{
    if (key->option != NULL)
        return set_option(c, key->option, text, err);
    return settings_set(&c->recall, key->setting, text, err);
}

static void set_defaults(struct config *c, const struct keys *keys)
{
    struct err err = ERR_INIT;

    settings_default(&c->recall);
    for (size_t i = 0; i < keys->n; i++) {
        int ok = set_key(c, &keys->list[i], key_default(&keys->list[i]), &err);

        assert(ok == 0);
        (void)ok;
    }
}

/* ---- the file ------------------------------------------------------------------ */

struct ini {
    const char *name;
    int line;
    char section[NAME_MAX_LEN]; /* "" before the first */
    int given[KEYS_MAX];        /* the line that set a key, 0 = none */
};

static char *trimmed(const char *s, size_t len)
{
    while (len > 0 && (*s == ' ' || *s == '\t'))
        s++, len--;
    while (len > 0 && (s[len - 1] == ' ' || s[len - 1] == '\t'))
        len--;
    return xstrndup(s, len);
}

static bool is_section(const struct keys *keys, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < keys->n; i++)
        if (strncmp(keys->list[i].name, name, len) == 0 && keys->list[i].name[len] == '.')
            return true;
    return false;
}

static int enter_section(struct ini *ini, const struct keys *keys, char *text, struct err *err)
{
    size_t len = strlen(text);

    if (text[len - 1] != ']')
        return err_set(err, ERR_FORMAT, "%s:%d: a section's name ends with ]", ini->name,
                       ini->line);
    text[len - 1] = '\0';
    if (!is_section(keys, text + 1))
        return err_set(err, ERR_USAGE, "%s:%d: unknown section [%.80s]", ini->name, ini->line,
                       text + 1);
    snprintf(ini->section, sizeof ini->section, "%s", text + 1);
    return 0;
}

static int set_from_line(struct config *c, const struct keys *keys, struct ini *ini,
                         const char *word, const char *value, struct err *err)
{
    char *name = xasprintf("%s.%s", ini->section, word);
    const struct key *key = key_find(keys, name);
    int result = -1, *given;

    if (key == NULL) {
        refuse_unknown(keys, name, err);
        err_prefix(err, "%s:%d: ", ini->name, ini->line);
    } else if (*(given = &ini->given[key - keys->list]) != 0) {
        err_set(err, ERR_USAGE, "%s:%d: %s is given twice, first in line %d", ini->name, ini->line,
                name, *given);
    } else {
        *given = ini->line;
        result = set_key(c, key, value, err);
        if (result == -1)
            err_prefix(err, "%s:%d: %s = %.80s: ", ini->name, ini->line, name, value);
    }
    free(name);
    return result;
}

static int read_assignment(struct config *c, const struct keys *keys, struct ini *ini,
                           const char *text, struct err *err)
{
    const char *equals = strchr(text, '=');
    char *word, *value;
    int result;

    if (equals == NULL)
        return err_set(err, ERR_FORMAT, "%s:%d: neither [section] nor key = value", ini->name,
                       ini->line);
    if (ini->section[0] == '\0')
        return err_set(err, ERR_FORMAT, "%s:%d: a key before the first [section]", ini->name,
                       ini->line);
    word = trimmed(text, (size_t)(equals - text));
    value = trimmed(equals + 1, strlen(equals + 1));
    result = set_from_line(c, keys, ini, word, value, err);
    free(word);
    free(value);
    return result;
}

static int read_line(struct config *c, const struct keys *keys, struct ini *ini, const char *line,
                     size_t len, struct err *err)
{
    char *text;
    int result = 0;

    if (memchr(line, '\0', len) != NULL)
        return err_set(err, ERR_FORMAT, "%s:%d: a NUL byte", ini->name, ini->line);
    text = trimmed(line, len);
    if (text[0] == '[')
        result = enter_section(ini, keys, text, err);
    else if (text[0] != '\0' && text[0] != '#' && text[0] != ';')
        result = read_assignment(c, keys, ini, text, err);
    free(text);
    return result;
}

static int read_file(struct config *c, const struct keys *keys, const char *name, const char *text,
                     size_t len, struct err *err)
{
    struct ini ini = {name, 0, "", {0}};
    struct reader r;
    const char *line;
    size_t line_len;

    reader_init(&r, name, text, len);
    while (reader_line(&r, &line, &line_len)) {
        ini.line++;
        if (read_line(c, keys, &ini, line, line_len, err) == -1)
            return -1;
    }
    return 0;
}

/* ---- environment and arguments ------------------------------------------------- */

#define ENV_PREFIX "RECALLD_"

/* Variables that scripts use; the daemon does not read them. */
static const char *const foreign[] = {"RECALLD_BIN"};

static bool is_foreign(const char *variable)
{
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++)
        if (strcmp(variable, foreign[i]) == 0)
            return true;
    return false;
}

/* http.port_file <-> RECALLD_HTTP_PORT_FILE */
static const struct key *key_of_variable(const struct keys *keys, const char *variable)
{
    const char *rest = variable + strlen(ENV_PREFIX);

    for (size_t i = 0; i < keys->n; i++) {
        const char *name = keys->list[i].name;
        size_t j = 0;

        while (name[j] != '\0' && rest[j] == (name[j] == '.' ? '_' : toupper(name[j])))
            j++;
        if (name[j] == '\0' && rest[j] == '\0')
            return &keys->list[i];
    }
    return NULL;
}

static int set_from_variable(struct config *c, const struct keys *keys, const char *entry,
                             struct err *err)
{
    const char *equals = strchr(entry, '=');
    const struct key *key;
    char *variable;
    int result = 0;

    if (equals == NULL || strncmp(entry, ENV_PREFIX, strlen(ENV_PREFIX)) != 0)
        return 0;
    variable = xstrndup(entry, (size_t)(equals - entry));
    key = key_of_variable(keys, variable);
    if (key != NULL) {
        result = set_key(c, key, equals + 1, err);
        if (result == -1)
            err_prefix(err, "%s = %.80s: ", variable, equals + 1);
    } else if (!is_foreign(variable)) {
        result = err_set(err, ERR_USAGE, "%.80s: no key has this variable", variable);
    }
    free(variable);
    return result;
}

static int set_from_argument(struct config *c, const struct keys *keys, const char *arg,
                             struct err *err)
{
    const char *equals = strchr(arg, '=');
    const struct key *key;
    int result;
    char *name;

    if (strncmp(arg, "--", 2) != 0 || equals == NULL)
        return err_set(err, ERR_USAGE, "%.80s: not --section.key=value", arg);
    name = xstrndup(arg + 2, (size_t)(equals - arg - 2));
    key = key_find(keys, name);
    if (key == NULL) {
        result = refuse_unknown(keys, name, err);
        err_prefix(err, "%.80s: ", arg);
    } else {
        result = set_key(c, key, equals + 1, err);
        if (result == -1)
            err_prefix(err, "%.120s: ", arg);
    }
    free(name);
    return result;
}

/* ---- loading ------------------------------------------------------------------- */

static int check_together(const struct config *c, struct err *err)
{
    if (c->recall.n > c->recall_n_max)
        return err_set(err, ERR_USAGE, "recall.n = %d: must not exceed recall.n_max = %d",
                       c->recall.n, c->recall_n_max);
    return 0;
}

struct config *config_parse(const char *name, const char *text, size_t len, char *const *env,
                            const char *const *args, int n_args, struct err *err)
{
    struct config *c = xcalloc(1, sizeof *c);
    struct keys keys;

    keys_init(&keys);
    set_defaults(c, &keys);
    if (read_file(c, &keys, name, text, len, err) == -1)
        goto failed;
    for (; env != NULL && *env != NULL; env++)
        if (set_from_variable(c, &keys, *env, err) == -1)
            goto failed;
    for (int i = 0; i < n_args; i++)
        if (set_from_argument(c, &keys, args[i], err) == -1)
            goto failed;
    if (check_together(c, err) == -1)
        goto failed;
    return c;
failed:
    config_free(c);
    return NULL;
}

struct config *config_load(const char *path, char *const *env, const char *const *args, int n_args,
                           struct err *err)
{
    struct buf text = BUF_INIT;
    struct config *c = NULL;

    if (path == NULL || file_read(path, FILE_MAX, &text, err) == 0)
        c = config_parse(path, text.p, text.len, env, args, n_args, err);
    buf_clear(&text);
    return c;
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (options[i].type == OPT_STRING)
            free(*(char **)((char *)c + options[i].offset));
    free(c);
}

/* ---- what people read ---------------------------------------------------------- */

static void put_allowed(struct buf *out, const struct key *key)
{
    const struct option *o = key->option;
    const struct setting *s = key->setting;

    if (o != NULL && o->type == OPT_WORD)
        put_words(out, o->words);
    else if (o != NULL && o->type != OPT_STRING && o->max == INT64_MAX)
        buf_printf(out, "%lld or more", (long long)o->min);
    else if (o != NULL && o->type != OPT_STRING)
        buf_printf(out, "from %lld to %lld", (long long)o->min, (long long)o->max);
    else if (s != NULL && s->type == SETTING_ENUM)
        put_words(out, s->words);
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

        if (i == 0 || !same_section(key, key - 1))
            buf_printf(out, "\n[%.*s]\n", (int)strcspn(key->name, "."), key->name);
        put_key(out, key);
    }
}

/* ---- reload -------------------------------------------------------------------- */

static bool same_value(const struct config *a, const struct config *b, const struct option *o)
{
    const char *x = (const char *)a + o->offset, *y = (const char *)b + o->offset;

    if (o->type == OPT_STRING)
        return strcmp(*(char *const *)x, *(char *const *)y) == 0;
    return memcmp(x, y, o->width) == 0;
}

bool config_same_section(const struct config *a, const struct config *b, const char *section)
{
    size_t len = strlen(section);

    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (strncmp(options[i].name, section, len) == 0 && options[i].name[len] == '.' &&
            !same_value(a, b, &options[i]))
            return false;
    return true;
}

int config_frozen_changes(const struct config *a, const struct config *b, struct buf *out)
{
    int n = 0;

    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        if (options[i].reload == FROZEN && !same_value(a, b, &options[i]))
            buf_printf(out, "%s%s", n++ > 0 ? ", " : "", options[i].name);
    }
    return n;
}
