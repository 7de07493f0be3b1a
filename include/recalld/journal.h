/* journal.h - what was served and what became of it: two kinds of files, one JSON object a line.
 *
 * Writing: each thread that produces lines has a ring of its own, and pushing into it copies the
 * line, takes no lock and never waits. One thread empties the rings into files; a full ring and a
 * disk that takes nothing cost lines, which are counted, and no request. Files are rotated by size
 * and age, synced on an interval, then compressed and in the end deleted in the background.
 *
 * Reading: journal_reader goes through files, compressed or not, and leaves out a last line that
 * was not finished, and a file that was deleted since it was listed.
 *
 * docs/journal.md describes files and fields. Any thread may call what does not say otherwise; a
 * ring belongs to one thread, a reader to one thread. */
#ifndef RECALLD_JOURNAL_H
#define RECALLD_JOURNAL_H

#include <jansson.h>

#include "recalld/base.h"
#include "recalld/config.h"

enum journal_kind { JOURNAL_SERVED, JOURNAL_EVENTS, JOURNAL_KINDS };

#define JOURNAL_LINE_MAX ((size_t)4 << 20) /* bytes; a reader takes no longer line for one */

/* ---- records (record.c) ---- */

#define JOURNAL_VERSION 1

struct journal_pair {
    struct str name, value;
};

/* One answer. Everything is borrowed; a string of length 0 is absent. */
struct journal_served {
    int64_t ts_ms; /* when it was answered */
    struct str serve_id, request_id;
    struct str user_id; /* as the journal writes users: journal.user */
    struct str scene;
    const struct journal_pair *arms; /* layer, arm */
    size_t n_arms;
    struct str hash;     /* how units were hashed: "growthbook-v2" */
    bool forced;         /* an arm was; stays out of comparisons */
    int64_t experiments; /* the version in their file */
    struct str bundle;   /* name@version */
    struct str settings; /* a JSON object: those that differ from the defaults; absent = {} */
    struct str source;   /* model, popular, none */
    const struct str *degraded;
    size_t n_degraded;
    uint64_t history, interests; /* known items used; interests searched */
    double sample;               /* the share of users whose answers are written */
    uint64_t took_us;
    const struct str *items; /* best first */
    size_t n_items;
    const float *scores; /* (n_scores), the score of each item */
    const int *by;       /* (n_scores), the interest that found it */
    size_t n_scores;     /* n_items, or 0: popular items have neither */
};

/* What became of an item: exposed, clicked, or anything a client calls it. */
struct journal_event {
    int64_t ts_ms;       /* when it happened, says the client; otherwise when it was received */
    int64_t received_ms; /* when it was received */
    struct str event;
    struct str serve_id, request_id; /* at least one */
    struct str item_id;
    struct str user_id;  /* as the journal writes users */
    int64_t position;    /* from 0; -1 = not said */
    struct str event_id; /* for leaving out duplicates */
};

/* Appends the record as one line with its '\n'. */
void journal_served_encode(struct buf *out, const struct journal_served *s);
void journal_event_encode(struct buf *out, const struct journal_event *e);
/* The line back to the record, in memory of the arena. Fields that a later version may add are
 * ignored; another "v", a missing field and one of a wrong type are ERR_FORMAT with the field's
 * name. */
int journal_served_decode(const char *line, size_t len, struct arena *arena,
                          struct journal_served *out, struct err *err) WARN_UNUSED;
int journal_event_decode(const char *line, size_t len, struct arena *arena,
                         struct journal_event *out, struct err *err) WARN_UNUSED;

/* ---- reading (reader.c) ---- */

struct journal_reader;

struct journal_progress {
    uint64_t bytes, bytes_total; /* of the files as they are on the disk, compressed perhaps */
    uint64_t lines;              /* given out */
    uint64_t torn;               /* last lines that were not finished, left out */
    uint64_t gone;               /* files deleted before they could be read, left out */
    uint64_t text_bytes;         /* of all lines given out */
    size_t files, files_total;   /* finished */
};

/* `paths` are files and folders. Of a folder the files of this kind are read in the order of their
 * names, which is that of time; a file that is compressed meanwhile is found under its new name,
 * and one that is deleted meanwhile, as retention does, is left out and counted. A path given out
 * right is read whatever its name. NULL with *err set when a path is not there, or there is nothing
 * to read. */
struct journal_reader *journal_reader_open(enum journal_kind kind, const char *const *paths,
                                           size_t n, struct err *err) WARN_UNUSED;
/* 1 and a line without its '\n', borrowed until the next call; 0 at the end of all files; -1 with
 * *err set, which names file and line (a file that cannot be read or decompressed, a line longer
 * than JOURNAL_LINE_MAX). */
int journal_reader_next(struct journal_reader *r, const char **line, size_t *len, struct err *err)
    WARN_UNUSED;
/* From the first line again: for programs that read twice. */
void journal_reader_rewind(struct journal_reader *r);
/* Where the last line stood, for messages: "FILE:LINE", borrowed until the next call. */
const char *journal_reader_place(struct journal_reader *r);
void journal_reader_progress(const struct journal_reader *r, struct journal_progress *out);
void journal_reader_free(struct journal_reader *r); /* NULL allowed */

/* ---- writing ---- */

struct journal;
struct journal_ring;

/* *out = NULL when journal.dir is empty: the journal is off, and every function below takes a NULL
 * for it. A folder or a disk that takes nothing now is no failure: that is logged, counted, and
 * tried again. -1 with *err set when the key file cannot be used, or another process writes into
 * the same folder. */
int journal_open(struct journal **out, const struct config *cfg, struct err *err) WARN_UNUSED;
/* What journal_open would refuse, and a folder that cannot be written to; changes nothing. */
int journal_check(const struct config *cfg, struct err *err) WARN_UNUSED;
/* Writes and syncs all that was pushed; the rings are gone. Nobody may push any more. */
void journal_close(struct journal *j);

/* A ring for the calling thread alone; lives as long as the journal. NULL when that is off. */
struct journal_ring *journal_ring(struct journal *j, enum journal_kind kind);
/* `line` ends with its only '\n'. False when it was dropped, and counted. */
bool journal_push(struct journal_ring *r, const char *line, size_t len);

/* How the journal writes a user: as he is, or the first half of his HMAC-SHA256 as hex, for which
 * `room` is used. */
#define JOURNAL_USER_ROOM 33
struct str journal_user(const struct journal *j, struct str user_id, char room[JOURNAL_USER_ROOM]);
/* Are this user's answers written, with journal.sample? Without a user: by the request. */
bool journal_samples(const struct journal *j, struct str user_id, const char *request_id);
double journal_sample(const struct journal *j); /* the share, for the record */

/* ---- events (parse.c, events.c) ---- */

/* An event as clients send it, borrowed from `v` and the arena. Refused is what is not a field of
 * an event, or not as docs/api.md says: ERR_USAGE, the text begins with the field. */
int journal_event_parse(json_t *v, int64_t now_ms, struct arena *arena, struct journal_event *out,
                        struct err *err) WARN_UNUSED;

enum journal_outcome {
    JOURNAL_ACCEPTED,
    JOURNAL_DUPLICATE, /* its event_id was there lately, so it is in the journal already */
    JOURNAL_FULL,      /* dropped and counted: try again */
    JOURNAL_OFF
};
/* Any thread. The user is given as he is; `scratch` is the caller's, to encode into. Of the newest
 * JOURNAL_EVENTS_REMEMBERED event_ids duplicates are found, as long as the process lives. */
#define JOURNAL_EVENTS_REMEMBERED ((size_t)1 << 20)
enum journal_outcome journal_event_add(struct journal *j, const struct journal_event *e,
                                       struct buf *scratch);

#endif
