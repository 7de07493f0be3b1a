/* base.h - what every module stands on: errors, log lines, memory, bytes, files,
 * clocks, hashes, the bounded queue between threads, the poller they wait in and the counted
 * snapshot.
 *
 * Nothing here knows what recalld is for. Everything may be called from any thread
 * unless a line says otherwise. */
#ifndef RECALLD_BASE_H
#define RECALLD_BASE_H

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WARN_UNUSED __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof *(a))

/* ---- errors ------------------------------------------------------------------ */

enum err_code {
    ERR_NONE,
    ERR_USAGE,       /* the caller asked for something that makes no sense: bad option, bad field */
    ERR_FORMAT,      /* bytes from outside are not what they claim to be */
    ERR_IO,          /* the operating system or the network refused */
    ERR_NOMEM,       /* a size that comes from outside could not be had */
    ERR_LIMIT,       /* a stated limit is exceeded */
    ERR_NOT_FOUND,   /* no such thing */
    ERR_CONFLICT,    /* true, but not in the present state */
    ERR_TIMEOUT,     /* too late */
    ERR_UNAVAILABLE, /* not now: breaker open, draining, full */
};

/* A code for programs, a text with file, key and offset for people. */
struct err {
    enum err_code code;
    char text[512]; /* UTF-8, whatever it quotes */
};
/* clang-format off */
#define ERR_INIT {ERR_NONE, ""}
/* clang-format on */

/* Keeps the first cause: a second call changes nothing. Always returns -1. */
int err_set(struct err *err, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Puts words ahead of the text that is there ("bundle x: ..."). Always returns -1. */
int err_prefix(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);
void err_clear(struct err *err);

/* ---- log lines --------------------------------------------------------------- */

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* One line to stderr: time, level, event name, then key=value text.
 * `json` makes each line one JSON object {"ts","level","event","text"} instead. */
void log_setup(enum log_level least, bool json);
void log_line(enum log_level level, const char *event, const char *fmt, ...) PRINTF_LIKE(3, 4);
#define LOG_DEBUG(event, ...) log_line(LOG_LEVEL_DEBUG, event, __VA_ARGS__)
#define LOG_INFO(event, ...) log_line(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define LOG_WARN(event, ...) log_line(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define LOG_ERROR(event, ...) log_line(LOG_LEVEL_ERROR, event, __VA_ARGS__)

/* For warnings a request can cause: at most one line a second per limiter.
 * Returns true when a line may be written; *held is how many were held back since. */
struct log_limit {
    _Atomic uint64_t next_ns;
    _Atomic unsigned held;
};
bool log_allow(struct log_limit *limit, unsigned *held);

/* ---- memory ------------------------------------------------------------------ */

/* Small, fixed allocations: abort when memory is out. */
void *xmalloc(size_t size) __attribute__((malloc));
void *xcalloc(size_t n, size_t size) __attribute__((malloc));
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Sizes that come from outside: the product is checked, NULL when it overflows or memory is out.
 * Freed with free(). The aligned form starts at a multiple of 64 bytes; both may hold garbage. */
void *mem_try_array(size_t n, size_t size) WARN_UNUSED;
void *mem_try_aligned(size_t n, size_t size) WARN_UNUSED;
/* True and *out = a * b, or false on overflow. */
bool mem_product(size_t a, size_t b, size_t *out) WARN_UNUSED;

/* For tests: the n-th next mem_try_* call fails (1 = the next one); 0 turns it off. */
void mem_test_fail_at(unsigned n);

/* An arena hands out memory that is given back all at once. One thread at a time.
 * arena_reset keeps the memory for the next round, so a warm arena never calls malloc. */
struct arena_chunk;
struct arena {
    struct arena_chunk *first, *current;
};
/* clang-format off */
#define ARENA_INIT {NULL, NULL}
/* clang-format on */
/* Aligned to 64 bytes, uninitialised; aborts when memory is out. */
void *arena_alloc(struct arena *a, size_t size);
char *arena_strndup(struct arena *a, const char *s, size_t n);
void arena_reset(struct arena *a);
void arena_trim(struct arena *a, size_t keep); /* before a reset: gives all back when over `keep` */
void arena_clear(struct arena *a);

/* Borrowed bytes, not NUL-terminated. */
struct str {
    const char *p;
    size_t len;
};

/* ---- bytes ------------------------------------------------------------------- */

/* A cursor over bytes from outside; every read is checked. Reads return false at the end. */
struct reader {
    const char *name; /* for messages: the file's name */
    const uint8_t *start, *p, *end;
};
void reader_init(struct reader *r, const char *name, const void *bytes, size_t len);
size_t reader_left(const struct reader *r);
bool reader_u32le(struct reader *r, uint32_t *v) WARN_UNUSED;
bool reader_u64le(struct reader *r, uint64_t *v) WARN_UNUSED;
/* The next line without its '\n' (and '\r' before it); *line is borrowed from the bytes. */
bool reader_line(struct reader *r, const char **line, size_t *len) WARN_UNUSED;

/* A growing byte string. `p` is not NUL-terminated unless buf_cstr is called. */
struct buf {
    char *p;
    size_t len, cap;
};
/* clang-format off */
#define BUF_INIT {NULL, 0, 0}
/* clang-format on */
void buf_grow(struct buf *b, size_t more); /* use buf_reserve */

/* Inline, because answers are written by many short pieces of known length. */
static inline void buf_reserve(struct buf *b, size_t more)
{
    if (more > b->cap - b->len)
        buf_grow(b, more);
}

static inline void buf_put(struct buf *b, const void *bytes, size_t len)
{
    if (len == 0)
        return;
    buf_reserve(b, len);
    memcpy(b->p + b->len, bytes, len);
    b->len += len;
}

static inline void buf_putc(struct buf *b, char c)
{
    buf_reserve(b, 1);
    b->p[b->len++] = c;
}

void buf_puts(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_vprintf(struct buf *b, const char *fmt, va_list args) PRINTF_LIKE(2, 0);
void buf_u64(struct buf *b, uint64_t v);
/* A float as JSON with 9 significant digits, which read back give the same bits.
 * NaN and infinity become null, -0 becomes 0. No trailing zeros; exponents outside 1e-5..1e9. */
void buf_f32(struct buf *b, float v);
/* Both at `p`, where there is this much room, of which what lies behind the end may change too;
 * return the end. For whoever writes many in a row. */
#define TEXT_U64_ROOM 20
#define TEXT_F32_ROOM 24
char *text_u64(char *p, uint64_t v);
char *text_f32(char *p, float v);
/* The same for doubles, up to 17 digits; slower. */
void buf_f64(struct buf *b, double v);
/* `s` as a JSON string with quotes; it must be valid UTF-8. */
void buf_json(struct buf *b, const char *s, size_t len);
/* True when `s` as a JSON string is `s` between quotes. */
bool json_plain(const char *s, size_t len);

/* JSON that is read where it stands: what is left of it. */
struct json_text {
    const char *p, *end;
};
static inline void json_blanks(struct json_text *t)
{
    while (t->p < t->end && (*t->p == ' ' || *t->p == '\t' || *t->p == '\n' || *t->p == '\r'))
        t->p++;
}
/* Skips blanks, then takes `c` if it comes next. */
static inline bool json_take(struct json_text *t, char c)
{
    json_blanks(t);
    if (t->p == t->end || *t->p != c)
        return false;
    t->p++;
    return true;
}
const char *buf_cstr(struct buf *b);
void buf_clear(struct buf *b); /* frees */

bool utf8_valid(const char *s, size_t len);

/* Numbers from outside: the whole string must be the number. Junk, overflow, NaN and infinity
 * are refused: false, *out untouched. Surrounding blanks are junk too. */
bool parse_i64(const char *s, size_t len, int64_t *out) WARN_UNUSED;
bool parse_u64(const char *s, size_t len, uint64_t *out) WARN_UNUSED;
bool parse_f64(const char *s, size_t len, double *out) WARN_UNUSED;
/* true yes on 1, false no off 0 */
bool parse_bool(const char *s, size_t len, bool *out) WARN_UNUSED;

/* ---- files ------------------------------------------------------------------- */

/* Errors name the path: ERR_NOT_FOUND when there is no such file or folder, otherwise ERR_IO. */

/* A file's bytes, not to be written to. An empty file has bytes == NULL, len == 0. */
struct mapped {
    const uint8_t *bytes;
    size_t len;
};
/* The file itself, mapped: whoever changes it changes these bytes, and whoever shortens it ends the
 * process that reads behind the new end. For tools. */
int file_map(struct mapped *m, const char *path, struct err *err) WARN_UNUSED;
/* Read into memory of its own: what becomes of the file afterwards makes no difference. For what a
 * service goes on using. */
int file_load(struct mapped *m, const char *path, struct err *err) WARN_UNUSED;
/* Of loaded bytes: gives back all pages but those that hold `len` bytes at `keep`, which lie
 * within; *m becomes what is left. */
void file_keep(struct mapped *m, const void *keep, size_t len);
void file_unmap(struct mapped *m); /* of either kind */
/* Of a mapped file, after `len` bytes at `at` were read: their pages need not stay in memory. They
 * are read again when they are looked at again. */
void file_forget(const struct mapped *m, const void *at, size_t len);
/* The whole file into `out` (appended); more than `max` bytes is ERR_LIMIT. */
int file_read(const char *path, size_t max, struct buf *out, struct err *err) WARN_UNUSED;
/* Written beside, synced, then renamed: readers see the old bytes or the new ones, never half. */
int file_write(const char *path, const void *bytes, size_t len, struct err *err) WARN_UNUSED;
/* The same in pieces, for what is larger than memory should hold. */
struct file_out;
struct file_out *file_out_new(const char *path, struct err *err) WARN_UNUSED;
int file_out_put(struct file_out *o, const void *bytes, size_t len, struct err *err) WARN_UNUSED;
/* Synced and renamed, or, unless `keep`, gone without a trace. Frees in any case. */
int file_out_end(struct file_out *o, bool keep, struct err *err) WARN_UNUSED;
int file_mkdirs(const char *path, struct err *err) WARN_UNUSED;
/* "dir/name" (or name alone when it is absolute); caller frees. */
char *path_join(const char *dir, const char *name);

#define SHA256_HEX 65 /* 64 digits and the NUL */
void sha256_hex(const void *bytes, size_t len, char hex[SHA256_HEX]);
/* HMAC-SHA256, all 32 bytes as hex. */
void hmac_sha256_hex(const void *key, size_t key_len, const void *bytes, size_t len,
                     char hex[SHA256_HEX]);

/* ---- clocks and identifiers -------------------------------------------------- */

uint64_t clock_ns(void);     /* monotonic */
int64_t clock_wall_ms(void); /* since 1970 */
#define UUID_LEN 36
void uuid7(char out[UUID_LEN + 1]); /* RFC 9562 version 7: sorts by time */

/* ---- threads ----------------------------------------------------------------- */

/* From here on the calling thread, and any it starts, runs where a core has nothing else to do: for
 * long work that nobody waits for. On a busy machine that work takes long. */
void thread_background(void);

/* ---- hash -------------------------------------------------------------------- */

uint64_t hash_bytes(const void *bytes, size_t len); /* XXH3, 64 bits, seed 0 */
/* The same of bytes that come in pieces. */
struct hash;
struct hash *hash_new(void);
void hash_add(struct hash *h, const void *bytes, size_t len);
uint64_t hash_end(struct hash *h); /* frees */

/* ---- chance ------------------------------------------------------------------ */

/* The probability of a chi-square of at least x >= 0 with so many degrees of freedom, 1 or more;
 * NaN without those. */
double chi_square_p(double x, int degrees);
/* Pearson's test of `n` counts against shares that sum to 1; returns p. Places with neither a share
 * nor a count are left out; a count where the share is 0 gives p = 0, and fewer than two places
 * p = 1. */
double chi_square_test(const double *counts, const double *shares, size_t n, double *statistic,
                       int *degrees);

/* ---- queue: from many threads to many, bounded ------------------------------- */

struct queue;
struct queue *queue_new(size_t capacity);
void queue_free(struct queue *q);
/* False, and nothing queued, when it is full or closed. Never waits. */
bool queue_try_push(struct queue *q, void *item) WARN_UNUSED;
void *queue_pop(struct queue *q); /* the oldest; waits for it. NULL when closed and empty */
/* Without waiting: min(max, ceil(waiting / idle)), oldest first, so that no one waits to fill a
 * batch, and no taker grabs what another could do at once. `idle` takers have nothing to do, this
 * one among them. *left is what the others may take. */
size_t queue_take(struct queue *q, void **out, size_t max, size_t idle, size_t *left);
size_t queue_count(const struct queue *q); /* as of now; no lock */
/* No more pushes; what is queued can still be taken; every waiting taker wakes. */
void queue_close(struct queue *q);

/* ---- poller: threads that wait together for the same descriptors -------------- */

/* A source is a descriptor and the work it makes. Whichever thread waits does the work, one at a
 * time: `ready` never runs twice at once, and needs no lock of its own. It is called when the
 * descriptor has become readable (an edge: it reads until nothing is left), when it is run or
 * kicked, and now and then for nothing. */
struct poller;
struct poll_source;

struct poller *poller_new(struct err *err) WARN_UNUSED;
void poller_free(struct poller *p); /* and all sources; no thread may be inside. NULL allowed */
/* Belongs to the poller; never NULL. */
struct poll_source *poller_add(struct poller *p, void (*ready)(void *arg), void *arg);
/* Watches `fd` from now on. Closing it ends that. */
int poll_source_watch(struct poll_source *s, int fd, struct err *err) WARN_UNUSED;
/* Calls `ready`, or, when another thread is inside, has that one call it once more. */
void poll_source_run(struct poll_source *s);
/* The same, later: in one that waits; or, from one of those, when it waits again or says
 * poller_run_due. */
void poll_source_kick(struct poll_source *s);
/* Once it returns, `ready` is not running and is not called any more. Not from inside. */
void poll_source_remove(struct poll_source *s);

/* Waits up to `timeout_ms` (-1 = no limit) and runs what is ready. Returns early when woken. From
 * the first call on the thread is one of those that wait: it ends after poller_close. */
void poller_wait(struct poller *p, int timeout_ms);
/* Leaves what this thread has kicked to another. */
void poller_pass_on(struct poller *p);
bool poller_run_due(struct poller *p);       /* what this thread has kicked; false = nothing */
bool poller_is_mine(const struct poller *p); /* this thread is one of those that wait */
void poller_wake(struct poller *p);  /* a thread that waits returns, now or as soon as one does */
void poller_close(struct poller *p); /* nobody waits any more */

/* ---- snapshots: immutable things behind a counted reference ------------------ */

/* Put first in a struct that never changes once published. */
struct ref {
    atomic_uint count;
    void (*free)(struct ref *);
};
void ref_init(struct ref *r, void (*free_fn)(struct ref *)); /* count 1 */
struct ref *ref_acquire(struct ref *r);                      /* r, NULL allowed */
void ref_release(struct ref *r);                             /* the last one frees; NULL allowed */

/* A place that holds the current snapshot. Reading costs one uncontended lock. */
struct cell {
    pthread_mutex_t lock;
    struct ref *current;
};
void cell_init(struct cell *c, struct ref *take); /* owns `take` */
struct ref *cell_acquire(struct cell *c);         /* the caller releases; may be NULL */
void cell_swap(struct cell *c, struct ref *take); /* owns `take`, releases the old one */
void cell_clear(struct cell *c);

#endif
