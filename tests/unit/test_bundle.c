/* test_bundle.c - what a bundle that opens gives, and every reason why one must not open.
 *
 * tests/invalid/manifest holds bad manifests, each beside the message that must refuse it. */
#include "bundle_fixture.h"

#include "../../src/bundle/measure.h"

#include <dirent.h>

#define INVALID_DIR "tests/invalid/manifest"

/* ---- a good one ---------------------------------------------------------------------- */

static void a_good_bundle_opens_and_gives_its_parts(void **state)
{
    struct bundle *b = must_open(build_version("good", "1"));
    const uint32_t *popular;
    struct bundle_facts f;
    size_t n;

    (void)state;
    assert_string_equal(bundle_name(b), "toy@1");
    assert_string_equal(bundle_dir(b), at("good"));
    assert_int_equal(model_interest_count(bundle_model(b)), K);
    assert_int_equal(items_row(bundle_items(b), "item7", 5), 7);
    assert_int_equal(bundle_vectors(b)->rows, ROWS);
    assert_int_equal(bundle_vectors(b)->dim, DIM);
    assert_ptr_equal(bundle_vectors(b)->data, model_vectors(bundle_model(b)));
    assert_non_null(bundle_index(b));
    popular = bundle_popular(b, &n);
    assert_int_equal(n, 3); /* once each, and no strangers */
    assert_int_equal(popular[0], 9);
    assert_int_equal(popular[1], 3);
    assert_int_equal(popular[2], 60);
    bundle_describe(b, &f);
    assert_string_equal(f.variant, "thudm-mind");
    assert_string_equal(f.engine, "exact");
    assert_null(f.factory);
    assert_null(f.effort_name);
    assert_int_equal(f.shards, 2);
    assert_int_equal(f.items, 60);
    assert_int_equal(f.rows, ROWS);
    assert_true(f.recall == 1.0);
    bundle_release(b);
}

static void memory_is_that_of_its_parts(void **state)
{
    struct bundle *b = must_open(build_version("memory", "1"));
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t table = bundle_memory(b) - model_memory(bundle_model(b)) -
                   items_memory(bundle_items(b)) - index_memory(bundle_index(b)) -
                   60 * sizeof(uint32_t);

    (void)state;
    assert_in_range(table, ROWS * DIM * sizeof(float), ROWS * DIM * sizeof(float) + 2 * page);
    assert_int_equal(table % page, 0);
    bundle_release(b);
}

/* A checkpoint as trained may hold more than the model: an optimizer's moments, for one. */
static void tensors_that_the_model_does_not_use_take_no_memory(void **state)
{
    static float moments[1 << 18];
    struct buf plain = read_all(at("w.safetensors")), fat = BUF_INIT;
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open_mem("w", plain.p, plain.len, &err);
    struct ckpt_writer_tensor tensors[4] = {{"Adam", 1, {ARRAY_LEN(moments)}, moments}};
    struct bundle_build b = plain_build("fat");
    struct bundle *lean = must_open(build_version("lean", "1")), *opened;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const struct tensor *t = ckpt_at(c, i);

        tensors[i + 1] = (struct ckpt_writer_tensor){
            t->name, t->n_dims, {t->shape[0], t->shape[1], t->shape[2]}, (const float *)t->data};
    }
    ckpt_encode(
        &fat, tensors, 4,
        (const char *const[]){"variant", "thudm-mind", "init", "tensor:routing_logits", NULL});
    write_bytes(at("fat.safetensors"), fat.p, fat.len);
    b.weights = at("fat.safetensors");
    opened = must_open(must_build(&b));
    assert_in_range(bundle_memory(opened), 1, bundle_memory(lean) + sizeof moments / 8);
    bundle_release(opened);
    bundle_release(lean);
    ckpt_free(c);
    buf_clear(&plain);
    buf_clear(&fat);
}

static void a_bundle_lives_until_the_last_reference(void **state)
{
    struct bundle *b = must_open(build_version("counted", "1"));

    (void)state;
    assert_ptr_equal(bundle_acquire(b), b);
    bundle_release(b);
    assert_string_equal(bundle_name(b), "toy@1");
    bundle_release(b);
    bundle_release(NULL);
}

static void the_facts_are_json(void **state)
{
    const char *dir = build_faiss("facts");
    struct bundle *b = must_open(dir);
    struct buf json = BUF_INIT;
    char *begin =
        xasprintf("\"name\":\"toy@1\",\"dir\":\"%s\",\"variant\":\"thudm-mind\",\"interests\":3,"
                  "\"dim\":8,\"items\":60,\"rows\":61,\"engine\":\"faiss\",\"factory\":\"Flat\","
                  "\"search\":null,\"recall\":1,\"shards\":2,\"popular\":3,\"memory\":%zu,"
                  "\"weights_sha256\":\"",
                  dir, bundle_memory(b));

    (void)state;
    bundle_describe_json(b, &json);
    assert_memory_equal(buf_cstr(&json), begin, strlen(begin));
    free(begin);
    buf_clear(&json);
    bundle_release(b);
}

static size_t steps;

static void count_step(void *arg, const char *step, size_t done, size_t total)
{
    assert_ptr_equal(arg, &steps);
    assert_true(done <= total);
    steps += strcmp(step, "hash weights.safetensors") == 0;
}

static void opening_tells_its_steps(void **state)
{
    const char *dir = build_version("steps", "1");
    struct err err = ERR_INIT;

    (void)state;
    steps = 0;
    bundle_release(bundle_open(dir, count_step, &steps, &err));
    assert_int_equal(steps, 2);
}

/* ---- files that do not belong -------------------------------------------------------- */

/* `expected` holds a %s where the bundle's folder stands. */
static void must_refuse(const char *dir, enum err_code code, const char *expected)
{
    const char *hole = strstr(expected, "%s");
    char *text = xasprintf("%.*s%s%s", (int)(hole - expected), expected, dir, hole + 2);
    struct err err = ERR_INIT;

    assert_null(bundle_open(dir, NULL, NULL, &err));
    assert_string_equal(err.text, text);
    assert_int_equal(err.code, code);
    free(text);
}

/* The message names both hashes; only their beginnings. */
static void must_refuse_hash(const char *dir, const char *name, const char *wanted)
{
    struct buf bytes = read_all(in(dir, name));
    char is[SHA256_HEX];
    char *text;

    sha256_hex(bytes.p, bytes.len, is);
    text =
        xasprintf("%%s/%s: SHA-256 is %.12s..., manifest.json says %.12s...: the file was changed, "
                  "cut or belongs elsewhere",
                  name, is, wanted);
    must_refuse(dir, ERR_FORMAT, text);
    free(text);
    buf_clear(&bytes);
}

static void no_folder_and_no_manifest_are_refused(void **state)
{
    (void)state;
    must_refuse(at("nowhere"), ERR_NOT_FOUND,
                "%s/manifest.json: cannot open: No such file or directory");
    assert_int_equal(mkdir(at("bare"), 0777), 0);
    must_refuse(at("bare"), ERR_NOT_FOUND,
                "%s/manifest.json: cannot open: No such file or directory");
}

static void a_missing_file_is_named(void **state)
{
    const char *dir = build_faiss("missing");

    (void)state;
    assert_int_equal(unlink(in(dir, "shards/0001.faiss")), 0);
    must_refuse(dir, ERR_NOT_FOUND, "%s/shards/0001.faiss: cannot open: No such file or directory");
    assert_int_equal(unlink(in(dir, "items.tsv")), 0);
    must_refuse(dir, ERR_NOT_FOUND, "%s/items.tsv: cannot open: No such file or directory");
    assert_int_equal(unlink(in(dir, "weights.safetensors")), 0);
    must_refuse(dir, ERR_NOT_FOUND,
                "%s/weights.safetensors: cannot open: No such file or directory");
}

static void a_cut_shard_is_refused(void **state)
{
    const char *dir = build_faiss("cut");
    struct buf bytes = read_all(in(dir, "shards/0000.faiss"));
    char wanted[SHA256_HEX];

    (void)state;
    sha256_hex(bytes.p, bytes.len, wanted);
    write_bytes(in(dir, "shards/0000.faiss"), bytes.p, bytes.len - 1);
    must_refuse_hash(dir, "shards/0000.faiss", wanted);
    buf_clear(&bytes);
}

static void every_file_is_hashed(void **state)
{
    static const char *const files[] = {"weights.safetensors", "items.tsv", "popular.txt",
                                        "shards/0001.faiss"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        const char *dir = build_faiss("hashed");
        struct buf bytes = read_all(in(dir, files[i]));
        char wanted[SHA256_HEX];

        sha256_hex(bytes.p, bytes.len, wanted);
        bytes.p[bytes.len - 1] ^= 1;
        write_bytes(in(dir, files[i]), bytes.p, bytes.len);
        must_refuse_hash(dir, files[i], wanted);
        buf_clear(&bytes);
    }
}

/* The hashes agree, as after a careless hand: the index still knows what it was built from. */
static void an_index_of_other_weights_is_refused(void **state)
{
    const char *dir = build_faiss("other");
    struct buf old = read_all(in(dir, "weights.safetensors")), other;
    char before[SHA256_HEX], after[SHA256_HEX];
    char *from, *to;

    (void)state;
    write_weights(at("other.safetensors"), ROWS, DIM, 4, -1);
    other = read_all(at("other.safetensors"));
    sha256_hex(old.p, old.len, before);
    sha256_hex(other.p, other.len, after);
    write_bytes(in(dir, "weights.safetensors"), other.p, other.len);
    from = xasprintf("\"weights.safetensors\", \"sha256\": \"%s\"", before);
    to = xasprintf("\"weights.safetensors\", \"sha256\": \"%s\"", after);
    edit_manifest(dir, from, to);
    must_refuse(
        dir, ERR_FORMAT,
        "%s/manifest.json: index.weights_sha256: differs from weights.sha256: the index was "
        "built from other weights");
    free(from);
    free(to);
    buf_clear(&old);
    buf_clear(&other);
}

static void replace_with(const char *dir, const char *name, const char *source)
{
    struct buf bytes = read_all(source);

    replace_file(dir, name, bytes.p, bytes.len);
    buf_clear(&bytes);
}

static void weights_that_hold_nan_are_refused(void **state)
{
    const char *dir = build_version("nan", "1");

    (void)state;
    write_weights(at("nan.safetensors"), ROWS, DIM, 3, 21);
    replace_with(dir, "weights.safetensors", at("nan.safetensors"));
    must_refuse(dir, ERR_FORMAT,
                "%s/weights.safetensors: tensor mid_embedding_var holds NaN at element 21 [2,5]");
}

static void a_shard_of_another_dimension_is_refused(void **state)
{
    struct bundle_build narrow = plain_build("narrow");
    const char *dir = build_faiss("wide");

    (void)state;
    write_weights(at("narrow.safetensors"), ROWS, DIM / 2, 3, -1);
    narrow.weights = at("narrow.safetensors");
    narrow.factory = "Flat";
    replace_with(dir, "shards/0001.faiss", in(must_build(&narrow), "shards/0001.faiss"));
    must_refuse(dir, ERR_FORMAT, "%s/shards/0001.faiss: 4 dimensions, the vectors have 8");
}

static void a_shard_of_other_rows_is_refused(void **state)
{
    const char *dir = build_faiss("rows");

    (void)state;
    edit_manifest(dir, "\"first_row\": 1, \"rows\": 30", "\"first_row\": 1, \"rows\": 29");
    edit_manifest(dir, "\"first_row\": 31, \"rows\": 30", "\"first_row\": 30, \"rows\": 31");
    must_refuse(dir, ERR_FORMAT, "%s/shards/0000.faiss: 30 rows, must be 29");
}

/* ---- files that change ---------------------------------------------------------------- */

/* A bundle with every kind of file. */
static const char *build_full(const char *out)
{
    const char *const keys[] = {"init", xasprintf("file:%s", at("logits.bin")), NULL};
    float logits[K * HISTORY];
    const struct ckpt_writer_tensor t = {"b", 2, {K, HISTORY}, logits};
    struct bundle_build b = plain_build(out);
    struct err err = ERR_INIT;

    for (size_t i = 0; i < ARRAY_LEN(logits); i++)
        logits[i] = (float)i / 7;
    if (ckpt_write(at("logits.bin"), &t, 1, NULL, &err) == -1)
        fail_msg("%s", err.text);
    b.model_keys = keys;
    b.factory = "Flat";
    must_build(&b);
    free((char *)keys[1]);
    return b.out;
}

/* What a bundle serves, as bytes: interests, hits, ids, the popular ones. */
static struct buf answers_of(const struct bundle *b)
{
    struct queries q = QUERIES_INIT;
    struct answers a = ANSWERS_INIT;
    struct err err = ERR_INIT;
    struct buf out = BUF_INIT;
    const uint32_t *popular;
    size_t n, len;

    if (queries_from_rows(&q, bundle_model(b), bundle_items(b), 8, &err) == -1 ||
        answers_search(&a, bundle_index(b), &q, 20, &err) == -1)
        fail_msg("%s", err.text);
    buf_put(&out, q.data, q.n * DIM * sizeof *q.data);
    buf_put(&out, a.hits, a.n * 20 * sizeof *a.hits);
    for (uint32_t row = 1; row < ROWS; row++) {
        const char *id = items_id(bundle_items(b), row, &len);

        buf_put(&out, id, len);
    }
    popular = bundle_popular(b, &n);
    buf_put(&out, popular, n * sizeof *popular);
    answers_clear(&a);
    queries_clear(&q);
    return out;
}

static void must_answer(const struct bundle *b, const struct buf *right)
{
    struct buf now = answers_of(b);

    assert_int_equal(now.len, right->len);
    assert_memory_equal(now.p, right->p, right->len);
    buf_clear(&now);
}

/* Without a sync, for there are many. `beside`: put into place by a rename. */
static void put(const char *path, const char *bytes, size_t len, bool beside)
{
    const char *to = beside ? at("beside") : path;
    FILE *f = fopen(to, beside ? "w" : "r+");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fflush(f), 0);
    assert_int_equal(ftruncate(fileno(f), (off_t)len), 0);
    fclose(f);
    if (beside)
        assert_int_equal(rename(to, path), 0);
}

enum way { CUT, REWRITTEN, REPLACED, WAYS };

static void harm(const char *path, const struct buf *good, enum way way)
{
    size_t middle = good->len / 2;
    char *bad = xmalloc(good->len);

    memcpy(bad, good->p, good->len);
    bad[middle] ^= 1;
    put(path, bad, way == CUT ? middle : good->len, way == REPLACED);
    free(bad);
}

struct harm_at {
    size_t step, steps; /* when, and how many there have been */
    const char *path;
    const struct buf *good;
    enum way way;
};

static void harm_at_step(void *arg, const char *step, size_t done, size_t total)
{
    struct harm_at *h = arg;

    (void)step;
    (void)done;
    (void)total;
    if (h->steps++ == h->step)
        harm(h->path, h->good, h->way);
}

static const char *const parts[] = {"weights.safetensors", "init.bin",    "items.tsv",
                                    "shards/0000.faiss",   "popular.txt", "manifest.json"};

/* Opening reads every file once. Whatever happens to one of them at any step, either what was
 * verified is what is served, or the bundle is refused. */
static void a_file_that_changes_while_a_bundle_opens_spoils_nothing(void **state)
{
    const char *dir = build_full("changing");
    struct bundle *b = must_open(dir);
    struct buf right = answers_of(b);
    size_t opened = 0, refused = 0;

    (void)state;
    bundle_release(b);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct buf good = read_all(in(dir, parts[i]));
        struct harm_at h = {.path = in(dir, parts[i]), .good = &good, .steps = 1};

        for (h.way = CUT; h.way < WAYS; h.way++) {
            for (h.step = 0, h.steps = 1; h.step < h.steps; h.step++) {
                struct err err = ERR_INIT;

                h.steps = 0;
                b = bundle_open(dir, harm_at_step, &h, &err);
                if (b != NULL) {
                    must_answer(b, &right);
                    opened++;
                } else {
                    assert_non_null(strstr(err.text, h.path));
                    refused++;
                }
                bundle_release(b);
                put(h.path, good.p, good.len, true);
            }
        }
        buf_clear(&good);
    }
    assert_true(opened > 0 && refused > 0);
    buf_clear(&right);
}

static void an_open_bundle_does_not_depend_on_its_files(void **state)
{
    const char *dir = build_full("independent");
    struct bundle *b = must_open(dir);
    struct buf right = answers_of(b);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct buf good = read_all(in(dir, parts[i]));

        harm(in(dir, parts[i]), &good, REWRITTEN);
        must_answer(b, &right);
        put(in(dir, parts[i]), "", 0, false);
        must_answer(b, &right);
        buf_clear(&good);
    }
    buf_clear(&right);
    bundle_release(b);
}

/* ---- rows and items ------------------------------------------------------------------ */

static void a_row_without_an_id_is_refused(void **state)
{
    const char *dir = build_version("gap", "1");
    struct buf text = items_text(1, 60, 17);

    (void)state;
    replace_file(dir, "items.tsv", text.p, text.len);
    edit_manifest(dir, "\"count\": 60", "\"count\": 59");
    must_refuse(dir, ERR_FORMAT, "%s/manifest.json: index.shards: row 17 has no id in items.tsv");
    buf_clear(&text);
}

static void items_in_no_shard_are_refused(void **state)
{
    const char *dir = build_version("uncovered", "1");

    (void)state;
    edit_manifest(dir, "\"first_row\": 31, \"rows\": 30", "\"first_row\": 31, \"rows\": 29");
    must_refuse(
        dir, ERR_FORMAT,
        "%s/manifest.json: index.shards: hold rows 1 to 59, but the items are rows 1 to 60");
}

static void shards_beyond_the_table_are_refused(void **state)
{
    const char *dir = build_version("beyond", "1");

    (void)state;
    edit_manifest(dir, "\"first_row\": 31, \"rows\": 30", "\"first_row\": 31, \"rows\": 31");
    must_refuse(dir, ERR_FORMAT,
                "%s/manifest.json: index.shards: go up to row 61, the item table has 61 rows");
}

static void a_padding_row_among_the_items_is_refused(void **state)
{
    const char *dir = build_version("padding", "1");

    (void)state;
    edit_manifest(dir, "\"padding_row\": 0", "\"padding_row\": 5");
    must_refuse(dir, ERR_FORMAT,
                "%s/manifest.json: items.padding_row: row 5 is padding, but an item of items.tsv");
}

static void row_0_is_no_item_where_the_model_pads_by_id(void **state)
{
    struct bundle_build b = plain_build("from0");
    const char *dir;

    (void)state;
    write_items(at("from0.tsv"), 0, 60, -1);
    b.items = at("from0.tsv");
    dir = must_build(&b);
    edit_manifest(dir, "\"padding_by\": \"length\"", "\"padding_by\": \"id\"");
    must_refuse(dir, ERR_FORMAT,
                "%s/items.tsv: row 0 is an item, but model.padding_by = id takes it for padding");
}

static void a_wrong_count_is_refused(void **state)
{
    const char *dir = build_version("count", "1");

    (void)state;
    edit_manifest(dir, "\"count\": 60", "\"count\": 61");
    must_refuse(dir, ERR_FORMAT, "%s/manifest.json: items.count: is 61, items.tsv has 60 items");
}

static void attributes_must_equal_the_header(void **state)
{
    const char *dir = build_version("attributes", "1");

    (void)state;
    edit_manifest(dir, "[\"kind\"]", "[\"sort\"]");
    must_refuse(dir, ERR_FORMAT,
                "%s/manifest.json: items.attributes[0]: is \"sort\", the header of items.tsv says "
                "\"kind\"");
    edit_manifest(dir, "[\"sort\"]", "[\"kind\", \"sort\"]");
    must_refuse(dir, ERR_FORMAT,
                "%s/manifest.json: items.attributes: names 2, the header of items.tsv names 1");
}

static void popular_ids_of_another_bundle_are_refused(void **state)
{
    const char *dir = build_version("strangers", "1");

    (void)state;
    replace_file(dir, "popular.txt", "a\nb\n\nc\n", 7);
    must_refuse(dir, ERR_FORMAT, "%s/popular.txt: none of its 3 ids is an item of this bundle");
}

static void popular_is_optional(void **state)
{
    struct bundle_build build = plain_build("unpopular");
    struct bundle *b;
    size_t n;

    (void)state;
    build.popular = NULL;
    b = must_open(must_build(&build));
    bundle_popular(b, &n);
    assert_int_equal(n, 0);
    bundle_release(b);
}

/* ---- manifests ----------------------------------------------------------------------- */

static void options_of_the_manifest_reach_the_model(void **state)
{
    const char *dir = build_version("options", "1");
    struct bundle *b;

    (void)state;
    edit_manifest(dir, "\"normalize_user\": false", "\"normalize_user\": true");
    b = must_open(dir);
    assert_true(model_options(bundle_model(b))->normalize_user);
    bundle_release(b);
}

static void a_written_manifest_reads_back_the_same(void **state)
{
    const char *dir = build_faiss("roundtrip");
    struct buf text = read_all(in(dir, "manifest.json")), again = BUF_INIT;
    struct err err = ERR_INIT;
    struct manifest *m = manifest_read(dir, &err);
    char sha256[SHA256_HEX];

    (void)state;
    assert_non_null(m);
    manifest_write(m, &again);
    assert_string_equal(buf_cstr(&again), text.p);
    sha256_hex(text.p, text.len, sha256);
    assert_string_equal(m->sha256, sha256);
    assert_string_equal(m->full_name, "toy@1");
    assert_int_equal(manifest_end_row(m), 61);
    manifest_free(m);
    buf_clear(&text);
    buf_clear(&again);
}

static void check_invalid(const char *stem)
{
    char *path = xasprintf("%s/%s.json", INVALID_DIR, stem);
    char *message = xasprintf("%s/%s.txt", INVALID_DIR, stem);
    struct buf bytes = read_all(path), expected = BUF_INIT, reason = read_all(message);
    struct err err = ERR_INIT;

    buf_printf(&expected, "%s: %.*s", stem, (int)reason.len - 1, reason.p);
    assert_null(manifest_parse(stem, bytes.p, bytes.len, &err));
    assert_string_equal(err.text, buf_cstr(&expected));
    assert_int_equal(err.code, ERR_FORMAT);
    buf_clear(&bytes);
    buf_clear(&expected);
    buf_clear(&reason);
    free(path);
    free(message);
}

static void every_bad_manifest_is_refused_with_its_message(void **state)
{
    DIR *dir = opendir(INVALID_DIR);
    size_t n = 0;

    (void)state;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char *end = strstr(e->d_name, ".json");

        if (end == NULL)
            continue;
        *end = '\0';
        check_invalid(e->d_name);
        n++;
    }
    closedir(dir);
    assert_true(n >= 60);
}

/* The model's own words follow: an option's value is model/'s business. */
static void a_bad_option_value_names_its_path(void **state)
{
    static const char begin[] = "m: model.interests: ";
    const char *dir = build_version("value", "1");
    struct buf text;
    struct err err = ERR_INIT;

    (void)state;
    edit_manifest(dir, "\"interests\": 3", "\"interests\": \"three\"");
    text = read_all(in(dir, "manifest.json"));
    assert_null(manifest_parse("m", text.p, text.len, &err));
    assert_memory_equal(err.text, begin, strlen(begin));
    assert_int_equal(err.code, ERR_FORMAT);
    buf_clear(&text);
}

static void a_huge_manifest_is_not_read(void **state)
{
    char *bytes = xmalloc(MANIFEST_MAX + 1);

    (void)state;
    memset(bytes, ' ', MANIFEST_MAX + 1);
    assert_int_equal(mkdir(at("huge"), 0777), 0);
    write_bytes(at("huge/manifest.json"), bytes, MANIFEST_MAX + 1);
    must_refuse(at("huge"), ERR_LIMIT, "%s/manifest.json: more than 1048576 bytes");
    free(bytes);
}

/* ---- history files ------------------------------------------------------------------- */

/* "user|item|item", or "-" for a line without user. */
static void check_line(const char *line, const char *expected)
{
    struct buf got = BUF_INIT;
    struct history_line h;
    const char *item;
    size_t len;

    if (history_line_start(&h, line, strlen(line))) {
        buf_put(&got, h.user, h.user_len);
        while (history_line_next(&h, &item, &len)) {
            buf_putc(&got, '|');
            buf_put(&got, item, len);
        }
    } else {
        buf_putc(&got, '-');
    }
    assert_string_equal(buf_cstr(&got), expected);
    buf_clear(&got);
}

static void a_history_line_may_have_one_of_three_forms(void **state)
{
    (void)state;
    check_line("u1\ta b c", "u1|a|b|c");
    check_line("u1\ta\tb c\td", "u1|a|b c|d");
    check_line("u1 a b", "u1|a|b");
    check_line("user one\ta b", "user one|a|b");
    check_line("u1\ta", "u1|a");
    check_line("u1 \ta  b ", "u1 |a|b");
    check_line("u1\t\ta\t", "u1|a");
    check_line("u1", "u1");
    check_line("u1\t", "u1");
    check_line("", "-");
    check_line("\ta b", "-");
    check_line(" a b", "-");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_bundle_opens_and_gives_its_parts),
        cmocka_unit_test(memory_is_that_of_its_parts),
        cmocka_unit_test(tensors_that_the_model_does_not_use_take_no_memory),
        cmocka_unit_test(a_bundle_lives_until_the_last_reference),
        cmocka_unit_test(the_facts_are_json),
        cmocka_unit_test(opening_tells_its_steps),
        cmocka_unit_test(no_folder_and_no_manifest_are_refused),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(a_cut_shard_is_refused),
        cmocka_unit_test(every_file_is_hashed),
        cmocka_unit_test(an_index_of_other_weights_is_refused),
        cmocka_unit_test(weights_that_hold_nan_are_refused),
        cmocka_unit_test(a_shard_of_another_dimension_is_refused),
        cmocka_unit_test(a_shard_of_other_rows_is_refused),
        cmocka_unit_test(a_file_that_changes_while_a_bundle_opens_spoils_nothing),
        cmocka_unit_test(an_open_bundle_does_not_depend_on_its_files),
        cmocka_unit_test(a_row_without_an_id_is_refused),
        cmocka_unit_test(items_in_no_shard_are_refused),
        cmocka_unit_test(shards_beyond_the_table_are_refused),
        cmocka_unit_test(a_padding_row_among_the_items_is_refused),
        cmocka_unit_test(row_0_is_no_item_where_the_model_pads_by_id),
        cmocka_unit_test(a_wrong_count_is_refused),
        cmocka_unit_test(attributes_must_equal_the_header),
        cmocka_unit_test(popular_ids_of_another_bundle_are_refused),
        cmocka_unit_test(popular_is_optional),
        cmocka_unit_test(options_of_the_manifest_reach_the_model),
        cmocka_unit_test(a_written_manifest_reads_back_the_same),
        cmocka_unit_test(every_bad_manifest_is_refused_with_its_message),
        cmocka_unit_test(a_bad_option_value_names_its_path),
        cmocka_unit_test(a_huge_manifest_is_not_read),
        cmocka_unit_test(a_history_line_may_have_one_of_three_forms),
    };

    return cmocka_run_group_tests_name("bundle", tests, folder_setup, folder_teardown);
}
