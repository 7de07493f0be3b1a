/* reader.c - the lines of many files, one after the other.
 *
 * A file that is being written ends somewhere; so does one whose writer was killed. A last line
 * without its '\n' is therefore counted and left out, wherever it is met. So is a file that the
 * writer's retention deletes between the moment it was listed and the moment it would be read. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "codec.h"
#include "names.h"

#define READ_SIZE ((size_t)1 << 20)

struct file {
    char *path;
    uint64_t size;
};

struct journal_reader {
    struct file *files;
    size_t n_files, room;
    size_t at;           /* the file being read, or to be read next */
    struct codec_in *in; /* NULL = not opened yet */
    struct buf text;     /* of which start.. is not given out yet, and none before `seen` is '\n' */
    size_t start, seen;
    uint64_t line; /* the last one given out, from 1 */
    struct journal_progress progress;
    struct buf place;
};

/* ---- what to read -------------------------------------------------------------------------- */

static void add_file(struct journal_reader *r, char *take, uint64_t size)
{
    if (r->n_files == r->room) {
        r->room = r->room == 0 ? 16 : 2 * r->room;
        r->files = xrealloc(r->files, r->room * sizeof *r->files);
    }
    r->files[r->n_files++] = (struct file){take, size};
    r->progress.bytes_total += size;
}

static uint64_t size_of(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static int add_folder(struct journal_reader *r, enum journal_kind kind, const char *dir,
                      struct err *err)
{
    struct journal_names names;

    if (journal_names_list(&names, dir, err) == -1)
        return -1;
    for (size_t i = 0; i < names.n; i++) {
        struct journal_name parsed;
        char *path;

        if (!journal_name_parse(names.list[i], &parsed) || parsed.kind != kind)
            continue;
        path = path_join(dir, names.list[i]);
        add_file(r, path, size_of(path));
    }
    journal_names_clear(&names);
    return 0;
}

static int add_path(struct journal_reader *r, enum journal_kind kind, const char *path,
                    struct err *err)
{
    struct stat st;
    size_t before = r->n_files;

    if (stat(path, &st) == -1)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path,
                       strerror(errno));
    if (!S_ISDIR(st.st_mode)) {
        add_file(r, xstrdup(path), (uint64_t)st.st_size);
        return 0;
    }
    if (add_folder(r, kind, path, err) == -1)
        return -1;
    if (r->n_files == before)
        return err_set(err, ERR_NOT_FOUND, "%s: no %s-*.jsonl file in this folder", path,
                       journal_kind_words[kind]);
    return 0;
}

struct journal_reader *journal_reader_open(enum journal_kind kind, const char *const *paths,
                                           size_t n, struct err *err)
{
    struct journal_reader *r = xcalloc(1, sizeof *r);
    int result = n > 0 ? 0 : err_set(err, ERR_USAGE, "no file or folder is named");

    for (size_t i = 0; i < n && result == 0; i++)
        result = add_path(r, kind, paths[i], err);
    r->progress.files_total = r->n_files;
    if (result == 0)
        return r;
    journal_reader_free(r);
    return NULL;
}

/* ---- lines --------------------------------------------------------------------------------- */

/* The file, or what it was compressed to since the folder was listed. 1, 0 when it is neither there
 * any more, -1 */
static int open_file(struct journal_reader *r, struct err *err)
{
    const char *path = r->files[r->at].path;
    struct err why = ERR_INIT;

    for (int form = JOURNAL_PLAIN; form <= JOURNAL_ZSTD; form++) {
        char *named = xasprintf("%s%s", path, journal_suffixes[form]);

        err_clear(&why);
        r->in = codec_in_open(named, &why);
        free(named);
        if (r->in != NULL || why.code != ERR_NOT_FOUND)
            break;
    }
    r->line = 0;
    r->text.len = r->start = r->seen = 0;
    if (r->in != NULL)
        return 1;
    return why.code == ERR_NOT_FOUND ? 0 : err_set(err, why.code, "%s", why.text);
}

static void end_file(struct journal_reader *r)
{
    codec_in_free(r->in);
    r->in = NULL;
    r->progress.bytes += r->files[r->at].size;
    r->progress.files++;
    r->at++;
}

/* 1 when there is more text, 0 at the end of the file. */
static int more_text(struct journal_reader *r, struct err *err)
{
    ssize_t n;

    if (r->text.len - r->start > JOURNAL_LINE_MAX)
        return err_set(err, ERR_FORMAT, "%s:%llu: the line is longer than %zu bytes",
                       r->files[r->at].path, (unsigned long long)r->line + 1, JOURNAL_LINE_MAX);
    if (r->start > 0) {
        memmove(r->text.p, r->text.p + r->start, r->text.len - r->start);
        r->text.len -= r->start;
        r->start = 0;
    }
    r->seen = r->text.len;
    buf_reserve(&r->text, READ_SIZE);
    n = codec_in_read(r->in, r->text.p + r->text.len, READ_SIZE, err);
    if (n > 0)
        r->text.len += (size_t)n;
    return n > 0 ? 1 : (int)n;
}

/* A whole line of what is there. */
static bool take_line(struct journal_reader *r, const char **line, size_t *len)
{
    const char *end =
        r->seen < r->text.len ? memchr(r->text.p + r->seen, '\n', r->text.len - r->seen) : NULL;

    if (end == NULL)
        return false;
    *line = r->text.p + r->start;
    *len = (size_t)(end - *line);
    r->start = r->seen = (size_t)(end + 1 - r->text.p);
    r->line++;
    return true;
}

int journal_reader_next(struct journal_reader *r, const char **line, size_t *len, struct err *err)
{
    while (r->at < r->n_files) {
        int more = r->in == NULL ? open_file(r, err) : 1;

        if (more == -1)
            return -1;
        if (more == 0) {
            r->progress.gone++;
            end_file(r);
            continue;
        }
        while (take_line(r, line, len)) {
            if (*len == 0)
                continue;
            r->progress.lines++;
            r->progress.text_bytes += *len + 1;
            return 1;
        }
        more = more_text(r, err);
        if (more == -1)
            return -1;
        if (more == 0) {
            r->progress.torn += r->text.len > r->start;
            end_file(r);
        }
    }
    return 0;
}

void journal_reader_rewind(struct journal_reader *r)
{
    uint64_t total = r->progress.bytes_total;

    codec_in_free(r->in);
    r->in = NULL;
    r->at = 0;
    r->progress = (struct journal_progress){.bytes_total = total, .files_total = r->n_files};
}

const char *journal_reader_place(struct journal_reader *r)
{
    size_t file = r->at < r->n_files ? r->at : r->n_files - 1;

    r->place.len = 0;
    buf_printf(&r->place, "%s:%llu", r->files[file].path, (unsigned long long)r->line);
    return buf_cstr(&r->place);
}

void journal_reader_progress(const struct journal_reader *r, struct journal_progress *out)
{
    *out = r->progress;
    if (r->in != NULL)
        out->bytes += codec_in_taken(r->in);
}

void journal_reader_free(struct journal_reader *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < r->n_files; i++)
        free(r->files[i].path);
    free(r->files);
    codec_in_free(r->in);
    buf_clear(&r->text);
    buf_clear(&r->place);
    free(r);
}
