/* manifest.c - manifest.json between text and struct.
 *
 * Each JSON object has a table of its fields; one routine reads them all and refuses what is
 * unknown, missing, of another type or out of bounds, naming file and JSON path. */
#include "manifest.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX (UINT32_MAX - 1) /* ITEMS_NONE is no row */

/* Where messages say the fault is. */
struct source {
    const char *file;
    struct err *err;
};

enum kind {
    NAME,     /* const char *: manifest_name_valid */
    WORD,     /* const char *: any text that is not empty */
    PATH,     /* const char *: stays inside the bundle's directory */
    HASH,     /* char[SHA256_HEX] */
    INTEGER,  /* int64_t from min to max */
    FRACTION, /* double from 0 to 1 */
    OBJECT,   /* json_t * */
    LIST,     /* json_t *: an array of min to max elements */
};

struct field {
    const char *key;
    enum kind kind;
    bool optional; /* may be absent or null; *to is untouched then */
    void *to;
    int64_t min, max;
};

static int bad(const struct source *src, const char *path, const char *reason)
{
    return err_set(src->err, ERR_FORMAT, "%s: %s: %s", src->file, path, reason);
}

/* ---- single values ------------------------------------------------------------- */

bool manifest_name_valid(const char *s)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t len = strlen(s);

    return len >= 1 && len <= MANIFEST_NAME_MAX && strspn(s, allowed) == len;
}

/* Relative, and no part of it is empty, "." or "..": it cannot leave the directory. */
static bool path_stays_inside(const char *path)
{
    for (;;) {
        size_t part = strcspn(path, "/");

        if (part == 0 || (part == 1 && path[0] == '.') || (part == 2 && memcmp(path, "..", 2) == 0))
            return false;
        if (path[part] == '\0')
            return true;
        path += part + 1;
    }
}

static bool is_sha256(const char *s)
{
    return strlen(s) == SHA256_HEX - 1 && strspn(s, "0123456789abcdef") == SHA256_HEX - 1;
}

static int read_string(const struct source *src, const char *path, const json_t *v,
                       const struct field *f)
{
    const char *s = json_string_value(v);

    if (s == NULL)
        return bad(src, path, "must be a string");
    if (f->kind == NAME && !manifest_name_valid(s))
        return bad(src, path, "must be 1 to 60 of A-Z a-z 0-9 . _ -");
    if (f->kind == WORD && s[0] == '\0')
        return bad(src, path, "must not be empty");
    if (f->kind == PATH && !path_stays_inside(s))
        return bad(src, path, "must be a path inside the bundle: relative, without . or ..");
    if (f->kind == PATH && strlen(s) > MANIFEST_PATH_MAX)
        return bad(src, path, "must be at most 255 bytes");
    if (f->kind == HASH && !is_sha256(s))
        return bad(src, path, "must be a SHA-256: 64 hexadecimal digits in lower case");
    if (f->kind == HASH)
        memcpy(f->to, s, SHA256_HEX);
    else
        *(const char **)f->to = s;
    return 0;
}

static int read_integer(const struct source *src, const char *path, const json_t *v,
                        const struct field *f)
{
    if (!json_is_integer(v) || json_integer_value(v) < f->min || json_integer_value(v) > f->max)
        return err_set(src->err, ERR_FORMAT, "%s: %s: must be a whole number from %lld to %lld",
                       src->file, path, (long long)f->min, (long long)f->max);
    *(int64_t *)f->to = json_integer_value(v);
    return 0;
}

static int read_fraction(const struct source *src, const char *path, const json_t *v,
                         const struct field *f)
{
    double d = json_number_value(v);

    if (!json_is_number(v) || !(d >= 0 && d <= 1))
        return bad(src, path, "must be a number from 0 to 1");
    *(double *)f->to = d;
    return 0;
}

static int read_container(const struct source *src, const char *path, json_t *v,
                          const struct field *f)
{
    if (f->kind == OBJECT && !json_is_object(v))
        return bad(src, path, "must be an object");
    if (f->kind == LIST && !json_is_array(v))
        return bad(src, path, "must be a list");
    if (f->kind == LIST &&
        ((int64_t)json_array_size(v) < f->min || (int64_t)json_array_size(v) > f->max))
        return err_set(src->err, ERR_FORMAT, "%s: %s: must have %lld to %lld elements", src->file,
                       path, (long long)f->min, (long long)f->max);
    *(json_t **)f->to = v;
    return 0;
}

static int read_value(const struct source *src, const char *path, json_t *v, const struct field *f)
{
    switch (f->kind) {
    case INTEGER:
        return read_integer(src, path, v, f);
    case FRACTION:
        return read_fraction(src, path, v, f);
    case OBJECT:
    case LIST:
        return read_container(src, path, v, f);
    default:
        return read_string(src, path, v, f);
    }
}

/* ---- objects ------------------------------------------------------------------- */

#define PATH_TEXT 160 /* a JSON path in messages; long unknown keys are cut */

/* "index" and "engine" -> "index.engine"; the top level's path is "". */
static const char *path_to(char out[PATH_TEXT], const char *parent, const char *key)
{
    snprintf(out, PATH_TEXT, "%.48s%s%.96s", parent, parent[0] == '\0' ? "" : ".", key);
    return out;
}

static bool knows(const struct field *fields, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(fields[i].key, key) == 0)
            return true;
    return false;
}

static int read_object(const struct source *src, const char *parent, json_t *object,
                       const struct field *fields, size_t n)
{
    char path[PATH_TEXT];
    const char *key;
    json_t *v;

    json_object_foreach (object, key, v) {
        if (!knows(fields, n, key))
            return bad(src, path_to(path, parent, key), "unknown field");
    }
    for (size_t i = 0; i < n; i++) {
        v = json_object_get(object, fields[i].key);
        if (fields[i].optional && (v == NULL || json_is_null(v)))
            continue;
        path_to(path, parent, fields[i].key);
        if (v == NULL)
            return bad(src, path, "is missing");
        if (read_value(src, path, v, &fields[i]) == -1)
            return -1;
    }
    return 0;
}

/* {"file", "sha256", "bytes"} */
static int read_file(const struct source *src, const char *path, json_t *object,
                     struct manifest_file *file)
{
    const struct field fields[] = {
        {"file", PATH, false, &file->file, 0, 0},
        {"sha256", HASH, false, file->sha256, 0, 0},
        {"bytes", INTEGER, true, &file->bytes, 0, INT64_MAX},
    };

    return object == NULL ? 0 : read_object(src, path, object, fields, ARRAY_LEN(fields));
}

/* ---- model --------------------------------------------------------------------- */

static int set_option(const struct source *src, struct model_options *o, const char *key,
                      const json_t *v)
{
    char path[PATH_TEXT];
    struct err why = ERR_INIT;
    char *dumped = NULL;
    const char *text = json_string_value(v);
    int result;

    path_to(path, "model", key);
    if (!model_options_is_key(key))
        return bad(src, path, "unknown field");
    if (json_is_object(v) || json_is_null(v))
        return bad(src, path, "must be a string, a number, true, false or a list");
    if (text == NULL)
        text = dumped = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    result = model_options_set(o, key, text == NULL ? "" : text, &why);
    if (result == -1)
        bad(src, path, why.text);
    free(dumped);
    return result;
}

/* `variant` sets everything, so it comes first wherever it stands in the file. */
static int read_model(const struct source *src, json_t *object, struct model_options *o)
{
    const char *key, *variant = json_string_value(json_object_get(object, "variant"));
    struct err why = ERR_INIT;
    json_t *v;

    if (variant == NULL)
        return bad(src, "model.variant", "is missing, or not a string");
    if (model_options_variant(o, variant, &why) == -1)
        return bad(src, "model.variant", why.text);
    json_object_foreach (object, key, v) {
        if (strcmp(key, "variant") != 0 && set_option(src, o, key, v) == -1)
            return -1;
    }
    if (o->init == INIT_FILE && !path_stays_inside(o->init_name))
        return bad(src, "model.init", "the file must be inside the bundle");
    return 0;
}

/* ---- items --------------------------------------------------------------------- */

static int read_items(const struct source *src, json_t *object, struct manifest *m)
{
    json_t *attributes = NULL;
    const struct field fields[] = {
        {"file", PATH, false, &m->items.file, 0, 0},
        {"sha256", HASH, false, m->items.sha256, 0, 0},
        {"bytes", INTEGER, true, &m->items.bytes, 0, INT64_MAX},
        {"count", INTEGER, false, &m->items_count, 1, ROWS_MAX},
        {"padding_row", INTEGER, true, &m->padding_row, 0, ROWS_MAX},
        {"attributes", LIST, false, &attributes, 0, ITEMS_ATTRIBUTES_MAX},
    };

    if (read_object(src, "items", object, fields, ARRAY_LEN(fields)) == -1)
        return -1;
    for (size_t i = 0; i < json_array_size(attributes); i++) {
        const struct field f = {"", WORD, false, &m->attributes[i], 0, 0};
        char path[PATH_TEXT];

        snprintf(path, sizeof path, "items.attributes[%zu]", i);
        if (read_string(src, path, json_array_get(attributes, i), &f) == -1)
            return -1;
    }
    m->n_attributes = json_array_size(attributes);
    return 0;
}

/* ---- index --------------------------------------------------------------------- */

/* null, or one field whose name depends on the factory: {"efSearch": 128} */
static int read_search(const struct source *src, json_t *search, struct manifest *m)
{
    const char *name = m->factory == NULL ? NULL : index_effort_name(m->factory);
    const struct field fields[] = {
        {name, INTEGER, false, &m->effort, 1, 1000000},
    };

    if (name == NULL)
        return search == NULL
                   ? 0
                   : bad(src, "index.search", "must be null: this engine has no effort to set");
    if (search == NULL)
        return err_set(src->err, ERR_FORMAT,
                       "%s: index.search: must be {\"%s\": ...} for the factory %s", src->file,
                       name, m->factory);
    return read_object(src, "index.search", search, fields, ARRAY_LEN(fields));
}

static int read_shard(const struct source *src, const char *path, json_t *object, bool exact,
                      struct manifest_shard *s)
{
    const struct field fields[] = {
        {"first_row", INTEGER, false, &s->first_row, 0, ROWS_MAX},
        {"rows", INTEGER, false, &s->rows, 1, ROWS_MAX},
        {"file", PATH, false, &s->file.file, 0, 0}, /* from here on with faiss only */
        {"sha256", HASH, false, s->file.sha256, 0, 0},
        {"bytes", INTEGER, true, &s->file.bytes, 0, INT64_MAX},
    };

    if (!json_is_object(object))
        return bad(src, path, "must be an object");
    return read_object(src, path, object, fields, exact ? 2 : ARRAY_LEN(fields));
}

static int read_shards(const struct source *src, json_t *list, struct manifest *m)
{
    bool exact = strcmp(m->engine, "exact") == 0;

    m->n_shards = json_array_size(list);
    m->shards = xcalloc(m->n_shards, sizeof *m->shards);
    for (size_t i = 0; i < m->n_shards; i++) {
        struct manifest_shard *s = &m->shards[i];
        int64_t expected = i == 0 ? 0 : s[-1].first_row + s[-1].rows;
        char path[PATH_TEXT];

        snprintf(path, sizeof path, "index.shards[%zu]", i);
        if (read_shard(src, path, json_array_get(list, i), exact, s) == -1)
            return -1;
        if (i > 0 && s->first_row != expected)
            return err_set(
                src->err, ERR_FORMAT,
                "%s: %s.first_row: %s: the shard before ends at row %lld, this one begins at %lld",
                src->file, path, s->first_row < expected ? "overlap" : "gap",
                (long long)expected - 1, (long long)s->first_row);
        if (s->first_row + s->rows - 1 > ROWS_MAX)
            return bad(src, path, "ends beyond the highest row there can be");
    }
    return 0;
}

static int check_engine(const struct source *src, const struct manifest *m, const char *metric)
{
    bool exact = strcmp(m->engine, "exact") == 0;

    if (!exact && strcmp(m->engine, "faiss") != 0)
        return bad(src, "index.engine", "must be \"exact\" or \"faiss\"");
    if (strcmp(metric, "inner_product") != 0)
        return bad(src, "index.metric", "must be \"inner_product\"");
    if (exact && m->factory != NULL)
        return bad(src, "index.factory", "must be null: the exact engine has none");
    if (!exact && m->factory == NULL)
        return bad(src, "index.factory", "is missing: the faiss engine needs one");
    return 0;
}

/* A user vector of one model in an index of another gives plausible nonsense: the index carries the
 * hash of the weights it was built from. */
static int read_index(const struct source *src, json_t *object, struct manifest *m)
{
    char weights[SHA256_HEX] = "";
    const char *metric = "";
    json_t *search = NULL, *shards = NULL;
    const struct field fields[] = {
        {"metric", WORD, false, &metric, 0, 0},
        {"engine", WORD, false, &m->engine, 0, 0},
        {"factory", WORD, true, &m->factory, 0, 0},
        {"search", OBJECT, true, &search, 0, 0},
        {"recall", FRACTION, false, &m->recall, 0, 0},
        {"shards", LIST, false, &shards, 1, INDEX_SHARDS_MAX},
        {"weights_sha256", HASH, false, weights, 0, 0},
    };

    if (read_object(src, "index", object, fields, ARRAY_LEN(fields)) == -1 ||
        check_engine(src, m, metric) == -1 || read_search(src, search, m) == -1 ||
        read_shards(src, shards, m) == -1)
        return -1;
    if (strcmp(weights, m->weights.sha256) != 0)
        return bad(src, "index.weights_sha256",
                   "differs from weights.sha256: the index was built from other weights");
    return 0;
}

/* ---- the whole ----------------------------------------------------------------- */

static int check_init(const struct source *src, const struct manifest *m)
{
    if (m->model.init != INIT_FILE)
        return m->init.file == NULL ? 0 : bad(src, "init", "only goes with model.init = file:PATH");
    if (m->init.file == NULL)
        return bad(src, "init", "is missing: model.init = file:PATH needs the file's hash");
    if (strcmp(m->init.file, m->model.init_name) != 0)
        return bad(src, "init.file", "differs from the file of model.init");
    return 0;
}

static int read_top(const struct source *src, json_t *root, struct manifest *m)
{
    json_t *model = NULL, *weights = NULL, *items = NULL, *index_json = NULL, *popular = NULL,
           *init = NULL;
    int64_t format;
    const struct field fields[] = {
        {"format", INTEGER, false, &format, 1, 1},   {"name", NAME, false, &m->name, 0, 0},
        {"version", NAME, false, &m->version, 0, 0}, {"model", OBJECT, false, &model, 0, 0},
        {"weights", OBJECT, false, &weights, 0, 0},  {"items", OBJECT, false, &items, 0, 0},
        {"index", OBJECT, false, &index_json, 0, 0}, {"popular", OBJECT, true, &popular, 0, 0},
        {"init", OBJECT, true, &init, 0, 0},
    };

    if (read_object(src, "", root, fields, ARRAY_LEN(fields)) == -1 ||
        read_model(src, model, &m->model) == -1 ||
        read_file(src, "weights", weights, &m->weights) == -1 || read_items(src, items, m) == -1 ||
        read_index(src, index_json, m) == -1 ||
        read_file(src, "popular", popular, &m->popular) == -1 ||
        read_file(src, "init", init, &m->init) == -1 || check_init(src, m) == -1)
        return -1;
    snprintf(m->full_name, sizeof m->full_name, "%s@%s", m->name, m->version);
    return 0;
}

struct manifest *manifest_parse(const char *file, const void *bytes, size_t len, struct err *err)
{
    const struct source src = {file, err};
    struct manifest *m = xcalloc(1, sizeof *m), *result = NULL;
    json_error_t why;

    m->padding_row = -1;
    m->json = json_loadb(len > 0 ? bytes : "", len, JSON_REJECT_DUPLICATES, &why);
    if (m->json == NULL) {
        err_set(err, ERR_FORMAT, "%s: line %d, column %d: %s", file, why.line, why.column,
                why.text);
        goto out;
    }
    if (!json_is_object((json_t *)m->json)) {
        err_set(err, ERR_FORMAT, "%s: must be a JSON object", file);
        goto out;
    }
    if (read_top(&src, m->json, m) == -1)
        goto out;
    sha256_hex(bytes, len, m->sha256);
    result = m;
    m = NULL;
out:
    manifest_free(m);
    return result;
}

struct manifest *manifest_read(const char *dir, struct err *err)
{
    char *path = path_join(dir, MANIFEST_FILE);
    struct manifest *m = NULL;
    struct buf text = BUF_INIT;

    if (file_read(path, MANIFEST_MAX, &text, err) == 0)
        m = manifest_parse(path, text.p, text.len, err);
    buf_clear(&text);
    free(path);
    return m;
}

void manifest_free(struct manifest *m)
{
    if (m == NULL)
        return;
    free(m->shards);
    json_decref(m->json);
    free(m);
}

int64_t manifest_end_row(const struct manifest *m)
{
    const struct manifest_shard *last = &m->shards[m->n_shards - 1];

    return last->first_row + last->rows;
}

/* ---- writing ------------------------------------------------------------------- */

static void put_string(struct buf *out, const char *s)
{
    buf_json(out, s, strlen(s));
}

static void put_member(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, "\"%s\": ", key);
    put_string(out, text);
}

struct option_writer {
    struct buf *out;
    bool first;
};

static void put_option(void *arg, const char *key, const char *json)
{
    struct option_writer *w = arg;

    buf_printf(w->out, "%s\n    \"%s\": %s", w->first ? "" : ",", key, json);
    w->first = false;
}

/* Of a file: what tells whether it is the one that is meant. */
static void put_identity(struct buf *out, const struct manifest_file *f)
{
    buf_printf(out, "\"sha256\": \"%s\"", f->sha256);
    if (f->bytes > 0)
        buf_printf(out, ", \"bytes\": %lld", (long long)f->bytes);
}

static void put_file(struct buf *out, const char *key, const struct manifest_file *f)
{
    if (f->file == NULL)
        return;
    buf_printf(out, "  \"%s\": { ", key);
    put_member(out, "file", f->file);
    buf_puts(out, ", ");
    put_identity(out, f);
    buf_puts(out, " },\n");
}

static void put_items(struct buf *out, const struct manifest *m)
{
    buf_puts(out, "  \"items\": { ");
    put_member(out, "file", m->items.file);
    buf_printf(out, ", \"count\": %lld", (long long)m->items_count);
    if (m->padding_row >= 0)
        buf_printf(out, ", \"padding_row\": %lld", (long long)m->padding_row);
    buf_puts(out, ", \"attributes\": [");
    for (size_t i = 0; i < m->n_attributes; i++) {
        buf_puts(out, i > 0 ? ", " : "");
        put_string(out, m->attributes[i]);
    }
    buf_puts(out, "],\n    ");
    put_identity(out, &m->items);
    buf_puts(out, " },\n");
}

static void put_shard(struct buf *out, const struct manifest_shard *s)
{
    buf_puts(out, "\n      { ");
    if (s->file.file != NULL) {
        put_member(out, "file", s->file.file);
        buf_puts(out, ", ");
    }
    buf_printf(out, "\"first_row\": %lld, \"rows\": %lld", (long long)s->first_row,
               (long long)s->rows);
    if (s->file.file != NULL) {
        buf_puts(out, ", ");
        put_identity(out, &s->file);
    }
    buf_puts(out, " }");
}

static void put_index(struct buf *out, const struct manifest *m)
{
    buf_puts(out, "  \"index\": { \"metric\": \"inner_product\", ");
    put_member(out, "engine", m->engine);
    buf_puts(out, ", \"factory\": ");
    if (m->factory == NULL)
        buf_puts(out, "null, \"search\": null");
    else
        put_string(out, m->factory);
    if (m->factory != NULL && m->effort > 0)
        buf_printf(out, ", \"search\": { \"%s\": %lld }", index_effort_name(m->factory),
                   (long long)m->effort);
    else if (m->factory != NULL)
        buf_puts(out, ", \"search\": null");
    buf_puts(out, ", \"recall\": ");
    buf_f64(out, m->recall);
    buf_puts(out, ",\n    \"shards\": [");
    for (size_t i = 0; i < m->n_shards; i++) {
        buf_puts(out, i > 0 ? "," : "");
        put_shard(out, &m->shards[i]);
    }
    buf_printf(out, "\n    ],\n    \"weights_sha256\": \"%s\" }\n", m->weights.sha256);
}

void manifest_write(const struct manifest *m, struct buf *out)
{
    struct option_writer w = {out, true};

    buf_puts(out, "{ \"format\": 1, ");
    put_member(out, "name", m->name);
    buf_puts(out, ", ");
    put_member(out, "version", m->version);
    buf_puts(out, ",\n  \"model\": {");
    model_options_each(&m->model, put_option, &w);
    buf_puts(out, "\n  },\n");
    put_file(out, "weights", &m->weights);
    put_file(out, "init", &m->init);
    put_items(out, m);
    put_file(out, "popular", &m->popular);
    put_index(out, m);
    buf_puts(out, "}\n");
}
