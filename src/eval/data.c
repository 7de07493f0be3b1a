/* data.c - behaviour files: users and their items in order, as views into the file's bytes. */
#include "recalld/eval.h"

#include <stdlib.h>
#include <string.h>

struct eval_data {
    struct mapped file; /* nothing when the bytes are borrowed */
    const char *form;
    struct str *ids;   /* (users) */
    size_t *first;     /* (users + 1) the place of a user's first item */
    struct str *items; /* all users', one user after the other */
    size_t n_users, n_items;
};

/* Where the reading is. */
struct source {
    struct reader r;
    size_t line; /* the current one's number */
    struct err *err;
};

static bool next_line(struct source *s, const char **line, size_t *len)
{
    while (reader_line(&s->r, line, len)) {
        s->line++;
        for (size_t i = 0; i < *len; i++)
            if ((*line)[i] != ' ' && (*line)[i] != '\t')
                return true;
    }
    return false;
}

static int bad(const struct source *s, const char *what, const char *why)
{
    return err_set(s->err, ERR_FORMAT, "%s: line %zu: %s%s", s->r.name, s->line, what, why);
}

static int check_id(const struct source *s, const char *what, struct str id)
{
    if (id.len == 0 || id.len > ITEMS_ID_MAX || !utf8_valid(id.p, id.len))
        return bad(s, what, ": an id is 1 to 256 bytes of UTF-8");
    return 0;
}

/* The most that can come: a user a line, and an item behind each separator. */
static int make_room(struct eval_data *d, const void *bytes, size_t len, bool triples,
                     struct err *err)
{
    const char *p = bytes;
    size_t lines = 1, blanks = 0;

    for (size_t i = 0; i < len; i++) {
        lines += p[i] == '\n';
        blanks += p[i] == ' ' || p[i] == '\t';
    }
    d->ids = mem_try_array(lines, sizeof *d->ids);
    d->first = mem_try_array(lines + 1, sizeof *d->first);
    d->items = mem_try_array((triples ? lines : blanks) + 1, sizeof *d->items);
    if (d->ids == NULL || d->first == NULL || d->items == NULL || lines >= UINT32_MAX)
        return err_set(err, ERR_NOMEM, "no memory for %zu lines of behaviour", lines);
    return 0;
}

/* ---- a user a line --------------------------------------------------------------- */

static int take_user(struct eval_data *d, struct source *s, const char *line, size_t len)
{
    struct history_line h;
    struct str id;

    if (!history_line_start(&h, line, len))
        return bad(s, "begins with a separator, not with a user", "");
    id = (struct str){h.user, h.user_len};
    if (check_id(s, "user", id) == -1)
        return -1;
    d->ids[d->n_users] = id;
    d->first[d->n_users++] = d->n_items;
    while (history_line_next(&h, &id.p, &id.len)) {
        if (check_id(s, "item", id) == -1)
            return -1;
        d->items[d->n_items++] = id;
    }
    if (d->n_items == d->first[d->n_users - 1])
        return bad(s, "a user without items", "");
    return 0;
}

static int read_sequences(struct eval_data *d, struct source *s)
{
    const char *line;
    size_t len;

    d->form = "user item item ...";
    while (next_line(s, &line, &len))
        if (take_user(d, s, line, len) == -1)
            return -1;
    d->first[d->n_users] = d->n_items;
    return 0;
}

/* ---- user,item,position ------------------------------------------------------------ */

struct event {
    const char *item;
    int64_t position;
    uint32_t user, len;
};

/* Users by id: open addressing, at most half full; a slot holds the user's number + 1. */
struct user_map {
    uint32_t *slots;
    size_t mask;
};

static size_t slot_of(const struct user_map *map, const struct eval_data *d, struct str id)
{
    size_t i = hash_bytes(id.p, id.len) & map->mask;

    for (; map->slots[i] != 0; i = (i + 1) & map->mask) {
        struct str other = d->ids[map->slots[i] - 1];

        if (other.len == id.len && memcmp(other.p, id.p, id.len) == 0)
            break;
    }
    return i;
}

static void grow_map(struct user_map *map, const struct eval_data *d)
{
    size_t size = map->slots == NULL ? 1024 : 2 * (map->mask + 1);

    free(map->slots);
    map->slots = xcalloc(size, sizeof *map->slots);
    map->mask = size - 1;
    for (size_t i = 0; i < d->n_users; i++)
        map->slots[slot_of(map, d, d->ids[i])] = (uint32_t)i + 1;
}

static uint32_t user_number(struct user_map *map, struct eval_data *d, struct str id)
{
    size_t at;

    if (map->slots == NULL || 2 * d->n_users > map->mask)
        grow_map(map, d);
    at = slot_of(map, d, id);
    if (map->slots[at] == 0) {
        d->ids[d->n_users++] = id;
        map->slots[at] = (uint32_t)d->n_users;
    }
    return map->slots[at] - 1;
}

/* True when the line has three fields between two commas, and nothing blank. */
static bool split_triple(const char *line, size_t len, struct str part[3])
{
    size_t n = 0;

    part[0] = (struct str){line, 0};
    for (size_t i = 0; i < len; i++) {
        if (line[i] == ' ' || line[i] == '\t')
            return false;
        if (line[i] != ',')
            part[n].len++;
        else if (++n < 3)
            part[n] = (struct str){line + i + 1, 0};
        else
            return false;
    }
    return n == 2;
}

static int take_event(struct eval_data *d, struct source *s, struct user_map *map,
                      struct event *event, const char *line, size_t len)
{
    struct str part[3];

    if (!split_triple(line, len, part))
        return bad(s, "must be user,item,position", "");
    if (check_id(s, "user", part[0]) == -1 || check_id(s, "item", part[1]) == -1)
        return -1;
    if (!parse_i64(part[2].p, part[2].len, &event->position))
        return bad(s, "position", ": must be a whole number");
    event->user = user_number(map, d, part[0]);
    event->item = part[1].p;
    event->len = (uint32_t)part[1].len;
    return 0;
}

/* By user, then by position; equal positions as they stand in the file. */
static int by_user_and_position(const void *pa, const void *pb)
{
    const struct event *a = pa, *b = pb;

    if (a->user != b->user)
        return a->user < b->user ? -1 : 1;
    if (a->position != b->position)
        return a->position < b->position ? -1 : 1;
    return a->item < b->item ? -1 : a->item > b->item;
}

static void keep_events(struct eval_data *d, struct event *events, size_t n)
{
    bool sorted = true;

    for (size_t i = 1; i < n && sorted; i++)
        sorted = by_user_and_position(&events[i - 1], &events[i]) < 0;
    if (!sorted)
        qsort(events, n, sizeof *events, by_user_and_position);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || events[i].user != events[i - 1].user)
            d->first[events[i].user] = i;
        d->items[i] = (struct str){events[i].item, events[i].len};
    }
    d->n_items = n;
    d->first[d->n_users] = n;
}

static int read_triples(struct eval_data *d, struct source *s, size_t lines)
{
    struct event *events = mem_try_array(lines, sizeof *events);
    struct user_map map = {NULL, 0};
    const char *line;
    size_t n = 0, len;
    int result = 0;

    d->form = "user,item,position";
    if (events == NULL)
        result = err_set(s->err, ERR_NOMEM, "no memory for %zu lines of behaviour", lines);
    while (result == 0 && next_line(s, &line, &len))
        result = take_event(d, s, &map, &events[n++], line, len);
    if (result == 0)
        keep_events(d, events, n);
    free(map.slots);
    free(events);
    return result;
}

/* ---- the whole --------------------------------------------------------------------- */

static int count_lines(const struct source *s, size_t *n)
{
    struct source again = *s;
    const char *line;
    size_t len;

    for (*n = 0; next_line(&again, &line, &len); (*n)++)
        ;
    if (*n == 0)
        return err_set(s->err, ERR_FORMAT, "%s: has no users", s->r.name);
    return 0;
}

static int read_all(struct eval_data *d, const char *name, const void *bytes, size_t len,
                    struct err *err)
{
    struct source s = {.err = err}, first;
    struct str part[3];
    const char *line;
    size_t lines, line_len;
    bool triples;

    reader_init(&s.r, name, bytes, len);
    first = s;
    triples = next_line(&first, &line, &line_len) && split_triple(line, line_len, part);
    if (count_lines(&s, &lines) == -1 || make_room(d, bytes, len, triples, err) == -1)
        return -1;
    return triples ? read_triples(d, &s, lines) : read_sequences(d, &s);
}

struct eval_data *eval_data_read(const char *name, const void *bytes, size_t len, struct err *err)
{
    struct eval_data *d = xcalloc(1, sizeof *d);

    if (read_all(d, name, bytes, len, err) == 0)
        return d;
    eval_data_free(d);
    return NULL;
}

struct eval_data *eval_data_open(const char *path, struct err *err)
{
    struct mapped file;
    struct eval_data *d;

    if (file_map(&file, path, err) == -1)
        return NULL;
    d = eval_data_read(path, file.bytes, file.len, err);
    if (d == NULL)
        file_unmap(&file);
    else
        d->file = file;
    return d;
}

void eval_data_free(struct eval_data *d)
{
    if (d == NULL)
        return;
    free(d->ids);
    free(d->first);
    free(d->items);
    file_unmap(&d->file);
    free(d);
}

size_t eval_data_users(const struct eval_data *d)
{
    return d->n_users;
}

struct eval_user eval_data_user(const struct eval_data *d, size_t i)
{
    return (struct eval_user){d->ids[i], d->items + d->first[i], d->first[i + 1] - d->first[i]};
}

const char *eval_data_form(const struct eval_data *d)
{
    return d->form;
}
