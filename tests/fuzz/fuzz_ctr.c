/* fuzz_ctr.c - a line of the journal as the figures of experiments read it.
 *
 * The input is tried as an answer and as an event. What is found lies within the line, and lists
 * come to an end. Where the journal's own reader takes the line for a record, that record, written
 * again, is read alike by both. */
#include "../../src/ctr/scan.h"
#include "fuzz.h"

#include "recalld/journal.h"

#define TIME_MAX 253402300799999

static bool within(const uint8_t *bytes, size_t len, const char *p, size_t n)
{
    return p == NULL || (p >= (const char *)bytes && p + n <= (const char *)bytes + len);
}

static bool same(struct raw r, struct str s)
{
    struct buf text = BUF_INIT;
    bool equal;

    raw_text(r, &text);
    equal = text.len == s.len && (s.len == 0 || memcmp(text.p, s.p, s.len) == 0);
    buf_clear(&text);
    return equal;
}

static void walk(const struct scan_served *s)
{
    struct raw layer, arm, item;
    struct buf text = BUF_INIT;
    int64_t number;

    for (struct str at = s->arms; scan_arm(&at, &layer, &arm);)
        raw_text(arm, &text);
    for (struct str at = s->items; s->items.p != NULL && scan_item(&at, &item);)
        (void)raw_hash(item);
    for (struct str at = s->by; s->by.p != NULL && scan_number(&at, &number);)
        ;
    buf_clear(&text);
}

static void try_answer(const uint8_t *bytes, size_t len)
{
    struct scan_served s;
    struct err err = ERR_INIT;

    if (scan_served((const char *)bytes, len, &s, &err) == -1) {
        assert_refusal(&err, "");
        return;
    }
    assert(within(bytes, len, s.serve_id.p, s.serve_id.len));
    assert(within(bytes, len, s.request_id.p, s.request_id.len));
    assert(within(bytes, len, s.user_id.p, s.user_id.len));
    assert(within(bytes, len, s.arms.p, s.arms.len));
    assert(s.sample > 0 && s.sample <= 1 && s.ts_ms >= 0 && s.ts_ms <= TIME_MAX);
    if (scan_served_lists(&s, &err) == -1) {
        assert_refusal(&err, "");
        return;
    }
    assert(within(bytes, len, s.items.p, s.items.len) && within(bytes, len, s.by.p, s.by.len));
    walk(&s);
}

static void compare_answer(const struct journal_served *record)
{
    struct buf line = BUF_INIT;
    struct scan_served s;
    struct err err = ERR_INIT;
    struct raw layer, arm, item;
    struct str at;
    int64_t number;

    journal_served_encode(&line, record);
    assert(scan_served(line.p, line.len - 1, &s, &err) == 0);
    assert(scan_served_lists(&s, &err) == 0);
    assert(s.ts_ms == record->ts_ms && s.experiments == record->experiments);
    assert(s.forced == record->forced && s.degraded == (record->n_degraded > 0));
    assert(same(s.serve_id, record->serve_id) && same(s.request_id, record->request_id));
    assert(same(s.user_id, record->user_id));
    at = s.arms;
    for (size_t i = 0; i < record->n_arms; i++)
        assert(scan_arm(&at, &layer, &arm) && same(layer, record->arms[i].name) &&
               same(arm, record->arms[i].value));
    assert(!scan_arm(&at, &layer, &arm));
    at = s.items;
    for (size_t i = 0; i < record->n_items; i++)
        assert(scan_item(&at, &item) && same(item, record->items[i]));
    assert(!scan_item(&at, &item));
    at = s.by;
    for (size_t i = 0; i < record->n_scores; i++)
        assert(scan_number(&at, &number) && number == record->by[i]);
    assert(!scan_number(&at, &number));
    buf_clear(&line);
}

static void try_event(const uint8_t *bytes, size_t len)
{
    struct scan_event e;
    struct err err = ERR_INIT;

    if (scan_event((const char *)bytes, len, &e, &err) == -1) {
        assert_refusal(&err, "");
        return;
    }
    assert(within(bytes, len, e.item_id.p, e.item_id.len));
    assert(within(bytes, len, e.event_id.p, e.event_id.len));
    assert(raw_hash(e.item_id) != 0 && (e.serve_id.p != NULL || e.request_id.p != NULL));
}

static void compare_event(const struct journal_event *record)
{
    struct buf line = BUF_INIT;
    struct scan_event e;
    struct err err = ERR_INIT;

    journal_event_encode(&line, record);
    assert(scan_event(line.p, line.len - 1, &e, &err) == 0);
    assert(e.ts_ms == record->ts_ms && e.received_ms == record->received_ms);
    assert(e.position == record->position);
    assert(same(e.serve_id, record->serve_id) && same(e.request_id, record->request_id));
    assert(same(e.item_id, record->item_id) && same(e.event_id, record->event_id));
    buf_clear(&line);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct arena arena = ARENA_INIT;
    struct journal_served served;
    struct journal_event event;
    struct err err = ERR_INIT;

    try_answer(bytes, len);
    try_event(bytes, len);
    if (journal_served_decode((const char *)bytes, len, &arena, &served, &err) == 0 &&
        served.ts_ms <= TIME_MAX)
        compare_answer(&served);
    if (journal_event_decode((const char *)bytes, len, &arena, &event, &err) == 0 &&
        event.ts_ms <= TIME_MAX && event.received_ms <= TIME_MAX)
        compare_event(&event);
    arena_clear(&arena);
    return 0;
}
