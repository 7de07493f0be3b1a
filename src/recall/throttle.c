/* throttle.c - how long the kernel has kept our control group from the processor (cpu.stat). */
#include "effort.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GROUPS_MAX ((size_t)64 << 10)
#define STAT_MAX 4096

struct throttle {
    int fd;
    const char *field; /* "throttled_usec " */
    uint64_t unit;     /* ns */
};

/* A file's field is what tells the two versions apart. */
static const struct throttle versions[] = {
    {-1, "\nthrottled_usec ", 1000}, /* 2 */
    {-1, "\nthrottled_time ", 1},    /* 1 */
};

/* False when the file does not have the field. */
static bool read_field(const struct throttle *t, uint64_t *v)
{
    char text[STAT_MAX];
    ssize_t n = pread(t->fd, text, sizeof text - 1, 0);
    const char *at;

    if (n <= 0)
        return false;
    text[n] = '\0';
    at = strstr(text, t->field);
    if (at == NULL)
        return false;
    at += strlen(t->field);
    return parse_u64(at, strcspn(at, "\n"), v);
}

/* The file of one group; NULL when it is not there or knows nothing of throttling. */
static struct throttle *open_group(const char *dir, const char *path)
{
    char *file = xasprintf("%s%s/cpu.stat", dir, path);
    struct throttle t = {open(file, O_RDONLY | O_CLOEXEC), NULL, 0}, *result = NULL;
    uint64_t ignored;

    free(file);
    for (size_t i = 0; t.fd != -1 && result == NULL && i < ARRAY_LEN(versions); i++) {
        t.field = versions[i].field;
        t.unit = versions[i].unit;
        if (read_field(&t, &ignored)) {
            result = xmalloc(sizeof *result);
            *result = t;
        }
    }
    if (t.fd != -1 && result == NULL)
        close(t.fd);
    return result;
}

/* "4:cpu,cpuacct:/a/b" or "0::/a/b": the path when the group is one of `controller`. */
static const char *group_path(const char *line, const char *controller)
{
    const char *names = strchr(line, ':'), *path = names == NULL ? NULL : strchr(names + 1, ':');
    size_t len = strlen(controller);

    if (path == NULL)
        return NULL;
    if (len == 0)
        return path == names + 1 ? path + 1 : NULL;
    for (const char *p = names + 1; p < path; p += strcspn(p, ",:") + 1)
        if (strcspn(p, ",:") == len && memcmp(p, controller, len) == 0)
            return path + 1;
    return NULL;
}

/* In a container the path may be the host's, while the group's own files are mounted at the top. */
static struct throttle *find_group(const char *text, const char *controller, const char *dir)
{
    struct throttle *t = NULL;

    for (const char *line = text; t == NULL && *line != '\0';) {
        size_t len = strcspn(line, "\n");
        char *copy = xstrndup(line, len);
        const char *path = group_path(copy, controller);

        if (path != NULL && (t = open_group(dir, path)) == NULL)
            t = open_group(dir, "");
        free(copy);
        line += len + (line[len] == '\n');
    }
    return t;
}

struct throttle *throttle_open(const char *groups, const char *root)
{
    struct buf text = BUF_INIT;
    struct err err = ERR_INIT;
    struct throttle *t = NULL;
    char *cpu = path_join(root, "cpu");

    /* No file: not this kernel, so no signal. */
    if (file_read(groups, GROUPS_MAX, &text, &err) == 0) {
        t = find_group(buf_cstr(&text), "cpu", cpu);
        if (t == NULL)
            t = find_group(buf_cstr(&text), "", root);
    }
    free(cpu);
    buf_clear(&text);
    return t;
}

void throttle_free(struct throttle *t)
{
    if (t == NULL)
        return;
    close(t->fd);
    free(t);
}

uint64_t throttle_ns(const struct throttle *t)
{
    uint64_t v;

    return read_field(t, &v) ? v * t->unit : 0;
}
