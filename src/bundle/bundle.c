/* bundle.c - one bundle: opened, verified in full, warmed, and counted.
 *
 * Every file is read once, into memory of its own, and hashed and parsed there: whoever rewrites or
 * shortens it meanwhile or afterwards changes nothing that is served. What manifest.c could check
 * by itself is settled before; here the manifest meets the files it speaks of. */
#include "manifest.h"
#include "measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct bundle {
    struct ref ref;
    char *dir;
    struct manifest *manifest;
    struct mapped weights; /* what the model still reads there */
    struct model *model;
    struct items *items;
    struct vectors vectors;
    struct index *index;
    uint32_t *popular; /* rows in fallback order */
    size_t n_popular;
};

/* What the steps of opening share. */
struct opening {
    struct bundle *b;
    bool by_size; /* files are not hashed */
    bundle_progress progress;
    void *arg;
    struct err *err;
};

static void report(const struct opening *o, const char *step, size_t done, size_t total)
{
    if (o->progress != NULL)
        o->progress(o->arg, step, done, total);
}

/* The manifest says something that its files do not bear out. */
static int PRINTF_LIKE(2, 3) wrong(const struct opening *o, const char *fmt, ...)
{
    char *path = path_join(o->b->dir, MANIFEST_FILE);
    struct buf reason = BUF_INIT;
    va_list args;

    va_start(args, fmt);
    buf_vprintf(&reason, fmt, args);
    va_end(args);
    err_set(o->err, ERR_FORMAT, "%s: %s", path, buf_cstr(&reason));
    buf_clear(&reason);
    free(path);
    return -1;
}

/* ---- files and their hashes ---------------------------------------------------- */

static int check_hash(const struct opening *o, const struct manifest_file *f, const char *path,
                      const struct mapped *m)
{
    char *step = xasprintf("hash %s", f->file), hex[SHA256_HEX];

    report(o, step, 0, m->len);
    sha256_hex(m->bytes, m->len, hex);
    report(o, step, m->len, m->len);
    free(step);
    if (strcmp(hex, f->sha256) == 0)
        return 0;
    return err_set(o->err, ERR_FORMAT,
                   "%s: SHA-256 is %.12s..., " MANIFEST_FILE
                   " says %.12s...: the file was changed, cut or belongs elsewhere",
                   path, hex, f->sha256);
}

static int check_size(const struct opening *o, const struct manifest_file *f, const char *path,
                      const struct mapped *m)
{
    if ((int64_t)m->len == f->bytes)
        return 0;
    if (f->bytes == 0)
        return err_set(o->err, ERR_FORMAT,
                       "%s: " MANIFEST_FILE
                       " does not say its size: verify it by hash, or build the bundle again",
                       path);
    return err_set(o->err, ERR_FORMAT,
                   "%s: has %zu bytes, " MANIFEST_FILE
                   " says %lld: the file was changed, cut or belongs elsewhere",
                   path, m->len, (long long)f->bytes);
}

/* The bytes of a file of the bundle, if they are those the manifest means; the caller unmaps. */
static int load_verified(const struct opening *o, const struct manifest_file *f, struct mapped *m)
{
    char *path = path_join(o->b->dir, f->file), *step = xasprintf("read %s", f->file);
    int result;

    report(o, step, 0, 0);
    result = file_load(m, path, o->err);
    if (result == 0) {
        result = (o->by_size ? check_size : check_hash)(o, f, path, m);
        if (result == -1)
            file_unmap(m);
    }
    free(step);
    free(path);
    return result;
}

/* ---- model and items ----------------------------------------------------------- */

/* The routing logits' own file is read by the model, by its path; looked at before and after, it
 * was not replaced in between. */
static int verify_init(const struct opening *o)
{
    struct mapped m;

    if (o->b->manifest->init.file == NULL)
        return 0;
    if (load_verified(o, &o->b->manifest->init, &m) == -1)
        return -1;
    file_unmap(&m);
    return 0;
}

/* Gives back what the model has copied, or has no use for, such as the state of an optimizer. */
static void keep_view(struct bundle *b)
{
    size_t bytes;
    const void *view = model_view(b->model, &bytes);

    if (view == NULL)
        file_unmap(&b->weights);
    else
        file_keep(&b->weights, view, bytes);
}

static int open_model(const struct opening *o)
{
    struct bundle *b = o->b;
    const struct manifest *m = b->manifest;
    char *path = path_join(b->dir, m->weights.file);
    struct ckpt *ckpt = NULL;
    size_t bytes;
    int result = -1;

    if (load_verified(o, &m->weights, &b->weights) == -1 || verify_init(o) == -1)
        goto out;
    bytes = b->weights.len;
    report(o, "open the model", 0, bytes);
    ckpt = ckpt_open_mem(path, b->weights.bytes, b->weights.len, o->err);
    if (ckpt == NULL)
        goto out;
    b->model = model_open(ckpt, &m->model, b->dir, o->err);
    if (b->model == NULL || verify_init(o) == -1)
        goto out;
    keep_view(b);
    b->vectors = (struct vectors){model_vectors(b->model), model_rows(b->model),
                                  (size_t)model_dim(b->model)};
    report(o, "open the model", bytes, bytes);
    result = 0;
out:
    ckpt_free(ckpt);
    free(path);
    return result;
}

static int check_attributes(const struct opening *o)
{
    const struct manifest *m = o->b->manifest;
    size_t n = items_attributes(o->b->items);

    if (n != m->n_attributes)
        return wrong(o, "items.attributes: names %zu, the header of %s names %zu", m->n_attributes,
                     m->items.file, n);
    for (size_t i = 0; i < n; i++) {
        const char *name = items_attribute_name(o->b->items, i);

        if (strcmp(name, m->attributes[i]) != 0)
            return wrong(o, "items.attributes[%zu]: is \"%s\", the header of %s says \"%s\"", i,
                         m->attributes[i], m->items.file, name);
    }
    return 0;
}

static int check_items(const struct opening *o)
{
    const struct manifest *m = o->b->manifest;
    size_t count = items_count(o->b->items), len;

    if (count != (size_t)m->items_count)
        return wrong(o, "items.count: is %lld, %s has %zu items", (long long)m->items_count,
                     m->items.file, count);
    if (m->padding_row >= 0 && items_id(o->b->items, (uint32_t)m->padding_row, &len) != NULL)
        return wrong(o, "items.padding_row: row %lld is padding, but an item of %s",
                     (long long)m->padding_row, m->items.file);
    if (m->model.padding_by == PADDING_BY_ID && items_id(o->b->items, 0, &len) != NULL)
        return err_set(o->err, ERR_FORMAT,
                       "%s/%s: row 0 is an item, but model.padding_by = id takes it for padding",
                       o->b->dir, m->items.file);
    return check_attributes(o);
}

static int open_items(const struct opening *o)
{
    struct bundle *b = o->b;
    char *path = path_join(b->dir, b->manifest->items.file);
    struct mapped text = {NULL, 0};
    int result = -1;

    if (load_verified(o, &b->manifest->items, &text) == -1)
        goto out;
    report(o, "read the items", 0, text.len);
    b->items = items_load(path, text.bytes, text.len, b->vectors.rows, o->err);
    if (b->items == NULL || check_items(o) == -1)
        goto out;
    report(o, "read the items", text.len, text.len);
    result = 0;
out:
    file_unmap(&text);
    free(path);
    return result;
}

/* ---- index --------------------------------------------------------------------- */

/* A row that a shard can find must have an id to answer with, and an item that no shard holds could
 * never be recalled: the shards cover the items exactly. */
static int check_rows(const struct opening *o)
{
    const struct bundle *b = o->b;
    int64_t first = b->manifest->shards[0].first_row, end = manifest_end_row(b->manifest);
    int64_t lowest = items_first_row(b->items), highest = items_last_row(b->items);
    size_t len;

    if ((size_t)end > b->vectors.rows)
        return wrong(o, "index.shards: go up to row %lld, the item table has %zu rows",
                     (long long)end - 1, b->vectors.rows);
    for (int64_t row = first; row < end; row++) {
        if (items_id(b->items, (uint32_t)row, &len) == NULL)
            return wrong(o, "index.shards: row %lld has no id in %s", (long long)row,
                         b->manifest->items.file);
    }
    if (lowest < first || highest >= end)
        return wrong(o, "index.shards: hold rows %lld to %lld, but the items are rows %lld to %lld",
                     (long long)first, (long long)end - 1, (long long)lowest, (long long)highest);
    return 0;
}

static int load_shard(void *arg, size_t i, struct mapped *m, struct err *err)
{
    const struct opening *o = arg;

    (void)err; /* the opening's */
    return load_verified(o, &o->b->manifest->shards[i].file, m);
}

static int open_index(struct opening *o)
{
    struct bundle *b = o->b;
    const struct manifest *m = b->manifest;
    struct index_shard *shards = xcalloc(m->n_shards, sizeof *shards);
    char **paths = xcalloc(m->n_shards, sizeof *paths);
    const struct index_spec spec = {m->engine,  m->factory, (int)m->effort, shards, m->n_shards,
                                    load_shard, o};

    for (size_t i = 0; i < m->n_shards; i++) {
        const struct manifest_shard *s = &m->shards[i];

        paths[i] = s->file.file == NULL ? NULL : path_join(b->dir, s->file.file);
        shards[i] = (struct index_shard){paths[i], (uint32_t)s->first_row, (uint32_t)s->rows};
    }
    report(o, "open the index", 0, m->n_shards);
    b->index = index_open(&spec, &b->vectors, o->err);
    report(o, "open the index", m->n_shards, m->n_shards);
    for (size_t i = 0; i < m->n_shards; i++)
        free(paths[i]);
    free(paths);
    free(shards);
    return b->index == NULL ? -1 : 0;
}

/* ---- popular ------------------------------------------------------------------- */

/* One id a line. Ids that are no items, or come again, are left out; a list without any item of the
 * bundle belongs to another one. */
static int read_popular(const struct opening *o, const struct mapped *text)
{
    struct bundle *b = o->b;
    uint8_t *seen = mem_try_array(b->vectors.rows, 1);
    size_t lines = 0, len;
    struct reader r;
    const char *line;

    reader_init(&r, b->manifest->popular.file, text->bytes, text->len);
    b->popular = mem_try_array(items_count(b->items), sizeof *b->popular);
    if (seen == NULL || b->popular == NULL) {
        free(seen);
        return err_set(o->err, ERR_NOMEM, "%s/%s: no memory", b->dir, b->manifest->popular.file);
    }
    memset(seen, 0, b->vectors.rows);
    while (reader_line(&r, &line, &len)) {
        uint32_t row = items_row(b->items, line, len);

        lines += len > 0;
        if (row == ITEMS_NONE || seen[row])
            continue;
        seen[row] = 1;
        b->popular[b->n_popular++] = row;
    }
    free(seen);
    if (lines > 0 && b->n_popular == 0)
        return err_set(o->err, ERR_FORMAT, "%s/%s: none of its %zu ids is an item of this bundle",
                       b->dir, b->manifest->popular.file, lines);
    return 0;
}

static int open_popular(const struct opening *o)
{
    struct mapped text;
    int result;

    if (o->b->manifest->popular.file == NULL)
        return 0;
    if (load_verified(o, &o->b->manifest->popular, &text) == -1)
        return -1;
    result = read_popular(o, &text);
    file_unmap(&text);
    return result;
}

/* ---- opening ------------------------------------------------------------------- */

#define WARM_USERS 8
#define WARM_K 100

/* A few searches, so that the first request does not pay for touching pages, and a shard that opens
 * but cannot answer is noticed. */
static int warm(const struct opening *o)
{
    const struct bundle *b = o->b;
    struct queries q = QUERIES_INIT;
    struct answers a = ANSWERS_INIT;
    size_t rows = (size_t)(manifest_end_row(b->manifest) - b->manifest->shards[0].first_row);
    int result;

    report(o, "warm up", 0, 1);
    result = queries_from_rows(&q, b->model, b->items, WARM_USERS, o->err);
    if (result == 0 && q.n > 0)
        result = answers_search(&a, b->index, &q, rows < WARM_K ? rows : WARM_K, o->err);
    if (result == -1)
        err_prefix(o->err, "%s: warm-up: ", b->dir);
    report(o, "warm up", 1, 1);
    answers_clear(&a);
    queries_clear(&q);
    return result;
}

static void bundle_free(struct ref *ref)
{
    struct bundle *b = (struct bundle *)ref;

    free(b->popular);
    index_free(b->index);
    items_free(b->items);
    model_free(b->model);
    file_unmap(&b->weights);
    manifest_free(b->manifest);
    free(b->dir);
    free(b);
}

static struct bundle *open_bundle(const char *dir, bool by_size, bundle_progress progress,
                                  void *arg, struct err *err)
{
    struct bundle *b = xcalloc(1, sizeof *b);
    struct opening o = {b, by_size, progress, arg, err};

    ref_init(&b->ref, bundle_free);
    b->dir = xstrdup(dir);
    b->manifest = manifest_read(dir, err);
    if (b->manifest == NULL || open_model(&o) == -1 || open_items(&o) == -1 ||
        check_rows(&o) == -1 || open_index(&o) == -1 || open_popular(&o) == -1 || warm(&o) == -1) {
        bundle_release(b);
        if (err->code == ERR_USAGE) /* of the model's options: here they are a file's content */
            err->code = ERR_FORMAT;
        return NULL;
    }
    return b;
}

struct bundle *bundle_open(const char *dir, bundle_progress progress, void *arg, struct err *err)
{
    return open_bundle(dir, false, progress, arg, err);
}

struct bundle *bundle_open_by_size(const char *dir, bundle_progress progress, void *arg,
                                   struct err *err)
{
    return open_bundle(dir, true, progress, arg, err);
}

struct bundle *bundle_acquire(struct bundle *b)
{
    return (struct bundle *)ref_acquire(&b->ref);
}

void bundle_release(struct bundle *b)
{
    if (b != NULL)
        ref_release(&b->ref);
}

/* ---- what it holds ------------------------------------------------------------- */

const char *bundle_name(const struct bundle *b)
{
    return b->manifest->full_name;
}

const char *bundle_dir(const struct bundle *b)
{
    return b->dir;
}

const struct model *bundle_model(const struct bundle *b)
{
    return b->model;
}

const struct items *bundle_items(const struct bundle *b)
{
    return b->items;
}

const struct index *bundle_index(const struct bundle *b)
{
    return b->index;
}

const struct vectors *bundle_vectors(const struct bundle *b)
{
    return &b->vectors;
}

const uint32_t *bundle_popular(const struct bundle *b, size_t *n)
{
    *n = b->n_popular;
    return b->popular;
}

size_t bundle_memory(const struct bundle *b)
{
    return b->weights.len + model_memory(b->model) + items_memory(b->items) +
           index_memory(b->index) +
           (b->popular == NULL ? 0 : items_count(b->items) * sizeof *b->popular);
}

void bundle_describe(const struct bundle *b, struct bundle_facts *out)
{
    const struct manifest *m = b->manifest;

    *out = (struct bundle_facts){
        .variant = m->model.variant,
        .engine = m->engine,
        .factory = m->factory,
        .effort_name = m->factory == NULL ? NULL : index_effort_name(m->factory),
        .weights_sha256 = m->weights.sha256,
        .manifest_sha256 = m->sha256,
        .effort = (int)m->effort,
        .interests = model_interest_count(b->model),
        .dim = model_dim(b->model),
        .recall = m->recall,
        .shards = m->n_shards,
        .items = items_count(b->items),
        .rows = b->vectors.rows,
    };
}

void bundle_describe_json(const struct bundle *b, struct buf *out)
{
    struct bundle_facts f;

    bundle_describe(b, &f);
    buf_printf(out, "\"name\":\"%s\",\"dir\":", bundle_name(b));
    buf_json(out, b->dir, strlen(b->dir));
    buf_printf(out, ",\"variant\":\"%s\",\"interests\":%d,\"dim\":%d,\"items\":%zu,\"rows\":%zu",
               f.variant, f.interests, f.dim, f.items, f.rows);
    buf_printf(out, ",\"engine\":\"%s\",\"factory\":", f.engine);
    if (f.factory == NULL)
        buf_puts(out, "null");
    else
        buf_json(out, f.factory, strlen(f.factory));
    if (f.effort_name == NULL)
        buf_puts(out, ",\"search\":null");
    else
        buf_printf(out, ",\"search\":{\"%s\":%d}", f.effort_name, f.effort);
    buf_puts(out, ",\"recall\":");
    buf_f64(out, f.recall);
    buf_printf(out, ",\"shards\":%zu,\"popular\":%zu,\"memory\":%zu", f.shards, b->n_popular,
               bundle_memory(b));
    buf_printf(out, ",\"weights_sha256\":\"%s\",\"manifest_sha256\":\"%s\"", f.weights_sha256,
               f.manifest_sha256);
}
