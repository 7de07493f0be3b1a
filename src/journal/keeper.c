/* keeper.c - the background thread that compresses complete files and deletes old ones.
 *
 * It remembers nothing: each look lists the folder, so what an earlier process left behind is
 * found like what was completed just now. */
#include "journal_impl.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codec.h"
#include "recalld/metrics.h"

#define LOOK_NS 60000000000ull /* between looks when no file is completed, for the files' age */
#define DAY_MS INT64_C(86400000)

static void complain(const char *what, const char *path, const char *why)
{
    static struct log_limit limit;
    unsigned held;

    if (log_allow(&limit, &held))
        LOG_WARN("journal_keeping", "cannot %s file=%s held_back=%u %s", what, path, held, why);
}

/* Asked after the folder was listed: what is in the list and not open now is complete. */
static bool is_open(struct journal *j, const char *name)
{
    bool found = false;

    pthread_mutex_lock(&j->lock);
    for (int k = 0; k < JOURNAL_KINDS; k++)
        found = found || (j->open[k] != NULL && strcmp(j->open[k]->name, name) == 0);
    pthread_mutex_unlock(&j->lock);
    return found;
}

/* ---- deleting ------------------------------------------------------------------------------ */

/* TIME of a name, without what stands before it: both kinds age together. */
static int by_stamp(const void *a, const void *b)
{
    return strcmp(strchr(*(char *const *)a, '-'), strchr(*(char *const *)b, '-'));
}

static uint64_t size_of(struct journal *j, const char *name)
{
    char *path = path_join(j->dir, name);
    struct stat st;
    uint64_t size = stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;

    free(path);
    return size;
}

static void drop_file(struct journal *j, const char *name)
{
    char *path = path_join(j->dir, name);

    if (unlink(path) == 0)
        metric_add(journal_deleted, 1);
    else
        complain("delete", path, strerror(errno));
    free(path);
}

/* From the beginning of a file to the moment when even its last line is old enough to go. */
static int64_t longest_ms(const struct journal *j)
{
    return j->retain_days * DAY_MS + (int64_t)(j->rotate_ns / 1000000);
}

static void delete_old(struct journal *j)
{
    char oldest[JOURNAL_STAMP_LEN + 1] = "";
    struct err err = ERR_INIT;
    struct journal_names names;
    uint64_t total = 0;

    if (journal_names_list(&names, j->dir, &err) == -1)
        return; /* the writer says so */
    if (j->retain_days > 0)
        journal_stamp(clock_wall_ms() - longest_ms(j), oldest);
    for (size_t i = 0; i < names.n; i++)
        total += size_of(j, names.list[i]);
    if (names.n > 0)
        qsort(names.list, names.n, sizeof *names.list, by_stamp);
    for (size_t i = 0; i < names.n; i++) {
        const char *stamp = strchr(names.list[i], '-') + 1;
        uint64_t size = size_of(j, names.list[i]);

        if (strncmp(stamp, oldest, JOURNAL_STAMP_LEN) >= 0 &&
            (j->retain_bytes == 0 || total <= j->retain_bytes))
            break;
        if (!is_open(j, names.list[i])) {
            drop_file(j, names.list[i]);
            total -= size;
        }
    }
    journal_names_clear(&names);
}

/* NAME.RANDOM.tmp: a compression was interrupted. */
static bool is_half(const char *entry)
{
    char *name = xstrdup(entry), *tmp = strstr(name, ".tmp");
    struct journal_name parsed;
    bool half = tmp != NULL && tmp[4] == '\0';

    if (half) {
        *tmp = '\0';
        if (strrchr(name, '.') != NULL)
            *strrchr(name, '.') = '\0';
        half = journal_name_parse(name, &parsed) && parsed.form != JOURNAL_PLAIN;
    }
    free(name);
    return half;
}

/* Its compressed form is there, whole: the process ended before it deleted this one. */
static bool is_double(struct journal *j, const char *entry)
{
    struct journal_name parsed;
    bool found = false;

    if (!journal_name_parse(entry, &parsed) || parsed.form != JOURNAL_PLAIN)
        return false;
    for (int form = JOURNAL_GZIP; form <= JOURNAL_ZSTD; form++) {
        char *path = xasprintf("%s/%s%s", j->dir, entry, journal_suffixes[form]);

        found = found || access(path, F_OK) == 0;
        free(path);
    }
    return found;
}

static void delete_leftovers(struct journal *j)
{
    DIR *d = opendir(j->dir);
    struct dirent *entry;

    while (d != NULL && (entry = readdir(d)) != NULL)
        if (is_half(entry->d_name) || is_double(j, entry->d_name))
            drop_file(j, entry->d_name);
    if (d != NULL)
        closedir(d);
}

/* ---- compressing --------------------------------------------------------------------------- */

static void compress(struct journal *j, const char *name)
{
    char *from = path_join(j->dir, name);
    char *to = xasprintf("%s%s", from, journal_suffixes[j->compress]);
    struct err err = ERR_INIT;
    struct stat st;
    int done = codec_pack(from, to, j->compress, &j->stopping, &err);

    if (done == -1)
        complain("compress", from, err.text);
    if (done == 1) {
        if (stat(from, &st) == 0)
            chmod(to, st.st_mode & 0777); /* there are file systems without modes */
        if (unlink(from) == -1)
            complain("delete", from, strerror(errno));
    }
    free(from);
    free(to);
}

/* Leaves of the list what is complete and not compressed. */
static void keep_waiting(struct journal *j, struct journal_names *names)
{
    struct journal_name parsed;
    size_t kept = 0;

    for (size_t i = 0; i < names->n; i++) {
        if (journal_name_parse(names->list[i], &parsed) && parsed.form == JOURNAL_PLAIN &&
            !is_open(j, names->list[i]))
            names->list[kept++] = names->list[i];
        else
            free(names->list[i]);
    }
    names->n = kept;
}

static void compress_complete(struct journal *j)
{
    struct err err = ERR_INIT;
    struct journal_names names;

    if (j->compress == JOURNAL_PLAIN || journal_names_list(&names, j->dir, &err) == -1)
        return;
    keep_waiting(j, &names);
    for (size_t i = 0; i < names.n && !atomic_load(&j->stopping); i++) {
        atomic_store(&j->backlog, names.n - i);
        compress(j, names.list[i]);
        delete_old(j);
    }
    atomic_store(&j->backlog, 0);
    journal_names_clear(&names);
}

/* ---- the thread ---------------------------------------------------------------------------- */

static void block_signals(void)
{
    sigset_t too_large;

    sigemptyset(&too_large); /* as in the writer */
    sigaddset(&too_large, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &too_large, NULL);
}

static void look(struct journal *j)
{
    delete_leftovers(j);
    delete_old(j);
    compress_complete(j);
}

void *journal_keep(void *journal)
{
    struct journal *j = journal;

    block_signals();
    thread_background();
    while (!atomic_load(&j->stopping)) {
        uint64_t next = clock_ns() + LOOK_NS;

        if (journal_owns(j)) /* or another process' open files would look complete */
            look(j);
        pthread_mutex_lock(&j->lock);
        while (!j->look && !atomic_load(&j->stopping) && clock_ns() < next)
            journal_wait(j, next);
        j->look = false;
        pthread_mutex_unlock(&j->lock);
    }
    return NULL;
}
