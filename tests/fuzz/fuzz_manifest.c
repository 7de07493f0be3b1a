/* fuzz_manifest.c - manifest.json of a bundle.
 *
 * What is accepted keeps the promises of manifest.h: names that can be part of an address, paths
 * that stay inside the bundle, shards without gap or overlap, an index of these weights. Written
 * and read again it says the same. */
#include "../../src/bundle/manifest.h"
#include "fuzz.h"

#define NAME "fuzz/manifest.json"

static void assert_file(const struct manifest_file *f, bool needed)
{
    assert(f->file != NULL || !needed);
    if (f->file == NULL)
        return;
    assert(f->file[0] != '/' && f->file[0] != '\0' && strlen(f->file) <= MANIFEST_PATH_MAX);
    assert(strcmp(f->file, "..") != 0 && strncmp(f->file, "../", 3) != 0);
    assert(strstr(f->file, "/../") == NULL && strstr(f->file, "//") == NULL);
    assert(strlen(f->file) < 3 || strcmp(f->file + strlen(f->file) - 3, "/..") != 0);
    assert(strspn(f->sha256, "0123456789abcdef") == SHA256_HEX - 1);
}

static void assert_shards(const struct manifest *m, bool exact)
{
    int64_t row = m->shards[0].first_row;

    assert(m->n_shards >= 1 && m->n_shards <= INDEX_SHARDS_MAX && row >= 0);
    for (size_t i = 0; i < m->n_shards; i++) {
        assert(m->shards[i].first_row == row && m->shards[i].rows >= 1);
        assert_file(&m->shards[i].file, !exact);
        row += m->shards[i].rows;
    }
    assert(row == manifest_end_row(m) && row <= (int64_t)ITEMS_NONE);
}

static void assert_promises(const struct manifest *m)
{
    bool exact = strcmp(m->engine, "exact") == 0;

    assert(manifest_name_valid(m->name) && manifest_name_valid(m->version));
    assert(strlen(m->full_name) == strlen(m->name) + 1 + strlen(m->version));
    assert_file(&m->weights, true);
    assert_file(&m->items, true);
    assert_file(&m->popular, false);
    assert_file(&m->init, m->model.init == INIT_FILE);
    assert(m->items_count >= 1 && m->items_count < (int64_t)ITEMS_NONE);
    assert(m->padding_row >= -1 && m->padding_row < (int64_t)ITEMS_NONE);
    assert(m->n_attributes <= ITEMS_ATTRIBUTES_MAX);
    assert(exact == (m->factory == NULL));
    assert((m->effort > 0) == (m->factory != NULL && index_effort_name(m->factory) != NULL));
    assert(m->recall >= 0 && m->recall <= 1);
    assert_shards(m, exact);
}

/* What writing might lose. */
static void assert_same(const struct manifest *a, const struct manifest *b)
{
    assert(strcmp(a->full_name, b->full_name) == 0);
    assert(a->items_count == b->items_count && a->padding_row == b->padding_row);
    assert(a->n_attributes == b->n_attributes && a->n_shards == b->n_shards);
    assert(a->effort == b->effort && a->recall == b->recall);
    assert((a->popular.file == NULL) == (b->popular.file == NULL));
    assert(a->model.kind == b->model.kind && a->model.interests == b->model.interests);
    assert(a->model.init == b->model.init && a->model.init_std == b->model.init_std);
    assert(a->model.squash_eps == b->model.squash_eps);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct err err = ERR_INIT;
    struct manifest *m = manifest_parse(NAME, bytes, len, &err), *again;
    struct buf first = BUF_INIT, second = BUF_INIT;

    if (m == NULL) {
        assert(err.code == ERR_FORMAT);
        assert_refusal(&err, NAME ": ");
        return 0;
    }
    assert_promises(m);
    manifest_write(m, &first);
    again = manifest_parse(NAME, first.p, first.len, &err);
    assert(again != NULL);
    assert_same(m, again);
    manifest_write(again, &second);
    assert_same_text(&first, &second);
    manifest_free(m);
    manifest_free(again);
    buf_clear(&first);
    buf_clear(&second);
    return 0;
}
