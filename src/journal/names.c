/* names.c - making and reading the names of the journal's files, and listing a folder of them. */
#include "names.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

const char *const journal_kind_words[JOURNAL_KINDS] = {"served", "events"};
const char *const journal_suffixes[] = {"", ".gz", ".zst"};

void journal_stamp(int64_t wall_ms, char out[JOURNAL_STAMP_LEN + 1])
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm t;
    char text[64];

    gmtime_r(&seconds, &t);
    snprintf(text, sizeof text, "%04d%02d%02dT%02d%02d%02d.%03dZ", t.tm_year + 1900, t.tm_mon + 1,
             t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, (int)(wall_ms % 1000));
    snprintf(out, JOURNAL_STAMP_LEN + 1, "%s", text);
}

void journal_name_make(enum journal_kind kind, int64_t wall_ms, unsigned number,
                       char out[JOURNAL_NAME_MAX])
{
    char stamp[JOURNAL_STAMP_LEN + 1];

    journal_stamp(wall_ms, stamp);
    snprintf(out, JOURNAL_NAME_MAX, "%s-%s-%06u.jsonl", journal_kind_words[kind], stamp, number);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* 'd' in the pattern stands for a digit. */
static bool matches(const char *s, const char *pattern)
{
    for (; *pattern != '\0'; s++, pattern++)
        if (*pattern == 'd' ? *s < '0' || *s > '9' : *s != *pattern)
            return false;
    return true;
}

static bool parse_kind(const char **p, enum journal_kind *out)
{
    for (int k = 0; k < JOURNAL_KINDS; k++) {
        size_t len = strlen(journal_kind_words[k]);

        if (strncmp(*p, journal_kind_words[k], len) == 0 && (*p)[len] == '-') {
            *p += len + 1;
            *out = (enum journal_kind)k;
            return true;
        }
    }
    return false;
}

bool journal_name_parse(const char *name, struct journal_name *out)
{
    const char *p = name;

    if (!parse_kind(&p, &out->kind) || !matches(p, "ddddddddTdddddd.dddZ-"))
        return false;
    memcpy(out->stamp, p, JOURNAL_STAMP_LEN);
    out->stamp[JOURNAL_STAMP_LEN] = '\0';
    p += JOURNAL_STAMP_LEN + 1;
    p += strspn(p, "0123456789");
    if (!matches(p, ".jsonl"))
        return false;
    p += strlen(".jsonl");
    for (int form = JOURNAL_PLAIN; form <= JOURNAL_ZSTD; form++)
        if (strcmp(p, journal_suffixes[form]) == 0) {
            out->form = (enum journal_compression)form;
            return true;
        }
    return false;
}

/* ---- a folder ------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_compressed_form(const char *name, const char *of)
{
    size_t len = strlen(of);

    return strncmp(name, of, len) == 0 && name[len] == '.';
}

/* Sorted, a compressed form follows what it was made of. */
static void leave_out_doubles(struct journal_names *names)
{
    size_t kept = 0;

    for (size_t i = 0; i < names->n; i++) {
        if (i + 1 < names->n && is_compressed_form(names->list[i + 1], names->list[i]))
            free(names->list[i]);
        else
            names->list[kept++] = names->list[i];
    }
    names->n = kept;
}

int journal_names_list(struct journal_names *out, const char *dir, struct err *err)
{
    struct journal_name parsed;
    struct dirent *entry;
    size_t room = 0;
    DIR *d = opendir(dir);

    *out = (struct journal_names){NULL, 0};
    if (d == NULL)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: cannot open folder: %s",
                       dir, strerror(errno));
    while ((entry = readdir(d)) != NULL) {
        if (!journal_name_parse(entry->d_name, &parsed))
            continue;
        if (out->n == room) {
            room = room == 0 ? 64 : 2 * room;
            out->list = xrealloc(out->list, room * sizeof *out->list);
        }
        out->list[out->n++] = xstrdup(entry->d_name);
    }
    closedir(d);
    if (out->n > 0)
        qsort(out->list, out->n, sizeof *out->list, by_name);
    leave_out_doubles(out);
    return 0;
}

void journal_names_clear(struct journal_names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->list[i]);
    free(names->list);
    *names = (struct journal_names){NULL, 0};
}
