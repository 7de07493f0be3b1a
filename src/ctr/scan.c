/* scan.c - fields of a line of the journal in one walk over its bytes. */
#include "scan.h"

#include <math.h>

static int bad(struct err *err, const char *why)
{
    return err_set(err, ERR_FORMAT, "%s", why);
}

/* ---- JSON, one value after the other --------------------------------------------------- */

static bool take_string(struct json_text *s, struct raw *out)
{
    const char *p;

    if (!json_take(s, '"'))
        return false;
    *out = (struct raw){s->p, 0, false};
    for (p = s->p; p < s->end && *p != '"'; p++)
        if (*p == '\\') {
            out->escaped = true;
            p++;
        }
    if (p >= s->end)
        return false;
    out->len = (size_t)(p - s->p);
    s->p = p + 1;
    return true;
}

static bool ends_word(char c)
{
    return c == ',' || c == ']' || c == '}' || (unsigned char)c <= ' ' || c == '"' || c == '[' ||
           c == '{' || c == ':';
}

/* A number, true, false or null: what stands there is the caller's to judge. */
static bool take_word(struct json_text *s, struct str *out)
{
    json_blanks(s);
    out->p = s->p;
    while (s->p < s->end && !ends_word(*s->p))
        s->p++;
    out->len = (size_t)(s->p - out->p);
    return out->len > 0;
}

/* An array or object, to its closing bracket; *out has the brackets too. */
static bool take_nested(struct json_text *s, struct str *out)
{
    int depth = 0;
    struct raw string;

    json_blanks(s);
    out->p = s->p;
    while (s->p < s->end) {
        char c = *s->p;

        if (c == '"') {
            if (!take_string(s, &string))
                return false;
            continue;
        }
        s->p++;
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        if (depth == 0)
            break;
    }
    out->len = (size_t)(s->p - out->p);
    return depth == 0 && out->len >= 2;
}

static bool skip_value(struct json_text *s)
{
    struct raw string;
    struct str other;

    json_blanks(s);
    if (s->p == s->end)
        return false;
    if (*s->p == '"')
        return take_string(s, &string);
    return *s->p == '[' || *s->p == '{' ? take_nested(s, &other) : take_word(s, &other);
}

/* The next name of an object, with its colon. 1, 0 behind the object, -1 */
static int take_name(struct json_text *s, bool first, struct raw *name)
{
    if (json_take(s, '}'))
        return 0;
    if (!first && !json_take(s, ','))
        return -1;
    return take_string(s, name) && json_take(s, ':') ? 1 : -1;
}

static bool is(struct raw name, const char *word)
{
    return name.len == strlen(word) && memcmp(name.p, word, name.len) == 0;
}

static bool take_i64(struct json_text *s, int64_t *out)
{
    struct str word;

    return take_word(s, &word) && parse_i64(word.p, word.len, out);
}

/* Milliseconds since 1970, to the end of the year 9999. */
static bool take_time(struct json_text *s, int64_t *out)
{
    return take_i64(s, out) && *out >= 0 && *out <= 253402300799999;
}

static bool take_bool(struct json_text *s, bool *out)
{
    struct str word;

    if (!take_word(s, &word))
        return false;
    *out = word.len == 4;
    return (word.len == 4 && memcmp(word.p, "true", 4) == 0) ||
           (word.len == 5 && memcmp(word.p, "false", 5) == 0);
}

static bool ends_well(struct json_text *s)
{
    json_blanks(s);
    return s->p == s->end;
}

/* ---- strings --------------------------------------------------------------------------- */

static int hex4(const char *p, const char *end)
{
    int v = 0;

    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;

        if (digit < 0)
            return -1;
        v = v * 16 + digit;
    }
    return v;
}

static void put_utf8(struct buf *out, uint32_t c)
{
    if (c < 0x80) {
        buf_putc(out, (char)c);
    } else if (c < 0x800) {
        buf_putc(out, (char)(0xc0 | c >> 6));
        buf_putc(out, (char)(0x80 | (c & 0x3f)));
    } else if (c < 0x10000) {
        buf_putc(out, (char)(0xe0 | c >> 12));
        buf_putc(out, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_putc(out, (char)(0x80 | (c & 0x3f)));
    } else {
        buf_putc(out, (char)(0xf0 | c >> 18));
        buf_putc(out, (char)(0x80 | (c >> 12 & 0x3f)));
        buf_putc(out, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_putc(out, (char)(0x80 | (c & 0x3f)));
    }
}

/* "\uXXXX", or two of them for a character beyond 0xffff; returns behind it. What is no character
 * becomes U+FFFD. `p` is behind the u. */
static const char *unescape_u(const char *p, const char *end, struct buf *out)
{
    int first = hex4(p, end), second;

    if (first < 0) {
        put_utf8(out, 0xfffd);
        return p;
    }
    p += 4;
    if (first >= 0xd800 && first < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
        second = hex4(p + 2, end);
        if (second >= 0xdc00 && second < 0xe000) {
            put_utf8(out,
                     0x10000 + ((uint32_t)(first - 0xd800) << 10 | (uint32_t)(second - 0xdc00)));
            return p + 6;
        }
    }
    put_utf8(out, first >= 0xd800 && first < 0xe000 ? 0xfffd : (uint32_t)first);
    return p;
}

void raw_text(struct raw r, struct buf *out)
{
    static const char letters[] = "bfnrt", meant[] = "\b\f\n\r\t";
    if (!r.escaped) {
        buf_put(out, r.p, r.len);
        return;
    }
    for (const char *p = r.p, *end = r.p + r.len; p < end;) {
        const char *letter;

        if (*p != '\\' || p + 1 == end) {
            buf_putc(out, *p++);
            continue;
        }
        letter = memchr(letters, p[1], sizeof letters - 1);
        p += 2;
        if (p[-1] == 'u')
            p = unescape_u(p, end, out);
        else
            buf_putc(out, letter != NULL ? meant[letter - letters] : p[-1]);
    }
}

uint64_t raw_hash(struct raw r)
{
    uint64_t hash;
    struct buf text = BUF_INIT;

    if (r.p == NULL)
        return 0;
    if (!r.escaped) {
        hash = hash_bytes(r.p, r.len);
    } else {
        raw_text(r, &text);
        hash = hash_bytes(text.p, text.len);
        buf_clear(&text);
    }
    return hash != 0 ? hash : 1;
}

/* ---- answers ------------------------------------------------------------------------- */

/* A bit for each field that is wanted; an answer without one of the first five counts for nothing.
 */
enum {
    HAS_TS = 1,
    HAS_ARMS = 2,
    HAS_FORCED = 4,
    HAS_DEGRADED = 8,
    HAS_ID = 16,
    HAS_USER = 32,
    HAS_VERSION = 64,
    HAS_SAMPLE = 128,
    HAS_ALL = 255
};

static bool check_arms(struct str arms)
{
    struct json_text s = {arms.p, arms.p + arms.len};
    struct raw name;
    int more;

    if (!json_take(&s, '{'))
        return false;
    for (bool first = true; (more = take_name(&s, first, &name)) == 1; first = false)
        if (!take_string(&s, &name))
            return false;
    return more == 0 && s.p == s.end;
}

bool scan_arm(struct str *at, struct raw *layer, struct raw *arm)
{
    struct json_text s = {at->p, at->p + at->len};
    bool more;

    if (!json_take(&s, '{'))
        (void)json_take(&s, ',');
    more = take_string(&s, layer) && json_take(&s, ':') && take_string(&s, arm);
    *at = (struct str){s.p, (size_t)(s.end - s.p)};
    return more;
}

/* One field of the head; false when its value is not what it must be. */
static bool served_field(struct scan_served *out, struct json_text *s, struct raw name, int *has)
{
    struct str word;
    int64_t v;

    if (is(name, "ts_ms")) {
        *has |= HAS_TS;
        return take_time(s, &out->ts_ms);
    }
    if (is(name, "serve_id")) {
        *has |= HAS_ID;
        return take_string(s, &out->serve_id);
    }
    if (is(name, "request_id")) {
        *has |= HAS_ID;
        return take_string(s, &out->request_id);
    }
    if (is(name, "user_id")) {
        *has |= HAS_USER;
        return take_string(s, &out->user_id);
    }
    if (is(name, "arms")) {
        *has |= HAS_ARMS;
        return take_nested(s, &out->arms) && check_arms(out->arms);
    }
    if (is(name, "forced")) {
        *has |= HAS_FORCED;
        return take_bool(s, &out->forced);
    }
    if (is(name, "degraded")) {
        *has |= HAS_DEGRADED;
        if (!take_nested(s, &word) || word.p[0] != '[')
            return false;
        out->degraded = memchr(word.p, '"', word.len) != NULL;
        return true;
    }
    if (is(name, "experiments")) {
        *has |= HAS_VERSION;
        return take_i64(s, &out->experiments);
    }
    if (is(name, "sample")) {
        *has |= HAS_SAMPLE;
        return take_word(s, &word) && parse_f64(word.p, word.len, &out->sample) &&
               out->sample > 0 && out->sample <= 1;
    }
    if (is(name, "v"))
        return take_i64(s, &v) && v == 1;
    return skip_value(s);
}

static bool is_list(struct raw name)
{
    return is(name, "items") || is(name, "scores") || is(name, "by");
}

static int bad_field(struct err *err, struct raw name)
{
    bool plain = name.len <= 64;

    for (size_t i = 0; plain && i < name.len; i++)
        plain = name.p[i] >= ' ' && name.p[i] <= '~';
    if (!plain)
        return bad(err, "a field has a value of a wrong type");
    return err_set(err, ERR_FORMAT, "%.*s: is not what it must be", (int)name.len, name.p);
}

static int has_all(int has, struct err *err)
{
    static const char *const names[] = {"ts_ms", "arms", "forced", "degraded",
                                        "serve_id or request_id"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!(has & 1 << i))
            return err_set(err, ERR_FORMAT, "%s: is missing", names[i]);
    return 0;
}

/* The line's last byte tells whether it was cut: the lists need not be walked for it. */
static bool closed(const char *line, size_t len)
{
    while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\r'))
        len--;
    return len > 0 && line[len - 1] == '}';
}

int scan_served(const char *line, size_t len, struct scan_served *out, struct err *err)
{
    struct json_text s = {line, line + len};
    struct raw name;
    int has = 0, more = -1;

    *out = (struct scan_served){.sample = 1};
    if (!json_take(&s, '{'))
        return bad(err, "is not a JSON object");
    if (!closed(line, len))
        return bad(err, "the JSON object is cut off");
    for (bool first = true;; first = false) {
        const char *before = s.p;

        more = take_name(&s, first, &name);
        if (more != 1)
            break;
        if (is_list(name) && out->rest.p == NULL)
            out->rest = (struct json_text){before, s.end};
        if (is_list(name) && has == HAS_ALL)
            return 0;
        if (!served_field(out, &s, name, &has))
            return bad_field(err, name);
    }
    if (more == -1 || !ends_well(&s))
        return bad(err, "is not a whole JSON object");
    return has_all(has, err);
}

/* An array of strings, or of whole numbers; *out has the brackets too. */
static bool take_list(struct json_text *s, bool strings, struct str *out)
{
    struct raw string;
    int64_t number;

    json_blanks(s);
    out->p = s->p;
    if (!json_take(s, '['))
        return false;
    if (!json_take(s, ']')) {
        do
            if (strings ? !take_string(s, &string) : !take_i64(s, &number))
                return false;
        while (json_take(s, ','));
        if (!json_take(s, ']'))
            return false;
    }
    out->len = (size_t)(s->p - out->p);
    return true;
}

/* Numbers between brackets, which nobody wants. */
static bool skip_scores(struct json_text *s)
{
    const char *close;

    json_blanks(s);
    close = memchr(s->p, ']', (size_t)(s->end - s->p));
    if (s->p == s->end || *s->p != '[' || close == NULL)
        return false;
    s->p = close + 1;
    return true;
}

int scan_served_lists(struct scan_served *s, struct err *err)
{
    struct json_text at = s->rest;
    struct raw name;
    int more = -1;

    if (at.p == NULL)
        return bad(err, "items: is missing");
    for (bool first = *at.p != ','; (more = take_name(&at, first, &name)) == 1; first = false) {
        bool good;

        if (is(name, "items"))
            good = take_list(&at, true, &s->items);
        else if (is(name, "by"))
            good = take_list(&at, false, &s->by);
        else
            good = is(name, "scores") ? skip_scores(&at) : skip_value(&at);
        if (!good)
            return bad_field(err, name);
    }
    if (more == -1 || !ends_well(&at))
        return bad(err, "is not a whole JSON object");
    return s->items.p != NULL ? 0 : bad(err, "items: is missing");
}

bool scan_item(struct str *at, struct raw *item)
{
    struct json_text s = {at->p, at->p + at->len};
    bool more;

    if (!json_take(&s, '['))
        (void)json_take(&s, ',');
    more = take_string(&s, item);
    *at = (struct str){s.p, (size_t)(s.end - s.p)};
    return more;
}

bool scan_number(struct str *at, int64_t *number)
{
    struct json_text s = {at->p, at->p + at->len};
    bool more;

    if (!json_take(&s, '['))
        (void)json_take(&s, ',');
    more = take_i64(&s, number);
    *at = (struct str){s.p, (size_t)(s.end - s.p)};
    return more;
}

/* ---- events ---------------------------------------------------------------------------- */

static bool event_field(struct scan_event *out, struct json_text *s, struct raw name, bool *kind)
{
    struct raw word;
    int64_t v;

    if (is(name, "ts_ms"))
        return take_time(s, &out->ts_ms);
    if (is(name, "received_ms"))
        return take_time(s, &out->received_ms);
    if (is(name, "position"))
        return take_i64(s, &out->position);
    if (is(name, "serve_id"))
        return take_string(s, &out->serve_id);
    if (is(name, "request_id"))
        return take_string(s, &out->request_id);
    if (is(name, "item_id"))
        return take_string(s, &out->item_id);
    if (is(name, "event_id"))
        return take_string(s, &out->event_id);
    if (is(name, "event")) {
        *kind = true;
        if (!take_string(s, &word))
            return false;
        out->kind = is(word, "exposed")   ? SCAN_EXPOSED
                    : is(word, "clicked") ? SCAN_CLICKED
                                          : SCAN_OTHER;
        return true;
    }
    if (is(name, "v"))
        return take_i64(s, &v) && v == 1;
    return skip_value(s);
}

int scan_event(const char *line, size_t len, struct scan_event *out, struct err *err)
{
    struct json_text s = {line, line + len};
    struct raw name;
    bool kind = false;
    int more = -1;

    *out = (struct scan_event){.ts_ms = -1, .received_ms = -1, .position = -1};
    if (!json_take(&s, '{'))
        return bad(err, "is not a JSON object");
    for (bool first = true; (more = take_name(&s, first, &name)) == 1; first = false)
        if (!event_field(out, &s, name, &kind))
            return bad_field(err, name);
    if (more == -1 || !ends_well(&s))
        return bad(err, "is not a whole JSON object");
    if (!kind)
        return bad(err, "event: is missing");
    if (out->serve_id.p == NULL && out->request_id.p == NULL)
        return bad(err, "serve_id or request_id: is missing");
    if (out->item_id.p == NULL)
        return bad(err, "item_id: is missing");
    if (out->ts_ms == -1)
        return bad(err, "ts_ms: is missing");
    return 0;
}
