/* test_build.c - what building a bundle makes, says, measures and refuses. */
#include "bundle_fixture.h"

#include "../../src/bundle/build.h"

#include <dirent.h>
#include <regex.h>

/* ---- helpers ------------------------------------------------------------------------- */

/* Everything that was said, a sentence a line. */
static struct buf said = BUF_INIT;

static void hear(void *arg, const char *sentence)
{
    (void)arg;
    buf_puts(&said, sentence);
    buf_putc(&said, '\n');
}

static int build(const struct bundle_build *b, struct err *err)
{
    said.len = 0;
    return bundle_build(b, NULL, hear, NULL, err);
}

static void must_say(const char *sentence)
{
    if (strstr(buf_cstr(&said), sentence) == NULL)
        fail_msg("\"%s\" was not said, but:\n%s", sentence, buf_cstr(&said));
}

static void refused(const struct bundle_build *b, enum err_code code, const char *text)
{
    struct err err = ERR_INIT;

    assert_int_equal(build(b, &err), -1);
    assert_string_equal(err.text, text);
    assert_int_equal(err.code, code);
}

static void refused_about(const struct bundle_build *b, enum err_code code, const char *file,
                          const char *reason)
{
    char *text = xasprintf("%s: %s", file, reason);

    refused(b, code, text);
    free(text);
}

/* No half bundle may lie beside `out`. */
static void nothing_is_left_of(const char *out)
{
    DIR *dir = opendir(folder);
    const char *name = strrchr(out, '/') + 1;

    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (strncmp(e->d_name, name, strlen(name)) == 0)
            fail_msg("%s was left", e->d_name);
    closedir(dir);
}

static struct manifest *manifest_of(const char *dir)
{
    struct err err = ERR_INIT;
    struct manifest *m = manifest_read(dir, &err);

    if (m == NULL)
        fail_msg("%s", err.text);
    return m;
}

/* ---- what it makes ------------------------------------------------------------------- */

static void a_small_catalogue_gets_exact_search_and_is_told_why(void **state)
{
    struct bundle_build b = plain_build("exact");
    struct err err = ERR_INIT;
    struct manifest *m;

    (void)state;
    assert_int_equal(build(&b, &err), 0);
    assert_string_equal(
        buf_cstr(&said),
        "60 rows: exact search (below 200,000 rows it costs less than a graph and misses nothing)\n"
        "recall@6 on 120 interests of 40 sample users: 1.0000 (floor 0.98)\n"
        "popular.txt: 3 of 5 ids are items of the bundle, the others are left out\n");
    m = manifest_of(b.out);
    assert_string_equal(m->engine, "exact");
    assert_null(m->factory);
    assert_true(m->recall == 1.0);
    assert_int_equal(m->n_shards, 2);
    assert_null(m->shards[1].file.file);
    assert_int_equal(m->shards[1].first_row, 31);
    assert_int_equal(m->padding_row, 0);
    assert_false(exists(in(b.out, "shards")));
    manifest_free(m);
}

static void a_factory_makes_one_file_per_shard(void **state)
{
    const char *dir = build_faiss("files");
    struct manifest *m = manifest_of(dir);

    (void)state;
    assert_string_equal(m->engine, "faiss");
    assert_string_equal(m->factory, "Flat");
    assert_int_equal(m->effort, 0);
    assert_string_equal(m->shards[0].file.file, "shards/0000.faiss");
    assert_true(exists(in(dir, "shards/0000.faiss")));
    assert_true(exists(in(dir, "shards/0001.faiss")));
    assert_false(exists(in(dir, "shards/0002.faiss")));
    manifest_free(m);
}

static void inputs_are_copied_byte_for_byte(void **state)
{
    const char *dir = build_version("copies", "1");
    static const char *const pairs[][2] = {{"w.safetensors", "weights.safetensors"},
                                           {"items.tsv", "items.tsv"},
                                           {"popular.txt", "popular.txt"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        struct buf from = read_all(at(pairs[i][0])), to = read_all(in(dir, pairs[i][1]));

        assert_int_equal(from.len, to.len);
        assert_memory_equal(from.p, to.p, to.len);
        buf_clear(&from);
        buf_clear(&to);
    }
}

static void items_may_begin_at_row_0(void **state)
{
    struct bundle_build b = plain_build("row0");
    struct manifest *m;

    (void)state;
    write_items(at("row0.tsv"), 0, 60, -1);
    b.items = at("row0.tsv");
    m = manifest_of(must_build(&b));
    assert_int_equal(m->padding_row, -1);
    assert_int_equal(m->shards[0].first_row, 0);
    assert_int_equal(manifest_end_row(m), 61);
    manifest_free(m);
}

static void a_version_is_the_date_when_none_is_given(void **state)
{
    struct bundle_build b = plain_build("dated");
    struct manifest *m;
    regex_t form;

    (void)state;
    b.version = NULL;
    m = manifest_of(must_build(&b));
    assert_int_equal(regcomp(&form, "^20[0-9]{2}-[01][0-9]-[0-3][0-9]\\.[0-9]{6}$", REG_EXTENDED),
                     0);
    assert_int_equal(regexec(&form, m->version, 0, NULL, 0), 0);
    regfree(&form);
    manifest_free(m);
}

static void options_come_from_the_checkpoint_and_then_from_the_caller(void **state)
{
    static const char *const keys[] = {"normalize_user", "true", "truncate", "first", NULL};
    static const char *const fresh[] = {"max_history", "6",         "variant", "thudm-mind", "init",
                                        "zeros",       "interests", "2",       NULL};
    struct bundle_build b = plain_build("keys");
    struct manifest *m;

    (void)state;
    b.model_keys = keys;
    m = manifest_of(must_build(&b));
    assert_int_equal(m->model.interests, 3);
    assert_int_equal(m->model.init, INIT_TENSOR);
    assert_int_equal(m->model.truncate, TRUNCATE_FIRST);
    assert_true(m->model.normalize_user);
    manifest_free(m);
    b.model_keys = fresh; /* a variant starts over, wherever it stands */
    m = manifest_of(must_build(&b));
    assert_int_equal(m->model.interests, 2);
    assert_int_equal(m->model.max_history, 6);
    assert_int_equal(m->model.init, INIT_ZEROS);
    assert_false(m->model.normalize_user);
    manifest_free(m);
}

static void a_file_of_routing_logits_comes_along_and_is_hashed(void **state)
{
    static float logits[K * HISTORY];
    const struct ckpt_writer_tensor tensor = {"routing_logits", 3, {1, K, HISTORY}, logits};
    const char *const keys[] = {"init", xasprintf("file:%s", at("logits.bin")), NULL};
    struct bundle_build b = plain_build("init");
    struct err err = ERR_INIT;
    struct manifest *m;
    struct buf bytes;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(logits); i++)
        logits[i] = any();
    assert_int_equal(ckpt_write(at("logits.bin"), &tensor, 1, NULL, &err), 0);
    b.model_keys = keys;
    m = manifest_of(must_build(&b));
    assert_string_equal(m->model.init_name, "init.bin");
    assert_string_equal(m->init.file, "init.bin");
    manifest_free(m);
    assert_int_equal(unlink(at("logits.bin")), 0);
    bundle_release(must_open(b.out));
    bytes = read_all(in(b.out, "init.bin"));
    bytes.p[bytes.len - 1] ^= 1;
    write_bytes(in(b.out, "init.bin"), bytes.p, bytes.len);
    buf_clear(&bytes);
    assert_null(bundle_open(b.out, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "/init.bin: SHA-256 is "));
    free((char *)keys[1]);
}

/* ---- replacing ----------------------------------------------------------------------- */

static void a_bundle_that_is_there_is_replaced_as_a_whole(void **state)
{
    struct bundle_build b = plain_build("replaced");
    struct manifest *m;

    (void)state;
    b.factory = "Flat";
    must_build(&b);
    b.factory = NULL;
    b.version = "2";
    b.out = at("replaced/"); /* a slash at the end changes nothing */
    m = manifest_of(must_build(&b));
    assert_string_equal(m->version, "2");
    assert_false(exists(at("replaced/shards")));
    manifest_free(m);
    assert_int_equal(nftw(at("replaced"), remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    nothing_is_left_of(at("replaced"));
}

static void an_open_bundle_survives_its_replacement(void **state)
{
    const char *dir = build_faiss("survives");
    struct bundle *b = must_open(dir);
    float first = bundle_vectors(b)->data[DIM];

    (void)state;
    build_version("survives", "2");
    assert_string_equal(bundle_name(b), "toy@1");
    assert_true(bundle_vectors(b)->data[DIM] == first);
    bundle_release(b);
}

static void what_is_no_bundle_is_not_replaced(void **state)
{
    struct bundle_build b = plain_build("precious");

    (void)state;
    assert_int_equal(mkdir(at("precious"), 0777), 0);
    write_text(at("precious/thesis.txt"), "x");
    refused_about(&b, ERR_CONFLICT, at("precious"),
                  "exists and is no bundle (it has no manifest.json): left as it is");
    assert_true(exists(at("precious/thesis.txt")));
}

static void a_failed_build_leaves_the_old_bundle_and_nothing_else(void **state)
{
    struct bundle_build b = plain_build("kept");

    (void)state;
    must_build(&b);
    b.items = at("no-such-file");
    refused_about(&b, ERR_NOT_FOUND, at("no-such-file"), "cannot open: No such file or directory");
    bundle_release(must_open(at("kept")));
    assert_int_equal(nftw(at("kept"), remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    nothing_is_left_of(at("kept"));
}

/* ---- measuring ----------------------------------------------------------------------- */

/* 4,000 items in 8 lists of about 500: some of the 200 best lie elsewhere. */
static struct bundle_build large_build(const char *out)
{
    struct bundle_build b = plain_build(out);

    if (!exists(at("large.tsv"))) {
        write_weights(at("large.safetensors"), 4001, DIM, 5, -1);
        write_items(at("large.tsv"), 1, 4000, -1);
    }
    b.weights = at("large.safetensors");
    b.items = at("large.tsv");
    b.factory = "IVF8,Flat";
    b.shards = 1;
    return b;
}

static void the_least_effort_that_reaches_the_floor_is_found(void **state)
{
    struct bundle_build b = large_build("tuned");
    struct err err = ERR_INIT;
    struct manifest *loose, *strict;

    (void)state;
    b.recall_floor = 0.5;
    assert_int_equal(build(&b, &err), 0);
    loose = manifest_of(b.out);
    b.recall_floor = 1;
    assert_int_equal(build(&b, &err), 0);
    strict = manifest_of(b.out);
    assert_true(loose->recall >= 0.6);
    assert_true(loose->recall < 1);
    assert_true(strict->recall == 1.0);
    assert_true(loose->effort >= 1);
    assert_true(loose->effort < strict->effort);
    assert_true(strict->effort <= 8);
    manifest_free(loose);
    manifest_free(strict);
}

static void too_little_recall_is_refused_with_the_number(void **state)
{
    struct bundle_build b = large_build("poor");
    struct err err = ERR_INIT;
    double recall;
    char *expected;

    (void)state;
    b.effort = 1;
    assert_int_equal(build(&b, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    assert_int_equal(sscanf(err.text, "recall@200 on sample histories is %lf at", &recall), 1);
    assert_true(recall > 0.05 && recall < 0.95);
    expected = xasprintf(
        "recall@200 on sample histories is %.4f at nprobe 1, below the floor of 0.98: try "
        "more effort (0 measures how much is needed), another factory, or the engine "
        "exact",
        recall);
    assert_string_equal(err.text, expected);
    free(expected);
    nothing_is_left_of(at("poor"));
}

static void effort_is_refused_where_there_is_none(void **state)
{
    struct bundle_build b = plain_build("effortless");

    (void)state;
    b.effort = 8;
    refused(&b, ERR_USAGE, "effort: cannot be set for exact search");
    b.factory = "Flat";
    refused(&b, ERR_USAGE, "effort: cannot be set for Flat");
}

static void without_histories_they_are_made_up_the_same_way_every_time(void **state)
{
    struct bundle_build b = large_build("madeup");
    struct err err = ERR_INIT;
    struct manifest *m;
    double first;

    (void)state;
    b.histories = NULL;
    b.effort = 2;
    b.recall_floor = 0;
    assert_int_equal(build(&b, &err), 0);
    must_say("no sample histories: recall is measured on made-up ones, which flatter an index; "
             "real ones "
             "(histories) tell more");
    must_say("recall@200 on 498 interests of 166 sample users: ");
    m = manifest_of(b.out);
    first = m->recall;
    manifest_free(m);
    assert_int_equal(build(&b, &err), 0);
    m = manifest_of(b.out);
    assert_true(m->recall == first);
    manifest_free(m);
}

static void histories_of_strangers_are_refused(void **state)
{
    struct bundle_build b = plain_build("strange");

    (void)state;
    write_text(at("strange.tsv"), "u1\ta b\nu2\tc\n");
    b.histories = at("strange.tsv");
    refused_about(&b, ERR_FORMAT, at("strange.tsv"), "no line has an item of this bundle");
    write_text(at("strange.tsv"), "");
    refused_about(&b, ERR_FORMAT, at("strange.tsv"), "no line has an item of this bundle");
}

/* ---- what it refuses ----------------------------------------------------------------- */

static void a_checkpoint_must_say_what_it_is(void **state)
{
    static float v[4] = {1, 2, 3, 4};
    const struct ckpt_writer_tensor tensor = {"mid_embedding_var", 2, {2, 2}, v};
    struct bundle_build b = plain_build("mute");
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(ckpt_write(at("mute.safetensors"), &tensor, 1, NULL, &err), 0);
    b.weights = at("mute.safetensors");
    refused_about(
        &b, ERR_USAGE, at("mute.safetensors"),
        "does not say which model it is: model.variant is needed, and what differs from it "
        "(recallctl ckpt show lists the tensors that tell)");
}

static void a_gap_between_items_is_refused(void **state)
{
    struct bundle_build b = plain_build("gap");

    (void)state;
    write_items(at("gap.tsv"), 1, 60, 17);
    b.items = at("gap.tsv");
    refused_about(
        &b, ERR_FORMAT, at("gap.tsv"),
        "row 17 has no id, though rows 1 and 60 have one: every row between the first and the "
        "last item needs one");
    write_text(at("gap.tsv"), "row\tid\n");
    refused_about(&b, ERR_FORMAT, at("gap.tsv"), "no items");
}

static void senseless_wishes_are_refused(void **state)
{
    struct bundle_build b = plain_build("wish");

    (void)state;
    b.name = "a b";
    refused(&b, ERR_USAGE, "name: must be 1 to 60 of A-Z a-z 0-9 . _ -");
    b.name = "a";
    b.version = "";
    refused(&b, ERR_USAGE, "version: must be 1 to 60 of A-Z a-z 0-9 . _ -");
    b.version = "1";
    b.engine = "annoy";
    refused(&b, ERR_USAGE, "engine: must be auto, exact or faiss");
    b.engine = "exact";
    b.factory = "Flat";
    refused(&b, ERR_USAGE, "factory: the exact engine has none");
    b.factory = NULL;
    b.shards = 61;
    refused(&b, ERR_USAGE, "shards: at most 256, and no more than rows (60)");
    b.shards = 0;
    b.recall_floor = 1.5;
    refused(&b, ERR_USAGE, "recall floor: must be from 0 to 1");
    b.recall_floor = 1;
    b.weights = NULL;
    refused(&b, ERR_USAGE, "weights, items, out and name are required");
    nothing_is_left_of(at("wish"));
}

static void numbers_are_written_in_groups_of_three(void **state)
{
    char text[32];

    (void)state;
    assert_string_equal(build_number(text, 0), "0");
    assert_string_equal(build_number(text, 999), "999");
    assert_string_equal(build_number(text, 1000), "1,000");
    assert_string_equal(build_number(text, 10328), "10,328");
    assert_string_equal(build_number(text, UINT64_MAX), "18,446,744,073,709,551,615");
}

static int teardown(void **state)
{
    buf_clear(&said);
    return folder_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_catalogue_gets_exact_search_and_is_told_why),
        cmocka_unit_test(a_factory_makes_one_file_per_shard),
        cmocka_unit_test(inputs_are_copied_byte_for_byte),
        cmocka_unit_test(items_may_begin_at_row_0),
        cmocka_unit_test(a_version_is_the_date_when_none_is_given),
        cmocka_unit_test(options_come_from_the_checkpoint_and_then_from_the_caller),
        cmocka_unit_test(a_file_of_routing_logits_comes_along_and_is_hashed),
        cmocka_unit_test(a_bundle_that_is_there_is_replaced_as_a_whole),
        cmocka_unit_test(an_open_bundle_survives_its_replacement),
        cmocka_unit_test(what_is_no_bundle_is_not_replaced),
        cmocka_unit_test(a_failed_build_leaves_the_old_bundle_and_nothing_else),
        cmocka_unit_test(the_least_effort_that_reaches_the_floor_is_found),
        cmocka_unit_test(too_little_recall_is_refused_with_the_number),
        cmocka_unit_test(effort_is_refused_where_there_is_none),
        cmocka_unit_test(without_histories_they_are_made_up_the_same_way_every_time),
        cmocka_unit_test(histories_of_strangers_are_refused),
        cmocka_unit_test(a_checkpoint_must_say_what_it_is),
        cmocka_unit_test(a_gap_between_items_is_refused),
        cmocka_unit_test(senseless_wishes_are_refused),
        cmocka_unit_test(numbers_are_written_in_groups_of_three),
    };

    return cmocka_run_group_tests_name("build", tests, folder_setup, teardown);
}
