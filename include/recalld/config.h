/* config.h - the daemon's configuration: one option table, three sources.
 *
 * recalld.ini, then RECALLD_SECTION_KEY in the environment, then --section.key=value: the later
 * wins. An unknown section or key, a value out of bounds and a key given twice in the file are
 * refused with file and line (or the variable, or the argument). The [recall] section holds the
 * recall settings too (settings.h), except `bundle`, which is bundle.default.
 *
 * In the file a value runs to the end of its line: no quotes, and no comment behind it, since keys
 * and paths may hold a '#'. A variable RECALLD_* that stands for no key is refused too, except
 * RECALLD_BIN, which scripts use. Numbers of bytes may end in K, M or G. */
#ifndef RECALLD_CONFIG_H
#define RECALLD_CONFIG_H

#include "recalld/base.h"
#include "recalld/settings.h"

enum behaviour_type { BEHAVIOUR_LIST, BEHAVIOUR_ZSET };
enum behaviour_order { BEHAVIOUR_NEWEST_FIRST, BEHAVIOUR_OLDEST_FIRST };

enum journal_compression { JOURNAL_PLAIN, JOURNAL_GZIP, JOURNAL_ZSTD };
enum journal_user_form { JOURNAL_USER_PLAIN, JOURNAL_USER_HMAC };

struct config {
    /* http */
    char *http_listen; /* host:port; port 0 = any free one; [v6]:port */
    char *http_port_file;
    int http_loops;
    int http_max_body; /* bytes */
    int http_connections;
    int http_drain_ms;
    int http_idle_s; /* so long a connection may be idle, and a request may take to arrive */
    /* workers */
    int workers_count; /* 0 = one per core */
    int workers_batch;
    int workers_queue;
    bool workers_effort_control;
    /* recall */
    int recall_deadline_ms;
    int recall_n_max;
    struct settings recall; /* n, merge, lambda, ... */
    /* redis */
    char *redis_address; /* "" = no Redis: only requests with their own history */
    char *redis_user, *redis_password_file;
    int redis_db, redis_connections, redis_connect_ms, redis_timeout_ms;
    /* behaviour */
    char *behaviour_key; /* {user_id} is replaced */
    enum behaviour_type behaviour_type;
    enum behaviour_order behaviour_order;
    char *behaviour_element;     /* id | id:ts | json:FIELD */
    char *behaviour_exposed_key; /* "" = none */
    int behaviour_read;          /* newest elements read per user */
    /* bundle */
    char *bundle_paths; /* comma-separated directories */
    char *bundle_default;
    int64_t bundle_memory_max; /* bytes, 0 = no limit */
    bool bundle_verify_size;   /* files are compared by size, not by hash */
    /* journal */
    char *journal_dir;            /* "" = off */
    int64_t journal_rotate_bytes; /* of a file */
    int journal_rotate_s;         /* a file is open at most so long */
    int journal_fsync_ms;
    int64_t journal_retain_bytes;              /* of all files, 0 = no limit */
    int journal_retain_days;                   /* 0 = no limit */
    enum journal_compression journal_compress; /* of closed files */
    double journal_sample;                     /* share of users, (0, 1] */
    enum journal_user_form journal_user;
    char *journal_user_key_file;
    int journal_ring_bytes; /* per thread that writes */
    /* experiments */
    char *experiments_file; /* "" = none */
    int experiments_remember;
    /* admin, state, log */
    char *admin_token_file;
    char *state_dir;
    enum log_level log_level;
    bool log_json;
};

/* Reads `path` (NULL = defaults only), the environment `env` (NULL-terminated "K=V", may be NULL)
 * and `args` (arguments of the form --section.key=value; others are ERR_USAGE). NULL with *err set,
 * or a config that config_free frees. */
struct config *config_load(const char *path, char *const *env, const char *const *args, int n_args,
                           struct err *err) WARN_UNUSED;
/* As config_load for bytes in memory: what the file would hold. */
struct config *config_parse(const char *name, const char *text, size_t len, char *const *env,
                            const char *const *args, int n_args, struct err *err) WARN_UNUSED;
void config_free(struct config *c);

/* The annotated recalld.ini, every key with its help, bounds and default: conf/recalld.ini. */
void config_print(struct buf *out);

/* For SIGHUP: the keys that differ between the two and cannot change while running, comma-separated
 * in `out`; returns how many. */
int config_frozen_changes(const struct config *a, const struct config *b, struct buf *out);

/* True when no key of "section" differs (recall settings aside). */
bool config_same_section(const struct config *a, const struct config *b, const char *section);

#endif
