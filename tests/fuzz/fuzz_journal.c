/* fuzz_journal.c - what the journal reads: files, their lines, and events that clients send.
 *
 * The input is a file, compressed perhaps: reading it ends, and gives no line with a '\n' in it.
 * Each line, and the input as a whole, is tried as either record: what is accepted, written and
 * read again is the same. As a client's event, what is accepted can be written and read. */
#include "fuzz.h"
#include "recalld/journal.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define LINES_MAX 1000 /* a few compressed bytes may stand for many */

static void as_served(const char *line, size_t len)
{
    struct arena arena = ARENA_INIT;
    struct journal_served s, again;
    struct err err = ERR_INIT;
    struct buf first = BUF_INIT, second = BUF_INIT;

    if (journal_served_decode(line, len, &arena, &s, &err) == 0) {
        assert(s.n_scores == 0 || s.n_scores == s.n_items);
        journal_served_encode(&first, &s);
        assert(memchr(first.p, '\n', first.len) == first.p + first.len - 1);
        assert(journal_served_decode(first.p, first.len, &arena, &again, &err) == 0);
        journal_served_encode(&second, &again);
        assert_same_text(&first, &second);
    } else {
        assert_refusal(&err, "");
    }
    buf_clear(&first);
    buf_clear(&second);
    arena_clear(&arena);
}

static void as_event(const char *line, size_t len)
{
    struct arena arena = ARENA_INIT;
    struct journal_event e, again;
    struct err err = ERR_INIT;
    struct buf first = BUF_INIT, second = BUF_INIT;

    if (journal_event_decode(line, len, &arena, &e, &err) == 0) {
        journal_event_encode(&first, &e);
        assert(journal_event_decode(first.p, first.len, &arena, &again, &err) == 0);
        journal_event_encode(&second, &again);
        assert_same_text(&first, &second);
    } else {
        assert_refusal(&err, "");
    }
    buf_clear(&first);
    buf_clear(&second);
    arena_clear(&arena);
}

static void as_clients_event(const char *text, size_t len)
{
    json_t *v = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    struct arena arena = ARENA_INIT;
    struct journal_event e, again;
    struct err err = ERR_INIT;
    struct buf line = BUF_INIT;

    if (v != NULL && journal_event_parse(v, 1764000000000, &arena, &e, &err) == 0) {
        journal_event_encode(&line, &e);
        assert(journal_event_decode(line.p, line.len, &arena, &again, &err) == 0);
        assert(again.position == e.position && again.ts_ms == e.ts_ms);
        assert(again.item_id.len == e.item_id.len && again.event_id.len == e.event_id.len);
    } else if (v != NULL) {
        assert_refusal(&err, "");
        assert(strchr(err.text, ':') != NULL); /* the field stands before it */
    }
    json_decref(v);
    buf_clear(&line);
    arena_clear(&arena);
}

static void as_file(const char *path)
{
    struct err err = ERR_INIT;
    struct journal_reader *r = journal_reader_open(JOURNAL_SERVED, &path, 1, &err);
    const char *line;
    size_t len;
    int got = 0;

    assert(r != NULL);
    for (int i = 0; i < LINES_MAX && (got = journal_reader_next(r, &line, &len, &err)) == 1; i++) {
        assert(len > 0 && memchr(line, '\n', len) == NULL);
        as_served(line, len);
        as_event(line, len);
    }
    if (got == -1)
        assert_refusal(&err, path);
    journal_reader_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    int fd = memfd_create("input", MFD_CLOEXEC);
    char path[64];

    assert(fd != -1 && write(fd, bytes, len) == (ssize_t)len);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    as_file(path);
    close(fd);
    as_served((const char *)bytes, len);
    as_event((const char *)bytes, len);
    as_clients_event((const char *)bytes, len);
    return 0;
}
