/* events.c - what clients report, from any thread: without duplicates into one ring.
 *
 * A client that got no answer sends again, so an event_id that was there lately is left out. They
 * are remembered as hashes in two tables: the newer one fills, then it becomes the older one and
 * the former is forgotten. So the newest N are known at any time, at most 2N, and nothing is ever
 * deleted from a table. That a new id has the hash of one of two million has a chance of 1e-13. */
#include "journal_impl.h"

#include <stdlib.h>

struct journal_seen {
    uint64_t *newer, *older; /* (slots), open addressing; 0 = empty */
    size_t slots, n;         /* in `newer` */
    uint64_t secret;         /* odd: nobody can choose ids that crowd into one part of a table */
};

/* ---- the window ---------------------------------------------------------------------------- */

/* Large enough that its pages come from the system when they are first used, as zeros. */
static uint64_t *table_new(const struct journal_seen *s)
{
    return xcalloc(s->slots, sizeof(uint64_t));
}

struct journal_seen *journal_seen_new(size_t newest)
{
    struct journal_seen *s = xcalloc(1, sizeof *s);
    char chance[UUID_LEN + 1];

    uuid7(chance);
    s->secret = hash_bytes(chance, UUID_LEN) | 1;
    s->slots = 2 * newest; /* a power of two, half full at most */
    s->newer = table_new(s);
    s->older = table_new(s);
    return s;
}

void journal_seen_free(struct journal_seen *s)
{
    if (s == NULL)
        return;
    free(s->newer);
    free(s->older);
    free(s);
}

static uint64_t hash_of(struct str id)
{
    uint64_t h = hash_bytes(id.p, id.len);

    return h == 0 ? 1 : h;
}

/* The slot that holds the hash, or the empty one where it belongs. */
static uint64_t *find(const struct journal_seen *s, uint64_t *table, uint64_t h)
{
    size_t i = (h * s->secret >> 32) & (s->slots - 1);

    while (table[i] != 0 && table[i] != h)
        i = (i + 1) & (s->slots - 1);
    return &table[i];
}

bool journal_seen_has(const struct journal_seen *s, struct str id)
{
    uint64_t h = hash_of(id);

    return *find(s, s->newer, h) == h || *find(s, s->older, h) == h;
}

void journal_seen_add(struct journal_seen *s, struct str id)
{
    uint64_t h = hash_of(id), *slot;

    if (s->n == s->slots / 2) {
        free(s->older);
        s->older = s->newer;
        s->newer = table_new(s);
        s->n = 0;
    }
    slot = find(s, s->newer, h);
    s->n += *slot == 0;
    *slot = h;
}

/* ---- an event ------------------------------------------------------------------------------ */

/* Looked up and pushed under one lock: of two that come at once one is the duplicate, and what did
 * not fit is not remembered. */
static enum journal_outcome add(struct journal *j, struct str id, const struct buf *line)
{
    if (id.len > 0 && journal_seen_has(j->seen, id))
        return JOURNAL_DUPLICATE;
    if (!journal_push(j->events, line->p, line->len))
        return JOURNAL_FULL;
    if (id.len > 0)
        journal_seen_add(j->seen, id);
    return JOURNAL_ACCEPTED;
}

enum journal_outcome journal_event_add(struct journal *j, const struct journal_event *e,
                                       struct buf *scratch)
{
    struct journal_event written = *e;
    char room[JOURNAL_USER_ROOM];
    enum journal_outcome result;

    if (j == NULL)
        return JOURNAL_OFF;
    written.user_id = journal_user(j, e->user_id, room);
    scratch->len = 0;
    journal_event_encode(scratch, &written);
    pthread_mutex_lock(&j->events_lock);
    result = add(j, e->event_id, scratch);
    pthread_mutex_unlock(&j->events_lock);
    return result;
}
