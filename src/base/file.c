/* file.c - files mapped, loaded, read, and replaced in one step. */
#include "recalld/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(struct err *err, const char *path, const char *what)
{
    enum err_code code = errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;

    return err_set(err, code, "%s: %s: %s", path, what, strerror(errno));
}

/* ---- reading ------------------------------------------------------------------- */

/* A regular file, open, and its size, or -1. Opening a pipe must not wait for a writer. */
static int open_regular(const char *path, size_t *size, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd == -1)
        return fail(err, path, "cannot open");
    if (fstat(fd, &st) == -1) {
        fail(err, path, "cannot stat");
    } else if (!S_ISREG(st.st_mode)) {
        err_set(err, ERR_IO, "%s: not a regular file", path);
    } else {
        *size = (size_t)st.st_size;
        return fd;
    }
    close(fd);
    return -1;
}

int file_map(struct mapped *m, const char *path, struct err *err)
{
    size_t size = 0;
    int fd = open_regular(path, &size, err), result = 0;
    void *p;

    *m = (struct mapped){NULL, 0};
    if (fd == -1)
        return -1;
    if (size > 0) {
        p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            result = fail(err, path, "cannot map");
        else
            *m = (struct mapped){p, size};
    }
    close(fd);
    return result;
}

/* `size` bytes, as many as the file had when it was opened. */
static int read_exactly(int fd, const char *path, uint8_t *to, size_t size, struct err *err)
{
    size_t got = 0;

    while (got < size) {
        ssize_t n = read(fd, to + got, size - got);

        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return fail(err, path, "cannot read");
        if (n == 0)
            return err_set(err, ERR_IO, "%s: was cut to %zu bytes while it was read", path, got);
        got += (size_t)n;
    }
    return 0;
}

/* Huge pages, where the system grants them, are filled in a third of the time, make rows that lie
 * anywhere cheaper to reach, and are given back in a tenth of the time. */
int file_load(struct mapped *m, const char *path, struct err *err)
{
    size_t size = 0;
    int fd = open_regular(path, &size, err), result = 0;
    void *p;

    *m = (struct mapped){NULL, 0};
    if (fd == -1)
        return -1;
    if (size > 0) {
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            result = err_set(err, ERR_NOMEM, "%s: no memory for its %zu bytes", path, size);
        } else {
            *m = (struct mapped){p, size};
            madvise(p, size, MADV_HUGEPAGE);
            result = read_exactly(fd, path, p, size, err);
        }
    }
    close(fd);
    if (result == -1)
        file_unmap(m);
    return result;
}

void file_keep(struct mapped *m, const void *keep, size_t len)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)m->bytes, first = (uintptr_t)keep / page * page;
    uintptr_t end = (start + m->len + page - 1) / page * page;
    uintptr_t last = ((uintptr_t)keep + len + page - 1) / page * page;

    if (first > start)
        munmap((void *)start, first - start);
    if (last < end)
        munmap((void *)last, end - last);
    *m = (struct mapped){(const uint8_t *)first, last - first};
}

void file_forget(const struct mapped *m, const void *at, size_t len)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)at / page * page, end = (uintptr_t)m->bytes + m->len;
    uintptr_t last = (uintptr_t)at + len == end ? end : ((uintptr_t)at + len) / page * page;

    if (last > first)
        madvise((void *)first, last - first, MADV_DONTNEED);
}

void file_unmap(struct mapped *m)
{
    if (m->len > 0)
        munmap((void *)m->bytes, m->len);
    *m = (struct mapped){NULL, 0};
}

/* Reads to the end, whatever stat says: pipes and /proc have no size. One byte beyond `max` is
 * asked for, to notice that there is more. */
static int read_all(int fd, const char *path, size_t max, struct buf *out, struct err *err)
{
    size_t got = 0;

    for (;;) {
        size_t room = max - got < 65536 ? max - got + 1 : 65536;
        ssize_t n;

        buf_reserve(out, room);
        n = read(fd, out->p + out->len, room);
        if (n == 0)
            return 0;
        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return fail(err, path, "cannot read");
        if ((size_t)n > max - got)
            return err_set(err, ERR_LIMIT, "%s: more than %zu bytes", path, max);
        out->len += (size_t)n;
        got += (size_t)n;
    }
}

int file_read(const char *path, size_t max, struct buf *out, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), result;
    size_t before = out->len;

    if (fd == -1)
        return fail(err, path, "cannot open");
    result = read_all(fd, path, max, out, err);
    if (result == -1)
        out->len = before;
    close(fd);
    return result;
}

/* ---- writing ------------------------------------------------------------------- */

static int write_all(int fd, const char *p, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, p, len);

        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return -1;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* "a/b" -> "a", "/b" -> "/", "b" -> "."; caller frees. */
static char *parent(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (slash == NULL)
        return xstrdup(".");
    return slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

/* A rename lasts only once the folder is on the disk too. Some file systems refuse to sync a
 * folder; there is nothing better to do then. */
static void sync_folder_of(const char *path)
{
    char *dir = parent(path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd != -1) {
        fsync(fd);
        close(fd);
    }
    free(dir);
}

struct file_out {
    char *path, *beside;
    int fd;
};

struct file_out *file_out_new(const char *path, struct err *err)
{
    struct file_out *o = xcalloc(1, sizeof *o);
    uint64_t unique = clock_ns();

    if (getrandom(&unique, sizeof unique, GRND_NONBLOCK) == -1)
        unique ^= (uint64_t)getpid() << 32;
    o->path = xstrdup(path);
    o->beside = xasprintf("%s.%016llx.tmp", path, (unsigned long long)unique);
    o->fd = open(o->beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (o->fd != -1)
        return o;
    fail(err, o->beside, "cannot create");
    free(o->path);
    free(o->beside);
    free(o);
    return NULL;
}

int file_out_put(struct file_out *o, const void *bytes, size_t len, struct err *err)
{
    return write_all(o->fd, bytes, len) == -1 ? fail(err, o->beside, "cannot write") : 0;
}

int file_out_end(struct file_out *o, bool keep, struct err *err)
{
    int result = 0;

    if (keep && fsync(o->fd) == -1)
        result = fail(err, o->beside, "cannot write");
    if (close(o->fd) == -1 && keep && result == 0)
        result = fail(err, o->beside, "cannot write");
    if (keep && result == 0 && rename(o->beside, o->path) == -1)
        result = fail(err, o->path, "cannot rename into place");
    if (keep && result == 0)
        sync_folder_of(o->path);
    else
        unlink(o->beside);
    free(o->path);
    free(o->beside);
    free(o);
    return result;
}

int file_write(const char *path, const void *bytes, size_t len, struct err *err)
{
    struct file_out *o = file_out_new(path, err);
    int result;

    if (o == NULL)
        return -1;
    result = file_out_put(o, bytes, len, err);
    return file_out_end(o, result == 0, err) == -1 ? -1 : result;
}

static int make_folder(const char *path, struct err *err)
{
    struct stat st;

    if (mkdir(path, 0777) == 0)
        return 0;
    if (errno != EEXIST)
        return fail(err, path, "cannot create folder");
    if (stat(path, &st) == -1 || !S_ISDIR(st.st_mode))
        return err_set(err, ERR_IO, "%s: is in the way: not a folder", path);
    return 0;
}

int file_mkdirs(const char *path, struct err *err)
{
    char *part = xstrdup(path);
    int result = 0;

    for (char *p = part; *p != '\0' && result == 0; p++) {
        if (*p == '/' && p > part) {
            *p = '\0';
            result = make_folder(part, err);
            *p = '/';
        }
    }
    if (result == 0)
        result = make_folder(part, err);
    free(part);
    return result;
}

char *path_join(const char *dir, const char *name)
{
    size_t len = strlen(dir);

    if (name[0] == '/' || len == 0)
        return xstrdup(name);
    return xasprintf("%s%s%s", dir, dir[len - 1] == '/' ? "" : "/", name);
}
