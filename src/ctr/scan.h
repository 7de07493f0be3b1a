/* scan.h - what the figures need of a line of the journal, without a tree of it.
 *
 * journal.h decodes a record in full, into memory; here an answer that nobody reacted to costs a
 * look at its first fields. What is accepted has been checked as far as it was read: an answer's
 * head always, its lists when they are asked for. Fields may come in any order; when all that is
 * wanted comes before the lists, as recalld writes it, they need not be passed over. */
#ifndef CTR_SCAN_H
#define CTR_SCAN_H

#include "recalld/base.h"

/* The bytes of a JSON string between its quotes, as they stand: the same id may be written with
 * escapes or without. */
struct raw {
    const char *p; /* NULL = absent */
    size_t len;
    bool escaped;
};
/* The hash of the text that is meant; absent strings have 0, and no present one has. */
uint64_t raw_hash(struct raw r);
/* The text itself, appended. */
void raw_text(struct raw r, struct buf *out);

/* All of an answer but its lists; borrowed from the line. */
struct scan_served {
    int64_t ts_ms, experiments;
    double sample;
    bool forced, degraded;
    struct raw serve_id, request_id, user_id;
    struct str arms; /* an object of strings, checked: scan_arms cannot fail on it */
    struct str items, by;
    struct json_text rest; /* from the lists on */
};
/* ERR_FORMAT with a reason. */
int scan_served(const char *line, size_t len, struct scan_served *out, struct err *err) WARN_UNUSED;
/* Finds `items` and `by`: arrays, checked: scan_item and scan_number cannot fail on them. */
int scan_served_lists(struct scan_served *s, struct err *err) WARN_UNUSED;

/* False at the end. `at` begins as a part of a struct scan_served and moves on. */
bool scan_arm(struct str *at, struct raw *layer, struct raw *arm);
bool scan_item(struct str *at, struct raw *item);
bool scan_number(struct str *at, int64_t *number);

enum scan_kind { SCAN_EXPOSED, SCAN_CLICKED, SCAN_OTHER };

struct scan_event {
    int64_t ts_ms, received_ms, position; /* -1 = not said */
    enum scan_kind kind;
    struct raw serve_id, request_id, item_id, event_id;
};
int scan_event(const char *line, size_t len, struct scan_event *out, struct err *err) WARN_UNUSED;

#endif
