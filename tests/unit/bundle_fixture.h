/* bundle_fixture.h - a folder with the inputs of a small bundle, and ways to build and break
 * bundles.
 *
 * The model is a MIND of 3 interests over 61 rows of 8 dimensions; rows 1 to 60 are items, row 0 is
 * padding. Everything lies below one temporary folder, removed at the end. */
#ifndef BUNDLE_FIXTURE_H
#define BUNDLE_FIXTURE_H

#include "../../src/bundle/manifest.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ROWS 61
#define DIM 8
#define K 3
#define HISTORY 10

static char folder[64];

/* ---- files --------------------------------------------------------------------------- */

/* Paths live until the test ends. */
static struct arena names = ARENA_INIT;

static const char *in(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    const char *kept = arena_strndup(&names, path, strlen(path));

    free(path);
    return kept;
}

static const char *at(const char *name)
{
    return in(folder, name);
}

static inline bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static void write_bytes(const char *path, const void *bytes, size_t len)
{
    struct err err = ERR_INIT;

    if (file_write(path, bytes, len, &err) == -1)
        fail_msg("%s", err.text);
}

static void write_text(const char *path, const char *text)
{
    write_bytes(path, text, strlen(text));
}

static struct buf read_all(const char *path)
{
    struct buf text = BUF_INIT;
    struct err err = ERR_INIT;

    if (file_read(path, 1 << 24, &text, &err) == -1)
        fail_msg("%s", err.text);
    buf_cstr(&text);
    return text;
}

/* Replaces every `from`, which must be there. */
static void edit(const char *path, const char *from, const char *to)
{
    struct buf old = read_all(path), text = BUF_INIT;
    const char *p = old.p, *hit;
    int n = 0;

    for (; (hit = strstr(p, from)) != NULL; p = hit + strlen(from), n++) {
        buf_put(&text, p, (size_t)(hit - p));
        buf_puts(&text, to);
    }
    buf_puts(&text, p);
    if (n == 0)
        fail_msg("%s does not hold \"%s\"", path, from);
    write_bytes(path, text.p, text.len);
    buf_clear(&old);
    buf_clear(&text);
}

static inline void edit_manifest(const char *bundle, const char *from, const char *to)
{
    edit(in(bundle, "manifest.json"), from, to);
}

/* Puts other bytes into a file of a bundle and makes the manifest agree to them. */
static inline void replace_file(const char *bundle, const char *name, const void *bytes, size_t len)
{
    struct buf old = read_all(in(bundle, name));
    char before[SHA256_HEX], after[SHA256_HEX];

    sha256_hex(old.p, old.len, before);
    sha256_hex(bytes, len, after);
    write_bytes(in(bundle, name), bytes, len);
    edit_manifest(bundle, before, after);
    buf_clear(&old);
}

/* ---- inputs -------------------------------------------------------------------------- */

static uint64_t seed;

/* -1 to 1 */
static float any(void)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (float)((double)(seed >> 33) / (double)(1u << 30) - 1.0);
}

/* A checkpoint: `rows` by `dim`; another `from` gives other weights. `bad` (or -1): where NaN
 * stands. */
static void write_weights(const char *path, size_t rows, size_t dim, uint64_t from, int bad)
{
    float *table = xcalloc(rows * dim, sizeof *table), *kernel = xcalloc(dim * dim, sizeof *kernel);
    float logits[K * HISTORY];
    const struct ckpt_writer_tensor tensors[] = {
        {"mid_embedding_var", 2, {rows, dim}, table},
        {"capsule_network/bilinear/dense/kernel", 2, {dim, dim}, kernel},
        {"routing_logits", 3, {1, K, HISTORY}, logits},
    };
    static const char *const meta[] = {
        "variant",     "thudm-mind", "interests", "3",
        "max_history", "10",         "init",      "tensor:routing_logits",
        "trained_by",  "a test",     NULL};
    struct err err = ERR_INIT;

    seed = from;
    for (size_t i = 0; i < rows * dim; i++)
        table[i] = any();
    for (size_t i = 0; i < dim * dim; i++)
        kernel[i] = any();
    for (size_t i = 0; i < K * HISTORY; i++)
        logits[i] = any();
    if (bad >= 0)
        table[bad] = (float)strtod("nan", NULL);
    if (ckpt_write(path, tensors, ARRAY_LEN(tensors), meta, &err) == -1)
        fail_msg("%s", err.text);
    free(table);
    free(kernel);
}

/* items.tsv of the rows first..last without `gap`. */
static struct buf items_text(int first, int last, int gap)
{
    struct buf text = BUF_INIT;

    buf_puts(&text, "row\tid\tkind\n");
    for (int row = first; row <= last; row++)
        if (row != gap)
            buf_printf(&text, "%d\titem%d\t%s\n", row, row, row % 2 ? "odd" : "even|round");
    return text;
}

static void write_items(const char *path, int first, int last, int gap)
{
    struct buf text = items_text(first, last, gap);

    write_bytes(path, text.p, text.len);
    buf_clear(&text);
}

static void write_histories(const char *path)
{
    struct buf text = BUF_INIT;

    for (int user = 0; user < 40; user++) {
        buf_printf(&text, "u%d\t", user);
        for (int i = 0; i < 5; i++)
            buf_printf(&text, "%sitem%d", i > 0 ? " " : "", (user * 7 + i * 11) % 60 + 1);
        buf_puts(&text, " unheard-of\n");
    }
    write_bytes(path, text.p, text.len);
    buf_clear(&text);
}

static int folder_setup(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_ERROR, false);
    strcpy(folder, "/tmp/recalld_bundle.XXXXXX");
    assert_non_null(mkdtemp(folder));
    write_weights(at("w.safetensors"), ROWS, DIM, 3, -1);
    write_items(at("items.tsv"), 1, 60, -1);
    write_text(at("popular.txt"), "item9\nitem3\nitem9\nunheard-of\nitem60\n");
    write_histories(at("histories.tsv"));
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

static int folder_teardown(void **state)
{
    (void)state;
    arena_clear(&names);
    return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- bundles ------------------------------------------------------------------------- */

/* What a test then changes: the exact engine, two shards, everything given. */
static inline struct bundle_build plain_build(const char *out)
{
    struct bundle_build b;

    bundle_build_defaults(&b);
    b.out = at(out);
    b.name = "toy";
    b.version = "1";
    b.weights = at("w.safetensors");
    b.items = at("items.tsv");
    b.popular = at("popular.txt");
    b.histories = at("histories.tsv");
    b.shards = 2;
    b.threads = 1;
    return b;
}

static inline const char *must_build(const struct bundle_build *b)
{
    struct err err = ERR_INIT;

    if (bundle_build(b, NULL, NULL, NULL, &err) == -1)
        fail_msg("%s", err.text);
    return b->out;
}

/* toy@VERSION in a folder of its own. */
static inline const char *build_version(const char *out, const char *version)
{
    struct bundle_build b = plain_build(out);

    b.version = version;
    return must_build(&b);
}

/* With two Flat shards: files, but exact. */
static inline const char *build_faiss(const char *out)
{
    struct bundle_build b = plain_build(out);

    b.factory = "Flat";
    return must_build(&b);
}

static inline struct bundle *must_open(const char *dir)
{
    struct err err = ERR_INIT;
    struct bundle *b = bundle_open(dir, NULL, NULL, &err);

    if (b == NULL)
        fail_msg("%s", err.text);
    return b;
}

#endif
