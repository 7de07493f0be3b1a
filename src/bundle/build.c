/* build.c - makes a bundle: inputs copied into a directory beside the target, index built and
 * measured, manifest written, the whole verified as the daemon would, then renamed into place. */
#include "build.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ITEMS_NAME "items.tsv"
#define POPULAR_NAME "popular.txt"
#define INIT_NAME "init.bin"

/* ---- talking -------------------------------------------------------------------- */

void build_say(const struct builder *b, const char *fmt, ...)
{
    struct buf text = BUF_INIT;
    va_list args;

    if (b->say == NULL)
        return;
    va_start(args, fmt);
    buf_vprintf(&text, fmt, args);
    va_end(args);
    b->say(b->arg, buf_cstr(&text));
    buf_clear(&text);
}

void build_progress(const struct builder *b, const char *step, size_t done, size_t total)
{
    if (b->progress != NULL)
        b->progress(b->arg, step, done, total);
}

const char *build_number(char out[32], uint64_t n)
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n), at = 0;

    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

/* ---- what was asked ------------------------------------------------------------- */

void bundle_build_defaults(struct bundle_build *b)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    *b = (struct bundle_build){
        .engine = "auto", .recall_floor = 0.98, .threads = cores > 0 ? (int)cores : 1};
}

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static int check_out(const char *out, struct err *err)
{
    char *manifest = path_join(out, MANIFEST_FILE);
    int result = 0;

    if (exists(out) && !exists(manifest))
        result = err_set(err, ERR_CONFLICT,
                         "%s: exists and is no bundle (it has no " MANIFEST_FILE "): left as it is",
                         out);
    free(manifest);
    return result;
}

static int check_ask(const struct bundle_build *ask, struct err *err)
{
    static const char names[] = "must be 1 to 60 of A-Z a-z 0-9 . _ -";

    if (ask->out == NULL || ask->weights == NULL || ask->items == NULL || ask->name == NULL)
        return err_set(err, ERR_USAGE, "weights, items, out and name are required");
    if (!manifest_name_valid(ask->name))
        return err_set(err, ERR_USAGE, "name: %s", names);
    if (ask->version != NULL && !manifest_name_valid(ask->version))
        return err_set(err, ERR_USAGE, "version: %s", names);
    if (strcmp(ask->engine, "auto") != 0 && strcmp(ask->engine, "exact") != 0 &&
        strcmp(ask->engine, "faiss") != 0)
        return err_set(err, ERR_USAGE, "engine: must be auto, exact or faiss");
    if (ask->shards < 0 || ask->effort < 0 || ask->threads < 1)
        return err_set(err, ERR_USAGE,
                       "shards and effort must not be negative, threads be positive");
    if (!(ask->recall_floor >= 0 && ask->recall_floor <= 1))
        return err_set(err, ERR_USAGE, "recall floor: must be from 0 to 1");
    return check_out(ask->out, err);
}

/* ---- files ---------------------------------------------------------------------- */

static int io_error(struct err *err, const char *path, const char *what)
{
    return err_set(err, ERR_IO, "%s: %s: %s", path, what, strerror(errno));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static void remove_tree(const char *dir)
{
    (void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A file or folder onto the disk. */
static int sync_path(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), result = 0;

    if (fd == -1 || (fsync(fd) == -1 && errno != EINVAL))
        result = io_error(err, path, "cannot sync");
    if (fd != -1)
        close(fd);
    return result;
}

/* What the manifest says of a file. */
static void identify(struct manifest_file *f, const char *name, const struct mapped *m)
{
    f->file = name;
    f->bytes = (int64_t)m->len;
    sha256_hex(m->bytes, m->len, f->sha256);
}

/* Copies a file into the bundle as `name` and notes its hash; the source stays mapped in *m. */
static int copy_in(struct builder *b, const char *from, const char *name, struct manifest_file *f,
                   struct mapped *m)
{
    char *to = path_join(b->dir, name), *step = xasprintf("copy %s", name);
    int result = -1;

    build_progress(b, step, 0, 1);
    if (file_map(m, from, b->err) == 0) {
        identify(f, name, m);
        result = file_write(to, m->bytes, m->len, b->err);
    }
    build_progress(b, step, 1, 1);
    free(step);
    free(to);
    return result;
}

/* Notes the hash of a file that is in the bundle already; it stays mapped in *m. */
static int note_file(struct builder *b, const char *path, const char *name, struct manifest_file *f,
                     struct mapped *m)
{
    if (file_map(m, path, b->err) == -1)
        return -1;
    identify(f, name, m);
    return 0;
}

/* ---- model ---------------------------------------------------------------------- */

static const char *asked_variant(const struct bundle_build *ask)
{
    for (size_t i = 0; ask->model_keys != NULL && ask->model_keys[i] != NULL; i += 2)
        if (strcmp(ask->model_keys[i], "variant") == 0)
            return ask->model_keys[i + 1];
    return NULL;
}

/* A variant on the command line starts over; otherwise the checkpoint's own metadata is the start.
 * *init_asked: the file of `init` was named on the command line, not by the checkpoint. */
static int choose_options(const struct builder *b, struct model_options *o, bool *init_asked)
{
    const char *variant = asked_variant(b->ask);

    *init_asked = false;
    *o = (struct model_options){.variant = NULL};
    if (variant != NULL ? model_options_variant(o, variant, b->err) == -1
                        : model_options_ckpt(o, b->ckpt, b->err) == -1)
        return -1;
    if (o->variant == NULL)
        return err_set(b->err, ERR_USAGE,
                       "%s: does not say which model it is: model.variant is needed, and what "
                       "differs from it (recallctl ckpt show lists the tensors that tell)",
                       b->ask->weights);
    if (variant == NULL && ckpt_meta(b->ckpt, "variant") == NULL)
        build_say(b, "its tensors tell that it is %s", o->variant);
    for (size_t i = 0; b->ask->model_keys != NULL && b->ask->model_keys[i] != NULL; i += 2) {
        const char *key = b->ask->model_keys[i];

        *init_asked |= strcmp(key, "init") == 0;
        if (strcmp(key, "variant") != 0 &&
            model_options_set(o, key, b->ask->model_keys[i + 1], b->err) == -1)
            return err_prefix(b->err, "model.");
    }
    return 0;
}

/* The folder of a path; caller frees. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (slash == NULL)
        return xstrdup(".");
    return slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

/* A table of routing logits in a file of its own comes into the bundle too. Named by the
 * checkpoint, it lies beside it. */
static int copy_init(struct builder *b, struct model_options *o, bool init_asked)
{
    char *dir = init_asked ? xstrdup(".") : folder_of(b->ask->weights);
    char *from = path_join(dir, o->init_name);
    struct mapped m = {NULL, 0};
    int result = copy_in(b, from, INIT_NAME, &b->manifest.init, &m);

    file_unmap(&m);
    free(from);
    free(dir);
    strcpy(o->init_name, INIT_NAME);
    return result;
}

/* The checkpoint as it is; one that consists of several files becomes one. */
static int take_weights(struct builder *b)
{
    const char *extension = ckpt_extension(b->ckpt);
    char *path;
    int result;

    b->weights_name = xasprintf("weights.%s", extension != NULL ? extension : "safetensors");
    if (extension != NULL)
        return copy_in(b, b->ask->weights, b->weights_name, &b->manifest.weights, &b->weights);
    path = path_join(b->dir, b->weights_name);
    result = ckpt_convert(b->ckpt, path, b->err);
    if (result == 0)
        result = note_file(b, path, b->weights_name, &b->manifest.weights, &b->weights);
    free(path);
    return result;
}

static int take_model(struct builder *b)
{
    struct model_options o;
    bool init_asked;

    b->ckpt = ckpt_open(b->ask->weights, b->err);
    if (b->ckpt == NULL || ckpt_verify(b->ckpt, NULL, NULL, b->err) == -1 ||
        choose_options(b, &o, &init_asked) == -1 || take_weights(b) == -1 ||
        (o.init == INIT_FILE && copy_init(b, &o, init_asked) == -1))
        return -1;
    b->model = model_open(b->ckpt, &o, b->dir, b->err);
    if (b->model == NULL)
        return -1;
    b->manifest.model = *model_options(b->model);
    b->vectors = (struct vectors){model_vectors(b->model), model_rows(b->model),
                                  (size_t)model_dim(b->model)};
    return 0;
}

/* ---- items ---------------------------------------------------------------------- */

/* Shards are ranges of rows, and whatever a shard finds must have an id. */
static int check_gaps(struct builder *b)
{
    uint32_t last = items_last_row(b->items);
    size_t len;

    for (uint32_t row = b->first_row; row < last; row++) {
        if (items_id(b->items, row, &len) == NULL)
            return err_set(
                b->err, ERR_FORMAT,
                "%s: row %u has no id, though rows %u and %u have one: every row between "
                "the first and the last item needs one",
                b->ask->items, row, b->first_row, last);
    }
    return 0;
}

static int take_items(struct builder *b)
{
    struct manifest *m = &b->manifest;
    size_t len;

    if (copy_in(b, b->ask->items, ITEMS_NAME, &m->items, &b->items_text) == -1)
        return -1;
    b->items =
        items_load(b->ask->items, b->items_text.bytes, b->items_text.len, b->vectors.rows, b->err);
    if (b->items == NULL)
        return -1;
    b->first_row = items_first_row(b->items);
    b->rows = items_last_row(b->items) - b->first_row + 1;
    m->items_count = (int64_t)items_count(b->items);
    m->padding_row = items_id(b->items, 0, &len) == NULL ? 0 : -1;
    m->n_attributes = items_attributes(b->items);
    for (size_t i = 0; i < m->n_attributes; i++)
        m->attributes[i] = items_attribute_name(b->items, i);
    return check_gaps(b);
}

static size_t count_ids(const struct mapped *text)
{
    struct reader r;
    const char *line;
    size_t n = 0, len;

    reader_init(&r, POPULAR_NAME, text->bytes, text->len);
    while (reader_line(&r, &line, &len))
        n += len > 0;
    return n;
}

static int take_popular(struct builder *b, size_t *ids)
{
    struct mapped text = {NULL, 0};
    int result;

    *ids = 0;
    if (b->ask->popular == NULL)
        return 0;
    result = copy_in(b, b->ask->popular, POPULAR_NAME, &b->manifest.popular, &text);
    *ids = count_ids(&text);
    file_unmap(&text);
    return result;
}

/* ---- index ---------------------------------------------------------------------- */

struct shard_step {
    const struct builder *b;
    char text[64];
};

static void shard_progress(void *arg, size_t done, size_t total)
{
    const struct shard_step *step = arg;

    build_progress(step->b, step->text, done, total);
}

static int build_shard(struct builder *b, struct manifest_shard *s)
{
    char *path = path_join(b->dir, s->file.file);
    struct shard_step step = {.b = b};
    struct mapped m;
    int result = -1;

    snprintf(step.text, sizeof step.text, "build %s", s->file.file);
    if (index_build_shard(path, b->manifest.factory, &b->vectors, (uint32_t)s->first_row,
                          (uint32_t)s->rows, b->ask->threads, shard_progress, &step, b->err) == 0 &&
        sync_path(path, b->err) == 0 && file_map(&m, path, b->err) == 0) {
        identify(&s->file, s->file.file, &m);
        file_unmap(&m);
        result = 0;
    }
    free(path);
    return result;
}

static int build_index(struct builder *b)
{
    char *folder = path_join(b->dir, "shards");
    int result = 0;

    if (b->manifest.factory != NULL)
        result = file_mkdirs(folder, b->err);
    for (size_t i = 0; b->manifest.factory != NULL && result == 0 && i < b->manifest.n_shards; i++)
        result = build_shard(b, &b->manifest.shards[i]);
    if (b->manifest.factory != NULL && result == 0)
        result = sync_path(folder, b->err);
    free(folder);
    return result;
}

/* ---- finishing ------------------------------------------------------------------ */

static int write_manifest(struct builder *b)
{
    char *path = path_join(b->dir, MANIFEST_FILE);
    struct buf text = BUF_INIT;
    int result;

    manifest_write(&b->manifest, &text);
    result = file_write(path, text.p, text.len, b->err);
    buf_clear(&text);
    free(path);
    return result;
}

/* What the daemon would say to it. */
static int verify(struct builder *b, size_t popular_ids)
{
    struct bundle *made = bundle_open(b->dir, b->progress, b->arg, b->err);
    char all[32], known[32];
    size_t n;

    if (made == NULL)
        return err_prefix(b->err, "the new bundle does not verify: ");
    bundle_popular(made, &n);
    if (n < popular_ids)
        build_say(b, "%s: %s of %s ids are items of the bundle, the others are left out",
                  POPULAR_NAME, build_number(known, n), build_number(all, popular_ids));
    bundle_release(made);
    return 0;
}

/* The new bundle and the old one change places in one step; on file systems that cannot, the old
 * one is away for a moment. It goes with `dir`. */
static int exchange(const struct builder *b)
{
    char *aside = xasprintf("%s.old", b->dir);
    int result = renameat2(AT_FDCWD, b->dir, AT_FDCWD, b->out, RENAME_EXCHANGE);

    if (result == -1 && rename(b->out, aside) == 0) {
        result = rename(b->dir, b->out);
        (void)rename(aside, result == 0 ? b->dir : b->out);
    }
    if (result == -1)
        io_error(b->err, b->out, "cannot be replaced");
    free(aside);
    return result;
}

static int move_into_place(const struct builder *b)
{
    char *parent = folder_of(b->out);
    int result = 0;

    if (exists(b->out))
        result = exchange(b);
    else if (rename(b->dir, b->out) == -1)
        result = io_error(b->err, b->out, "cannot rename into place");
    if (result == 0)
        result = sync_path(parent, b->err);
    free(parent);
    return result;
}

static int build_steps(struct builder *b)
{
    size_t popular_ids;

    remove_tree(b->dir); /* what a process of the same number left */
    if (file_mkdirs(b->dir, b->err) == -1 || take_model(b) == -1 || take_items(b) == -1 ||
        take_popular(b, &popular_ids) == -1 || tune_choose(b) == -1 || build_index(b) == -1 ||
        tune_measure(b) == -1 || write_manifest(b) == -1 || verify(b, popular_ids) == -1 ||
        move_into_place(b) == -1)
        return -1;
    return 0;
}

static void builder_clear(struct builder *b)
{
    remove_tree(b->dir); /* half a bundle, or the old one */
    items_free(b->items);
    model_free(b->model);
    ckpt_free(b->ckpt);
    file_unmap(&b->items_text);
    file_unmap(&b->weights);
    free(b->manifest.shards);
    free(b->weights_name);
    free(b->dir);
    free(b->out);
}

static char *without_slashes(const char *path)
{
    size_t len = strlen(path);

    while (len > 1 && path[len - 1] == '/')
        len--;
    return xstrndup(path, len);
}

int bundle_build(const struct bundle_build *ask, bundle_progress progress,
                 void (*say)(void *arg, const char *sentence), void *arg, struct err *err)
{
    struct builder b = {.ask = ask, .progress = progress, .say = say, .arg = arg, .err = err};
    time_t now = time(NULL);
    struct tm utc;
    int result;

    if (check_ask(ask, err) == -1)
        return -1;
    gmtime_r(&now, &utc);
    strftime(b.version, sizeof b.version, "%Y-%m-%d.%H%M%S", &utc);
    b.manifest.name = ask->name;
    b.manifest.version = ask->version == NULL ? b.version : ask->version;
    b.out = without_slashes(ask->out);
    b.dir = xasprintf("%s.%d.tmp", b.out, (int)getpid());
    result = build_steps(&b);
    builder_clear(&b);
    return result;
}
