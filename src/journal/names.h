/* names.h - the names of the journal's files: KIND-TIME-NUMBER.jsonl, and .gz or .zst behind it.
 *
 * TIME is when the file was begun, UTC, so that names sort by time:
 * served-20261124T093005.123Z-000007.jsonl.zst */
#ifndef JOURNAL_NAMES_H
#define JOURNAL_NAMES_H

#include "recalld/journal.h"

#define JOURNAL_STAMP_LEN 20 /* 20261124T093005.123Z */
#define JOURNAL_NAME_MAX 64

struct journal_name {
    enum journal_kind kind;
    enum journal_compression form;
    char stamp[JOURNAL_STAMP_LEN + 1];
};

extern const char *const journal_kind_words[JOURNAL_KINDS];
extern const char *const journal_suffixes[]; /* by enum journal_compression: "", ".gz", ".zst" */

void journal_stamp(int64_t wall_ms, char out[JOURNAL_STAMP_LEN + 1]);
void journal_name_make(enum journal_kind kind, int64_t wall_ms, unsigned number,
                       char out[JOURNAL_NAME_MAX]);
/* False when `name` is none of ours. */
bool journal_name_parse(const char *name, struct journal_name *out);

/* The files of ours in a folder, sorted by name. NULL with *err set, or a list that
 * journal_names_free frees. A file of which the compressed form is there as well is left out:
 * somebody is about to delete it. */
struct journal_names {
    char **list;
    size_t n;
};
int journal_names_list(struct journal_names *out, const char *dir, struct err *err) WARN_UNUSED;
void journal_names_clear(struct journal_names *names);

#endif
