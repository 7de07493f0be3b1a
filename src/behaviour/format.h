/* format.h - inside behaviour/ only: how behaviour.* is asked of Redis and understood, shared by
 * the stage with its threads and by the tools without. */
#ifndef RECALLD_BEHAVIOUR_FORMAT_H
#define RECALLD_BEHAVIOUR_FORMAT_H

#include "recalld/behaviour.h"

/* A key template, cut where the user id goes. */
struct key_template {
    char *text; /* NULL = there is no such key */
    struct str before, after;
};

struct format {
    struct behaviour_element *element;
    struct key_template history, exposed;
    enum behaviour_type type;
    enum behaviour_order order;
    char first[16], last[16]; /* the range that holds the newest */
};

int format_init(struct format *f, const struct config *cfg, struct err *err) WARN_UNUSED;
void format_clear(struct format *f);
struct str format_key(const struct key_template *t, struct str user_id, struct arena *arena);

/* One key of one job: the command that asks for it, and where the answer goes. */
struct question {
    struct str argv[4];
    const struct format *format;
    struct behaviour_job *job;
    bool exposed; /* which of the two keys */
    bool hung;    /* its user is among those */
    void *owner;
};
#define QUESTIONS_PER_JOB 2

/* Empties the job's results. */
void job_reset(struct behaviour_job *job, enum behaviour_status status);
/* Writes the questions of a job and their commands; returns how many (1 or 2). */
size_t job_ask(const struct format *f, struct behaviour_job *job, void *owner, bool hung,
               struct question *q, struct redis_command *cmds);
/* Takes one answer, which is not REDIS_BLOCKED. True when it was the job's last: it is complete. */
bool job_answer(const struct question *q, const struct redis_result *res);

bool behaviour_id_valid(struct str id); /* 1 to 256 bytes of UTF-8 */
/* The string or integer that a plain JSON object holds in a field; bytes of `element`. False says
 * nothing: jansson may find more. */
bool flat_field(struct str field, struct str element, struct str *id) WARN_UNUSED;
/* Appends the element of one item. The id is not checked. */
void behaviour_element_encode(const struct behaviour_element *e, struct str id, int64_t ts_ms,
                              struct buf *out);
/* A connection as redis.* says, not yet connected. */
struct redis_conn *connection_new(const struct config *cfg, struct breaker *b, struct err *err)
    WARN_UNUSED;

#endif
