/* The request path over a small real bundle: stages, degradation, admission, and that neither batch
 * nor load changes an answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../src/recall/call.h"
#include "../../src/recall/effort.h"
#include "redis_fixture.h"

#define ROWS 300
#define DIM 8
#define K 3
#define HISTORY 10
#define POPULAR 40

/* ---- a bundle ---------------------------------------------------------------------------- */

struct fixture {
    char dir[64];
    struct config *config;
    struct registry *registry;
    struct behaviour *behaviour;
    struct recall *recall;
};

static uint64_t seed = 3;

static float any(void)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (float)((double)(seed >> 33) / (double)(1u << 30) - 1.0);
}

static const char *in(const struct fixture *f, const char *name)
{
    static char path[2][160];
    static int turn;

    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", f->dir, name);
    return path[turn];
}

static void write_text(const char *path, const struct buf *text)
{
    struct err err = ERR_INIT;

    assert_int_equal(file_write(path, text->p, text->len, &err), 0);
}

/* Row 7 is all zeros: whoever looked at it alone has no interest at all. */
static void write_inputs(const struct fixture *f)
{
    static float table[ROWS * DIM], kernel[DIM * DIM], logits[K * HISTORY];
    const struct ckpt_writer_tensor tensors[] = {
        {"mid_embedding_var", 2, {ROWS, DIM}, table},
        {"capsule_network/bilinear/dense/kernel", 2, {DIM, DIM}, kernel},
        {"routing_logits", 3, {1, K, HISTORY}, logits},
    };
    static const char *const meta[] = {
        "variant",     "thudm-mind", "interests", "3",
        "max_history", "10",         "init",      "tensor:routing_logits",
        NULL};
    struct buf items = BUF_INIT, popular = BUF_INIT;
    struct err err = ERR_INIT;

    for (size_t i = 0; i < ROWS * DIM; i++)
        table[i] = i / DIM == 7 ? 0 : 2 * any();
    for (size_t i = 0; i < DIM * DIM; i++)
        kernel[i] = any();
    for (size_t i = 0; i < K * HISTORY; i++)
        logits[i] = 2 * any();
    assert_int_equal(ckpt_write(in(f, "w.safetensors"), tensors, 3, meta, &err), 0);
    buf_puts(&items, "row\tid\tcolour\n");
    for (int row = 1; row < ROWS; row++)
        buf_printf(&items, "%d\titem%d\t%s\n", row, row,
                   row % 50 == 0 ? "rare"
                   : row % 2     ? "red"
                                 : "blue|dark");
    for (int row = 1; row <= POPULAR; row++)
        buf_printf(&popular, "item%d\n", row * 3);
    write_text(in(f, "items.tsv"), &items);
    write_text(in(f, "popular.txt"), &popular);
    buf_clear(&items);
    buf_clear(&popular);
}

static void build_bundle(const struct fixture *f, const char *name, const char *factory)
{
    struct bundle_build b;
    struct err err = ERR_INIT;
    char weights[160], items[160], popular[160], out[160];

    snprintf(weights, sizeof weights, "%s/w.safetensors", f->dir);
    snprintf(items, sizeof items, "%s/items.tsv", f->dir);
    snprintf(popular, sizeof popular, "%s/popular.txt", f->dir);
    snprintf(out, sizeof out, "%s/%s", f->dir, name);
    bundle_build_defaults(&b);
    b.name = name;
    b.version = "1";
    b.weights = weights;
    b.items = items;
    b.popular = popular;
    b.out = out;
    b.shards = 2;
    if (factory != NULL) {
        b.engine = "faiss";
        b.factory = factory;
        b.effort = 6;
        b.recall_floor = 0.1;
        b.threads = 1; /* OpenMP's threads meet in ways ThreadSanitizer cannot see */
    }
    if (bundle_build(&b, NULL, NULL, NULL, &err) == -1)
        fail_msg("%s", err.text);
}

/* ---- fixture ----------------------------------------------------------------------------- */

static struct fixture *shared;

static int group_setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);
    struct err err = ERR_INIT;
    const char *dirs[2];

    snprintf(f->dir, sizeof f->dir, "/tmp/test_recall.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    write_inputs(f);
    build_bundle(f, "small", NULL);
    build_bundle(f, "lists", "IVF16,Flat");
    f->config = config_parse("none", "", 0, NULL, NULL, 0, &err);
    assert_non_null(f->config);
    f->config->recall.n = 20;
    f->config->recall_deadline_ms = 20000;
    f->registry = registry_new("", 0);
    dirs[0] = in(f, "small");
    dirs[1] = in(f, "lists");
    if (registry_configure(f->registry, dirs, 2, "small@1", &err) == -1)
        fail_msg("%s", err.text);
    f->behaviour = behaviour_start(f->config, 16, NULL, &err);
    assert_non_null(f->behaviour);
    shared = f;
    *state = f;
    return 0;
}

static int group_teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];

    behaviour_free(f->behaviour);
    registry_free(f->registry);
    config_free(f->config);
    snprintf(command, sizeof command, "rm -rf %s", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static json_t *answer_with(const struct fixture *f, const char *body, int want_status)
{
    struct recall_direct *direct = recall_direct_new(f->config, f->registry);
    struct recall_reply reply;
    json_t *json;

    recall_direct_answer(direct, &(struct str){body, strlen(body)}, 1, &reply);
    if (reply.status != want_status)
        fail_msg("status %d: %s", reply.status, reply.text.p);
    json = reply.status == 200 ? json_loadb(reply.text.p, reply.text.len, 0, NULL)
                               : json_string(reply.text.p);
    assert_non_null(json);
    recall_direct_free(direct);
    return json;
}

static json_t *answer(const char *body)
{
    return answer_with(shared, body, 200);
}

static const char *text(json_t *json, const char *key)
{
    return json_string_value(json_object_get(json, key));
}

static int number(json_t *json, const char *key)
{
    return (int)json_integer_value(json_object_get(json, key));
}

static bool degraded_by(json_t *json, const char *word)
{
    json_t *list = json_object_get(json, "degraded"), *v;
    size_t i;

    json_array_foreach (list, i, v)
        if (strcmp(json_string_value(v), word) == 0)
            return true;
    return false;
}

static json_t *items_of(json_t *json)
{
    return json_object_get(json, "items");
}

static const char *item_id(json_t *json, size_t i)
{
    return text(json_array_get(items_of(json), i), "id");
}

static bool has_item(json_t *json, const char *id)
{
    for (size_t i = 0; i < json_array_size(items_of(json)); i++)
        if (strcmp(item_id(json, i), id) == 0)
            return true;
    return false;
}

/* ---- stages ------------------------------------------------------------------------------ */

static void a_history_gives_n_items_best_first_without_its_own(void **state)
{
    json_t *a = answer("{\"history\":[\"item5\",\"item9\",\"item12\"]}");

    (void)state;
    assert_string_equal(text(a, "source"), "model");
    assert_string_equal(text(a, "bundle"), "small@1");
    assert_int_equal(json_array_size(json_object_get(a, "degraded")), 0);
    assert_int_equal(number(a, "history"), 3);
    assert_int_equal(json_array_size(items_of(a)), 20);
    assert_false(has_item(a, "item5") || has_item(a, "item9") || has_item(a, "item12"));
    for (size_t i = 1; i < 20; i++) {
        json_t *before = json_array_get(items_of(a), i - 1), *item = json_array_get(items_of(a), i);

        assert_true(json_number_value(json_object_get(before, "score")) >=
                    json_number_value(json_object_get(item, "score")));
        assert_string_not_equal(item_id(a, i - 1), item_id(a, i));
    }
    json_decref(a);
}

static void history_counts_what_the_model_used(void **state)
{
    json_t *a = answer(
        "{\"history\":[\"item1\",\"item2\",\"item3\",\"item4\",\"item5\",\"item6\",\"item7\","
        "\"item8\",\"item9\",\"item10\",\"item11\",\"item12\",\"nobody\"],\"explain\":true}");

    (void)state;
    assert_int_equal(number(a, "history"), HISTORY);
    assert_int_equal(number(json_object_get(a, "explain"), "unknown"), 1);
    assert_int_equal(number(json_object_get(a, "explain"), "excluded"), 12);
    json_decref(a);
}

static void the_whole_catalogue_comes_once_each_when_asked_for(void **state)
{
    json_t *a = answer("{\"history\":[\"item5\",\"item9\"],\"n\":1000}");

    (void)state;
    assert_int_equal(json_array_size(items_of(a)), ROWS - 1 - 2);
    assert_true(degraded_by(a, "short_candidates"));
    json_decref(a);
}

static void exclude_takes_out_and_refills(void **state)
{
    struct buf body = BUF_INIT;
    json_t *plain = answer("{\"history\":[\"item5\"],\"n\":20}"), *a;

    (void)state;
    buf_puts(&body, "{\"history\":[\"item5\"],\"n\":20,\"exclude\":[");
    for (size_t i = 0; i < 20; i++)
        buf_printf(&body, "%s\"%s\"", i ? "," : "", item_id(plain, i));
    buf_puts(&body, "]}");
    a = answer(buf_cstr(&body));
    assert_int_equal(json_array_size(items_of(a)), 20);
    for (size_t i = 0; i < 20; i++)
        assert_false(has_item(a, item_id(plain, i)));
    json_decref(plain);
    json_decref(a);
    buf_clear(&body);
}

static void few_candidates_are_asked_for_again_until_n_are_there(void **state)
{
    struct fixture *f = *state;
    json_t *a, *full = answer("{\"history\":[\"item5\",\"item9\"],\"n\":100}");

    f->config->recall.candidates = 5;
    a = answer("{\"history\":[\"item5\",\"item9\"],\"n\":100}");
    f->config->recall.candidates = 0;
    assert_int_equal(json_array_size(items_of(a)), 100);
    assert_int_equal(json_array_size(items_of(full)), 100);
    json_decref(a);
    json_decref(full);
}

/* The same model, its items renamed: quotes and a backslash in every id. */
static void write_quoted(const struct fixture *f)
{
    struct buf items = BUF_INIT, popular = BUF_INIT;

    write_inputs(f);
    buf_puts(&items, "row\tid\n");
    for (int row = 1; row < ROWS; row++)
        buf_printf(&items, "%d\t\"item\\%d\"\n", row, row);
    buf_puts(&popular, "\"item\\8\"\n");
    write_text(in(f, "items.tsv"), &items);
    write_text(in(f, "popular.txt"), &popular);
    buf_clear(&items);
    buf_clear(&popular);
}

static void ids_that_json_escapes_come_back_as_they_are(void **state)
{
    struct fixture quoted = {.config = shared->config, .registry = registry_new("", 0)};
    struct err err = ERR_INIT;
    char command[128];
    const char *dir;
    json_t *a;

    (void)state;
    snprintf(quoted.dir, sizeof quoted.dir, "/tmp/test_recall.XXXXXX");
    assert_non_null(mkdtemp(quoted.dir));
    write_quoted(&quoted);
    build_bundle(&quoted, "quoted", NULL);
    dir = in(&quoted, "quoted");
    assert_int_equal(registry_configure(quoted.registry, &dir, 1, "", &err), 0);
    a = answer_with(&quoted, "{\"history\":[\"\\\"item\\\\5\\\"\"],\"n\":100,\"explain\":true}",
                    200);
    assert_int_equal(number(a, "history"), 1);
    assert_int_equal(json_array_size(items_of(a)), 100);
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(strncmp(item_id(a, i), "\"item\\", 6), 0);
        assert_int_equal(item_id(a, i)[strlen(item_id(a, i)) - 1], '"');
    }
    json_decref(a);
    a = answer_with(&quoted, "{\"history\":[\"unknown\"],\"n\":1}", 200);
    assert_string_equal(item_id(a, 0), "\"item\\8\"");
    json_decref(a);
    registry_free(quoted.registry);
    snprintf(command, sizeof command, "rm -rf %s", quoted.dir);
    assert_int_equal(system(command), 0);
}

static struct recall_call *parsed(struct fixture *f, const char *body)
{
    struct recall_call *c = xcalloc(1, sizeof *c);
    struct err err = ERR_INIT;

    buf_puts(&c->body, body);
    c->policy = recall_policy_new(f->config);
    c->deadline_ns = UINT64_MAX;
    assert_int_equal(request_parse(c, 1000, &err), 0);
    return c;
}

static void drop_call(struct recall_call *c)
{
    ref_release(&c->policy->ref);
    arena_clear(&c->arena);
    buf_clear(&c->body);
    buf_clear(&c->answer);
    free(c);
}

/* ---- under load -------------------------------------------------------------------------- */

static void leave(struct recall_call *c)
{
    (void)c;
}

/* The answer to `body` from the bundle at an effort level, whose degraded words are `want`. */
static struct recall_call *eased(struct fixture *f, const char *bundle, int level, const char *body,
                                 uint32_t want)
{
    const struct bundle_set *set = registry_acquire(f->registry);
    struct pipeline *p = pipeline_new();
    struct recall_call *c = parsed(f, body);

    snprintf(c->policy->settings.bundle, sizeof c->policy->settings.bundle, "%s", bundle);
    c->level = level;
    assert_int_equal(pipeline_run(p, set, &c, 1, leave), 1);
    assert_int_equal(c->status, 200);
    assert_int_equal(c->degraded, want);
    pipeline_free(p);
    bundle_set_release(set);
    return c;
}

static bool same_picks(const struct recall_call *a, const struct recall_call *b)
{
    if (a->n_picks != b->n_picks)
        return false;
    for (size_t i = 0; i < a->n_picks; i++)
        if (a->picks[i].row != b->picks[i].row || a->picks[i].score != b->picks[i].score)
            return false;
    return true;
}

static const char two_items[] = "{\"history\":[\"item5\",\"item9\"]}";

static void load_lowers_the_search_effort_step_by_step_and_says_so(void **state)
{
    static const uint32_t words[] = {0, 1u << DEGRADED_EFFORT_1, 1u << DEGRADED_EFFORT_2,
                                     1u << DEGRADED_EFFORT_3,
                                     1u << DEGRADED_EFFORT_3 | 1u << DEGRADED_INTERESTS_CUT};
    struct fixture *f = *state;
    struct recall_call *full = eased(f, "lists@1", 0, two_items, 0);
    double effort = 2;

    assert_int_equal(full->n_live, K);
    for (int level = 0; level < EFFORT_LEVELS; level++) {
        struct recall_call *c = eased(f, "lists@1", level, two_items, words[level]);

        assert_true(c->query.effort < effort || level > EFFORT_STEPS);
        assert_true(level == 0 ? same_picks(c, full) : !same_picks(c, full));
        effort = c->query.effort;
        drop_call(c);
    }
    drop_call(full);
}

static void an_index_without_effort_gives_the_full_answer_until_interests_are_cut(void **state)
{
    struct fixture *f = *state;
    struct recall_call *full = eased(f, "small@1", 0, two_items, 0), *cut;

    for (int level = 1; level <= EFFORT_STEPS; level++) {
        struct recall_call *c = eased(f, "small@1", level, two_items, 0);

        assert_true(same_picks(c, full));
        drop_call(c);
    }
    for (int level = 1; level < EFFORT_LEVELS; level++) /* searched together they take no less */
        drop_call(eased(f, "small@1", level, two_items, 0));
    f->config->recall.merge = MERGE_QUOTA;
    cut = eased(f, "small@1", EFFORT_LEVELS - 1, two_items, 1u << DEGRADED_INTERESTS_CUT);
    f->config->recall.merge = MERGE_MAX;
    assert_int_equal(cut->n_live, 2);
    assert_int_equal(cut->live[0], full->live[0]);
    assert_int_equal(cut->live[1], full->live[1]);
    assert_int_equal(cut->dropped[full->live[2]], DROP_UNUSED);
    drop_call(full);
    drop_call(cut);
}

static void what_load_does_not_touch_is_not_marked(void **state)
{
    struct fixture *f = *state;

    drop_call(
        eased(f, "lists@1", EFFORT_LEVELS - 1, "{\"history\":[]}", 1u << DEGRADED_EMPTY_HISTORY));
    f->config->recall.interests = 1;
    drop_call(eased(f, "small@1", EFFORT_LEVELS - 1, two_items, 0));
    f->config->recall.interests = 0;
}

/* The deadline of the second call of a batch passes between its search and its refill. */
static struct recall_call *second;

static void end_second(struct recall_call *c)
{
    if (c != second)
        second->query.deadline_ns = 1;
}

static void a_late_refill_keeps_what_the_first_search_found(void **state)
{
    struct fixture *f = *state;
    const struct bundle_set *set = registry_acquire(f->registry);
    struct pipeline *p = pipeline_new();
    struct recall_call *calls[2];

    f->config->recall.candidates = 5;
    calls[0] = parsed(f, "{\"history\":[\"item5\",\"item9\"],\"n\":5}");
    calls[1] = second = parsed(f, "{\"history\":[\"item5\",\"item9\"],\"n\":100}");
    f->config->recall.candidates = 0;
    pipeline_run(p, set, calls, 2, end_second);
    assert_int_equal(second->source, SOURCE_MODEL);
    assert_true(second->n_picks >= 5 && second->n_picks < 100);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(second->picks[i].row, calls[0]->picks[i].row);
    assert_true(second->degraded & 1u << DEGRADED_DEADLINE_SEARCH);
    assert_true(second->degraded & 1u << DEGRADED_SHORT_CANDIDATES);
    drop_call(calls[0]);
    drop_call(calls[1]);
    pipeline_free(p);
    bundle_set_release(set);
}

static void filter_joins_values_and_intersects_attributes(void **state)
{
    json_t *a = answer("{\"history\":[\"item5\"],\"filter\":{\"colour\":[\"rare\"]}}"), *b;

    (void)state;
    assert_int_equal(json_array_size(items_of(a)), 5); /* 50, 100, ... 250 */
    assert_true(degraded_by(a, "short_filter"));
    assert_true(has_item(a, "item150"));
    b = answer("{\"history\":[\"item5\"],\"n\":300,\"filter\":{\"colour\":[\"rare\",\"dark\"]}}");
    assert_int_equal(json_array_size(items_of(b)), 149); /* all even rows */
    json_decref(a);
    json_decref(b);
    a = answer("{\"history\":[\"item5\"],\"filter\":{\"colour\":[\"unheard\"]}}");
    assert_int_equal(json_array_size(items_of(a)), 0);
    assert_string_equal(text(a, "source"), "none");
    json_decref(a);
}

static void a_filter_the_bundle_lacks_is_refused(void **state)
{
    json_t *a = answer_with(*state, "{\"history\":[\"item5\"],\"filter\":{\"size\":[1]}}", 400);

    assert_string_equal(json_string_value(a), "filter.size: bundle small@1 has no such attribute");
    json_decref(a);
}

/* ---- fallback ---------------------------------------------------------------------------- */

static void no_history_gives_the_popular_items_in_their_order(void **state)
{
    json_t *a = answer("{\"history\":[],\"exclude\":[\"item6\"],\"n\":3}");

    (void)state;
    assert_string_equal(text(a, "source"), "popular");
    assert_true(degraded_by(a, "empty_history"));
    assert_string_equal(item_id(a, 0), "item3");
    assert_string_equal(item_id(a, 1), "item9");
    assert_null(json_object_get(json_array_get(items_of(a), 0), "score"));
    json_decref(a);
}

static void unknown_items_alone_give_popular_ones_too(void **state)
{
    json_t *a = answer("{\"history\":[\"x\",\"y\"],\"n\":3}");

    (void)state;
    assert_string_equal(text(a, "source"), "popular");
    assert_true(degraded_by(a, "unknown_items"));
    assert_false(degraded_by(a, "empty_history"));
    json_decref(a);
}

static void popular_items_pass_the_filter_as_well(void **state)
{
    json_t *a = answer("{\"history\":[],\"n\":50,\"filter\":{\"colour\":[\"blue\"]}}");

    (void)state;
    assert_true(json_array_size(items_of(a)) > 0);
    for (size_t i = 0; i < json_array_size(items_of(a)); i++)
        assert_int_equal(atoi(item_id(a, i) + 4) % 2, 0);
    assert_true(degraded_by(a, "short_filter"));
    json_decref(a);
}

static void without_fallback_the_answer_is_empty_and_says_why(void **state)
{
    struct fixture *f = *state;
    json_t *a;

    f->config->recall.fallback = FALLBACK_NONE;
    a = answer("{\"history\":[]}");
    f->config->recall.fallback = FALLBACK_POPULAR;
    assert_string_equal(text(a, "source"), "none");
    assert_int_equal(json_array_size(items_of(a)), 0);
    assert_true(degraded_by(a, "empty_history"));
    json_decref(a);
}

static void a_zero_interest_is_never_searched(void **state)
{
    json_t *a = answer("{\"history\":[\"item7\"],\"explain\":true}");
    json_t *interests = json_object_get(json_object_get(a, "explain"), "interests");

    (void)state;
    assert_int_equal(number(a, "interests"), 0);
    assert_string_equal(text(a, "source"), "popular");
    assert_true(degraded_by(a, "short_candidates"));
    for (size_t k = 0; k < K; k++)
        assert_string_equal(text(json_array_get(interests, k), "dropped"), "zero");
    json_decref(a);
}

static void a_bundle_that_is_not_loaded_falls_back_to_the_default(void **state)
{
    struct fixture *f = *state;
    json_t *a;

    snprintf(f->config->recall.bundle, sizeof f->config->recall.bundle, "gone@9");
    a = answer("{\"history\":[\"item5\"]}");
    f->config->recall.bundle[0] = '\0';
    assert_true(degraded_by(a, "bundle_fallback"));
    assert_string_equal(text(a, "bundle"), "small@1");
    json_decref(a);
}

/* ---- experiments ------------------------------------------------------------------------- */

static int put_beside(void *text, const struct bundle_set *set, struct ref **beside,
                      struct err *err)
{
    (void)set;
    if (text != NULL)
        *beside = (struct ref *)experiments_parse("test", text, strlen(text), NULL, err);
    return text == NULL || *beside != NULL ? 0 : -1;
}

/* Unchecked: so an arm may name a bundle that is not there. */
static void experiment(struct fixture *f, const char *text)
{
    struct err err = ERR_INIT;

    if (registry_set_beside(f->registry, put_beside, (void *)(uintptr_t)text, &err) == -1)
        fail_msg("%s", err.text);
}

#define EXPERIMENT(arms)                                                            \
    "{\"version\":1,\"hash\":\"growthbook-v2\",\"allow_forced\":true,\"layers\":[{" \
    "\"name\":\"l\",\"arms\":[" arms "]}]}"

static void an_arm_changes_the_settings_but_not_what_the_request_says(void **state)
{
    struct fixture *f = *state;
    json_t *a, *b, *c;

    experiment(f, EXPERIMENT("{\"name\":\"few\",\"weight\":1,\"set\":{\"n\":7,\"bundle\":"
                             "\"lists@1\"}}"));
    a = answer("{\"user_id\":\"u\",\"history\":[\"item5\"]}");
    b = answer("{\"user_id\":\"u\",\"history\":[\"item5\"],\"n\":9}");
    c = answer("{\"history\":[\"item5\"]}");
    experiment(f, NULL);
    assert_string_equal(text(a, "bundle"), "lists@1");
    assert_string_equal(text(json_object_get(a, "arms"), "l"), "few");
    assert_int_equal(json_array_size(items_of(a)), 7);
    assert_int_equal(json_array_size(items_of(b)), 9);
    assert_string_equal(text(c, "bundle"), "small@1"); /* nobody, so no arm */
    assert_int_equal(json_object_size(json_object_get(c, "arms")), 0);
    json_decref(a);
    json_decref(b);
    json_decref(c);
}

static void an_arm_whose_bundle_is_gone_is_answered_by_the_default(void **state)
{
    struct fixture *f = *state;
    json_t *a;

    experiment(f, EXPERIMENT("{\"name\":\"lost\",\"weight\":1,\"set\":{\"bundle\":\"gone@9\"}}"));
    a = answer("{\"user_id\":\"u\",\"history\":[\"item5\"]}");
    experiment(f, NULL);
    assert_true(degraded_by(a, "bundle_fallback"));
    assert_string_equal(text(a, "bundle"), "small@1");
    assert_string_equal(text(json_object_get(a, "arms"), "l"), "lost");
    json_decref(a);
}

static void a_request_chooses_arms_only_where_there_are_some(void **state)
{
    static const char body[] = "{\"history\":[\"item5\"],\"arms\":{\"l\":\"b\"}}";
    struct fixture *f = *state;
    json_t *a, *b;

    json_decref(answer_with(f, body, 403));
    experiment(f, EXPERIMENT("{\"name\":\"a\",\"weight\":1},{\"name\":\"b\",\"weight\":0}"));
    a = answer(body);
    b = answer_with(f, "{\"history\":[\"item5\"],\"arms\":{\"l\":\"c\"}}", 400);
    experiment(f, NULL);
    assert_string_equal(text(json_object_get(a, "arms"), "l"), "b");
    assert_true(json_is_true(json_object_get(a, "forced")));
    assert_string_equal(json_string_value(b), "arms.l: the layer has no arm \"c\"");
    json_decref(a);
    json_decref(b);
}

/* ---- interests --------------------------------------------------------------------------- */

static void interests_says_how_many_may_be_searched(void **state)
{
    struct fixture *f = *state;
    json_t *a;

    f->config->recall.interests = 1;
    a = answer("{\"history\":[\"item5\",\"item9\",\"item12\"],\"explain\":true}");
    f->config->recall.interests = 0;
    assert_int_equal(number(a, "interests"), 1);
    for (size_t i = 0; i < json_array_size(items_of(a)); i++)
        assert_int_equal(number(json_array_get(items_of(a), i), "interest"), 0);
    json_decref(a);
}

static void interests_that_nearly_equal_an_earlier_one_are_dropped(void **state)
{
    struct fixture *f = *state;
    json_t *a, *interests;
    int kept = 0, similar = 0;

    f->config->recall.similar_interests = 0; /* anything that points the same way at all */
    a = answer("{\"history\":[\"item9\"],\"explain\":true}");
    f->config->recall.similar_interests = 0.9999;
    /* One item: its three capsules are multiples of one vector. */
    interests = json_object_get(json_object_get(a, "explain"), "interests");
    for (size_t k = 0; k < K; k++) {
        const char *dropped = text(json_array_get(interests, k), "dropped");

        kept += dropped == NULL;
        similar += dropped != NULL && strcmp(dropped, "similar") == 0;
    }
    assert_int_equal(number(a, "interests"), 1);
    assert_int_equal(kept, 1);
    assert_true(similar > 0);
    json_decref(a);
}

static void explain_shows_weights_finders_and_vectors(void **state)
{
    json_t *a =
        answer("{\"history\":[\"item5\",\"item9\",\"item12\"],\"explain\":true,\"vectors\":true}");
    json_t *explain = json_object_get(a, "explain");
    json_t *interests = json_object_get(explain, "interests");
    size_t kept = 0;

    (void)state;
    assert_int_equal(json_array_size(interests), K);
    for (size_t s = 0; s < 3; s++) { /* softmax over the interests: each item's weights sum to 1 */
        double sum = 0;

        for (size_t k = 0; k < K; k++) {
            json_t *h = json_array_get(json_object_get(json_array_get(interests, k), "history"), s);

            sum += json_number_value(json_object_get(h, "weight"));
        }
        assert_true(sum > 0.99999 && sum < 1.00001);
    }
    for (size_t k = 0; k < K; k++)
        kept += (size_t)number(json_array_get(interests, k), "kept");
    assert_int_equal(kept, 20);
    for (size_t i = 0; i < 20; i++) {
        json_t *item = json_array_get(items_of(a), i);
        json_t *finders = json_object_get(item, "found_by"), *v;
        size_t j;
        double best = -1e9;

        assert_true(json_array_size(finders) >= 1);
        json_array_foreach (finders, j, v)
            if (json_number_value(json_object_get(v, "score")) > best)
                best = json_number_value(json_object_get(v, "score"));
        assert_true(best == json_number_value(json_object_get(item, "score")));
    }
    assert_int_equal(json_array_size(json_object_get(a, "vectors")), K);
    assert_int_equal(json_array_size(json_array_get(json_object_get(a, "vectors"), 0)), DIM);
    assert_non_null(json_object_get(json_object_get(explain, "stages_us"), "search"));
    json_decref(a);
}

/* ---- without threads --------------------------------------------------------------------- */

static void a_direct_batch_answers_each_request_as_if_it_were_alone(void **state)
{
    static const char *const bodies[] = {
        "{\"history\":[\"item5\",\"item11\"],\"n\":7}",
        "{\"history\":",
        "{\"history\":[\"item5\"],\"filter\":{\"size\":[1]}}",
        "{\"history\":[\"item8\"],\"n\":40,\"filter\":{\"colour\":[\"rare\"]}}",
        "{\"history\":[],\"n\":3}",
        "{\"user_id\":\"nobody\",\"n\":3}", /* no Redis: no behaviour */
    };
    static const int statuses[] = {200, 400, 400, 200, 200, 200};
    struct fixture *f = *state;
    struct recall_direct *direct = recall_direct_new(f->config, f->registry);
    struct recall_reply replies[ARRAY_LEN(bodies)];
    struct str texts[ARRAY_LEN(bodies)];

    for (size_t i = 0; i < ARRAY_LEN(bodies); i++)
        texts[i] = (struct str){bodies[i], strlen(bodies[i])};
    for (int round = 0; round < 2; round++) { /* the second with calls that were used before */
        recall_direct_answer(direct, texts, ARRAY_LEN(bodies), replies);
        for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
            json_t *alone = answer_with(f, bodies[i], statuses[i]), *batched;

            assert_int_equal(replies[i].status, statuses[i]);
            if (statuses[i] != 200) {
                assert_string_equal(replies[i].text.p, json_string_value(alone));
                json_decref(alone);
                continue;
            }
            batched = json_loadb(replies[i].text.p, replies[i].text.len, 0, NULL);
            assert_true(json_equal(items_of(batched), items_of(alone)));
            assert_int_equal(replies[i].n_rows, json_array_size(items_of(alone)));
            for (size_t j = 0; j < replies[i].n_rows; j++) {
                char id[16];

                snprintf(id, sizeof id, "item%u", (unsigned)replies[i].rows[j]);
                assert_string_equal(id, item_id(alone, j));
            }
            json_decref(alone);
            json_decref(batched);
        }
    }
    assert_true(replies[3].degraded & 1u << DEGRADED_SHORT_FILTER);
    recall_direct_answer(direct, NULL, 0, NULL);
    recall_direct_free(direct);
    recall_direct_free(NULL);
}

/* Rows 1 to 20 only: whoever searches that index finds nothing else. */
static void a_direct_handle_can_search_another_index(void **state)
{
    static const char body[] = "{\"history\":[\"item50\"],\"n\":10}";
    struct fixture *f = *state;
    struct recall_direct *direct = recall_direct_new(f->config, f->registry);
    const struct bundle_set *set = registry_acquire(f->registry);
    struct index_shard few = {NULL, 1, 20};
    struct index_spec spec = {.engine = "exact", .shards = &few, .n_shards = 1};
    struct err err = ERR_INIT;
    struct index *ix = index_open(&spec, bundle_vectors(bundle_set_find(set, NULL)), &err);
    struct recall_reply reply;
    bool beyond = false;

    assert_non_null(ix);
    recall_direct_index(direct, ix);
    recall_direct_answer(direct, &(struct str){body, strlen(body)}, 1, &reply);
    assert_int_equal(reply.n_rows, 10);
    for (size_t i = 0; i < reply.n_rows; i++)
        assert_in_range(reply.rows[i], 1, 20);
    recall_direct_index(direct, NULL);
    recall_direct_answer(direct, &(struct str){body, strlen(body)}, 1, &reply);
    for (size_t i = 0; i < reply.n_rows; i++)
        beyond |= reply.rows[i] > 20;
    assert_true(beyond);
    index_free(ix);
    bundle_set_release(set);
    recall_direct_free(direct);
}

/* ---- the service ------------------------------------------------------------------------- */

struct client {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int done;
    struct recall_call *calls[4096];
};

static void client_done(struct recall_call *c)
{
    struct client *client = recall_call_owner(c);

    pthread_mutex_lock(&client->lock);
    client->calls[client->done++] = c;
    pthread_cond_signal(&client->changed);
    pthread_mutex_unlock(&client->lock);
}

static enum recall_admission send_one(struct recall *r, struct client *client, const char *body)
{
    struct recall_call *c = recall_call_get(r, client_done, client);
    struct err err = ERR_INIT;
    enum recall_admission a;

    assert_int_equal(recall_call_body(c, body, strlen(body), 1 << 20), 0);
    a = recall_submit(r, c, NULL, &err);
    if (a != RECALL_ADMITTED)
        recall_call_put(c);
    return a;
}

static void wait_for(struct client *client, int n)
{
    pthread_mutex_lock(&client->lock);
    while (client->done < n)
        pthread_cond_wait(&client->changed, &client->lock);
    pthread_mutex_unlock(&client->lock);
}

static struct client *client_new(void)
{
    struct client *c = xcalloc(1, sizeof *c);

    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    return c;
}

static void client_free(struct client *client)
{
    for (int i = 0; i < client->done; i++)
        recall_call_put(client->calls[i]);
    pthread_mutex_destroy(&client->lock);
    pthread_cond_destroy(&client->changed);
    free(client);
}

static struct poller *poller; /* of the service that runs */

static struct recall *start(struct fixture *f, int workers, int queue, int batch)
{
    struct err err = ERR_INIT;
    struct recall *r;

    poller = poller_new(&err);
    assert_non_null(poller);
    f->config->workers_count = workers;
    f->config->workers_queue = queue;
    f->config->workers_batch = batch;
    r = recall_start(f->config, recall_policy_new(f->config), f->registry, NULL, NULL, f->behaviour,
                     poller, &err);
    assert_non_null(r);
    return r;
}

static void stop(struct recall *r)
{
    recall_stop(r);
    poller_free(poller);
}

/* The part of an answer that must not depend on anything but the request. */
static void items_text(const struct recall_call *c, struct buf *out)
{
    size_t len;
    const char *answer = recall_call_answer(c, &len);
    const char *from = memmem(answer, len, "\"bundle\"", 8);
    const char *to = memmem(answer, len, ",\"took_us\"", 10);

    assert_non_null(from);
    assert_non_null(to);
    buf_put(out, from, (size_t)(to - from));
}

static void neither_batch_nor_load_changes_a_bit(void **state)
{
    static const char *const bodies[] = {
        "{\"request_id\":\"0\",\"history\":[\"item5\",\"item9\",\"item12\"],\"vectors\":true}",
        "{\"request_id\":\"1\",\"history\":[\"item200\"],\"n\":77,\"vectors\":true}",
        ("{\"request_id\":\"2\",\"history\":[\"item1\",\"item2\",\"item3\",\"item4\"],"
         "\"filter\":{\"colour\":\"red\"}}"),
        "{\"request_id\":\"3\",\"history\":[]}",
        "{\"request_id\":\"4\",\"history\":[\"item1\"],\"filter\":{\"colour\":\"rare\"}}",
        "{\"request_id\":\"5\",\"history\":[\"item1\"],\"filter\":{\"colour\":[\"red\",\"dark\"]}}",
    };
    struct buf first[ARRAY_LEN(bodies)] = {BUF_INIT};
    struct fixture *f = *state;

    for (int workers = 1; workers <= 3; workers++)
        for (int batch = 1; batch <= 8; batch += 7) {
            struct recall *r = start(f, workers, 4096, batch);
            struct client *client = client_new();

            for (int i = 0; i < 400; i++)
                assert_int_equal(send_one(r, client, bodies[i % (int)ARRAY_LEN(bodies)]),
                                 RECALL_ADMITTED);
            wait_for(client, 400);
            for (int i = 0; i < 400; i++) {
                int which = recall_call_request_id(client->calls[i])[0] - '0';
                struct buf now = BUF_INIT;

                assert_int_equal(recall_call_status(client->calls[i]), 200);
                items_text(client->calls[i], first[which].len == 0 ? &first[which] : &now);
                if (now.len > 0) {
                    assert_int_equal(now.len, first[which].len);
                    assert_memory_equal(now.p, first[which].p, now.len);
                }
                buf_clear(&now);
            }
            client_free(client);
            stop(r);
        }
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++)
        buf_clear(&first[i]);
}

static void a_full_queue_refuses_at_once_and_loses_nothing(void **state)
{
    struct recall *r = start(*state, 1, 4, 8);
    struct client *client = client_new();
    int admitted = 0, full = 0;

    for (int i = 0; i < 2000; i++)
        switch (send_one(r, client, "{\"history\":[\"item5\"],\"n\":200}")) {
        case RECALL_ADMITTED:
            admitted++;
            break;
        case RECALL_FULL:
            full++;
            break;
        default:
            fail();
        }
    wait_for(client, admitted);
    assert_int_equal(admitted + full, 2000);
    assert_true(full > 0 && admitted >= 4);
    for (int i = 0; i < admitted; i++)
        assert_int_equal(recall_call_status(client->calls[i]), 200);
    client_free(client);
    stop(r);
}

/* Holds the worker that has answered the first call until the lock is free. */
struct hold {
    pthread_mutex_t lock;
    atomic_bool held;
};

static struct hold hold = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void done_when_released(struct recall_call *c)
{
    atomic_store(&hold.held, true);
    pthread_mutex_lock(&hold.lock);
    pthread_mutex_unlock(&hold.lock);
    client_done(c);
}

static enum recall_admission offer(struct recall *r, struct client *client, const char *body,
                                   char text[sizeof((struct err *)NULL)->text])
{
    struct recall_call *c = recall_call_get(r, client_done, client);
    struct err err = ERR_INIT;
    enum recall_admission a;

    assert_int_equal(recall_call_body(c, body, strlen(body), 1 << 20), 0);
    a = recall_submit(r, c, NULL, &err);
    if (a != RECALL_ADMITTED) {
        assert_int_not_equal(strlen(recall_call_request_id(c)), 0);
        recall_call_put(c);
    }
    strcpy(text, err.text);
    return a;
}

/* A service whose only worker is held, with 500 calls waiting for it. */
static struct recall *start_crowded(struct fixture *f, struct client *client, int queue)
{
    struct recall *r = start(f, 1, queue, 1);
    struct recall_call *c;
    struct err err = ERR_INIT;

    for (int i = 0; i < 20; i++) /* so that it knows what a call costs */
        assert_int_equal(send_one(r, client, two_items), RECALL_ADMITTED);
    wait_for(client, 20);
    pthread_mutex_lock(&hold.lock);
    atomic_store(&hold.held, false);
    c = recall_call_get(r, done_when_released, client);
    assert_int_equal(recall_call_body(c, two_items, strlen(two_items), 1 << 20), 0);
    assert_int_equal(recall_submit(r, c, NULL, &err), RECALL_ADMITTED);
    while (!atomic_load(&hold.held))
        usleep(100);
    for (int i = 0; i < 500; i++)
        assert_int_equal(send_one(r, client, two_items), RECALL_ADMITTED);
    return r;
}

static void who_would_wait_too_long_is_refused_at_once(void **state)
{
    struct client *client = client_new();
    struct recall *r = start_crowded(*state, client, 4096);
    char why[sizeof((struct err *)NULL)->text];

    assert_int_equal(offer(r, client, "{\"history\":[\"item5\"],\"deadline_ms\":1}", why),
                     RECALL_FULL);
    assert_string_equal(why, "overloaded: the wait would be too long");
    assert_int_equal(offer(r, client, "{\"history\":[\"item5\"],\"deadline_ms\":60000}", why),
                     RECALL_ADMITTED);
    assert_int_equal(offer(r, client, "{\"history\":[\"item5\"],\"deadline_ms\":0}", why),
                     RECALL_BAD);
    pthread_mutex_unlock(&hold.lock);
    wait_for(client, 20 + 1 + 500 + 1);
    for (int i = 0; i < client->done; i++)
        assert_int_equal(recall_call_status(client->calls[i]), 200);
    /* Nobody waits any more: whatever is believed of the cost, this one is taken. */
    for (int i = 0; i < 100 && recall_in_flight(r) > 0; i++)
        usleep(1000);
    assert_int_equal(offer(r, client, "{\"history\":[\"item5\"],\"deadline_ms\":1}", why),
                     RECALL_ADMITTED);
    wait_for(client, 20 + 1 + 500 + 2);
    client_free(client);
    stop(r);
}

/* With the default deadline short instead, the same is certain before the body is read. */
static void a_certain_refusal_does_not_read_the_body(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_new();
    struct recall *r = start_crowded(f, client, 4096);
    struct recall_policy *hasty;
    char why[sizeof((struct err *)NULL)->text];

    assert_int_equal(offer(r, client, "no JSON", why), RECALL_BAD);
    f->config->recall_deadline_ms = 1;
    hasty = recall_policy_new(f->config);
    f->config->recall_deadline_ms = 20000;
    recall_set_policy(r, hasty);
    assert_int_equal(offer(r, client, "no JSON", why), RECALL_FULL);
    assert_string_equal(why, "overloaded: the wait would be too long");
    /* This one may have said how long it can wait. */
    assert_int_equal(offer(r, client, "no JSON, \"deadline_ms\"", why), RECALL_BAD);
    assert_int_equal(offer(r, client, "no JSON, \"\\u0064eadline_ms\"", why), RECALL_BAD);
    assert_int_equal(offer(r, client, "{\"history\":[\"item5\"],\"\\u0064eadline_ms\":60000}", why),
                     RECALL_ADMITTED);
    pthread_mutex_unlock(&hold.lock);
    wait_for(client, 20 + 1 + 500 + 1);
    client_free(client);
    stop(r);
}

static void a_full_queue_reads_no_body_at_all(void **state)
{
    struct client *client = client_new();
    struct recall *r = start_crowded(*state, client, 500);
    char why[sizeof((struct err *)NULL)->text];

    assert_int_equal(offer(r, client, "no JSON, \"deadline_ms\"", why), RECALL_FULL);
    assert_string_equal(why, "overloaded: the queue is full");
    pthread_mutex_unlock(&hold.lock);
    wait_for(client, 20 + 1 + 500);
    client_free(client);
    stop(r);
}

static void set_redis(struct fixture *f, const char *address)
{
    f->config->redis_timeout_ms = f->config->redis_connect_ms = 10000;
    free(f->config->redis_address);
    f->config->redis_address = xstrdup(address);
}

/* Whoever asks Redis comes after all who have asked before; whoever brings his history does not. */
static void those_who_wait_for_redis_are_ahead_of_whoever_asks_too(void **state)
{
    struct fixture *f = *state;
    struct client *client = client_new();
    struct real_redis redis;
    struct err err = ERR_INIT;
    struct behaviour *asking;
    struct recall *r;
    char why[sizeof err.text];

    real_start(&redis);
    set_redis(f, redis.path);
    asking = behaviour_start(f->config, 2048, NULL, &err);
    assert_non_null(asking);
    r = start(f, 1, 4096, 1);
    recall_set_behaviour(r, asking);
    assert_int_equal(send_one(r, client, "{\"user_id\":\"u\"}"), RECALL_ADMITTED);
    wait_for(client, 1);
    for (int i = 0; i < 20; i++) /* so that it knows what a call costs */
        assert_int_equal(send_one(r, client, two_items), RECALL_ADMITTED);
    wait_for(client, 21);
    kill(redis.pid, SIGSTOP);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(send_one(r, client, "{\"user_id\":\"u\"}"), RECALL_ADMITTED);
    assert_int_equal(offer(r, client, "{\"user_id\":\"u\",\"deadline_ms\":1}", why), RECALL_FULL);
    assert_string_equal(why, "overloaded: the wait would be too long");
    assert_int_equal(offer(r, client, "{\"history\":[\"item5\"],\"deadline_ms\":1}", why),
                     RECALL_ADMITTED);
    kill(redis.pid, SIGCONT);
    wait_for(client, 21 + 1000 + 1);
    client_free(client);
    stop(r);
    behaviour_free(asking);
    real_stop(&redis);
    set_redis(f, "");
}

static void a_draining_service_takes_nothing_and_finishes_what_it_has(void **state)
{
    struct recall *r = start(*state, 2, 512, 8);
    struct client *client = client_new();

    for (int i = 0; i < 300; i++)
        assert_int_equal(send_one(r, client, "{\"history\":[\"item5\"]}"), RECALL_ADMITTED);
    recall_drain(r);
    assert_int_equal(send_one(r, client, "{\"history\":[\"item5\"]}"), RECALL_DRAINING);
    wait_for(client, 300);
    client_free(client);
    stop(r);
}

static void ignore(struct recall_call *c)
{
    (void)c;
}

static void a_deadline_that_passed_in_the_queue_is_a_504(void **state)
{
    struct fixture *f = *state;
    struct recall_call call = {.deadline_ns = 1, .policy = recall_policy_new(f->config)};
    struct recall_call *calls[] = {&call};
    const struct bundle_set *set = registry_acquire(f->registry);
    struct pipeline *p = pipeline_new();
    size_t len;

    assert_int_equal(pipeline_run(p, set, calls, 1, ignore), 0);
    assert_int_equal(call.status, 504);
    assert_string_equal(buf_cstr(&call.answer),
                        "the deadline passed before a worker took the request");
    (void)recall_call_answer(&call, &len);
    ref_release(&call.policy->ref);
    buf_clear(&call.answer);
    arena_clear(&call.arena);
    pipeline_free(p);
    bundle_set_release(set);
}

static void a_body_over_the_limit_is_not_taken(void **state)
{
    struct recall *r = start(*state, 1, 4, 1);
    struct recall_call *c = recall_call_get(r, client_done, NULL);

    assert_int_equal(recall_call_body(c, "12345", 5, 8), 0);
    assert_int_equal(recall_call_body(c, "6789", 4, 8), -1);
    assert_int_equal(recall_call_body(c, "678", 3, 8), 0);
    recall_call_put(c);
    stop(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_history_gives_n_items_best_first_without_its_own),
        cmocka_unit_test(history_counts_what_the_model_used),
        cmocka_unit_test(the_whole_catalogue_comes_once_each_when_asked_for),
        cmocka_unit_test(exclude_takes_out_and_refills),
        cmocka_unit_test(ids_that_json_escapes_come_back_as_they_are),
        cmocka_unit_test(few_candidates_are_asked_for_again_until_n_are_there),
        cmocka_unit_test(load_lowers_the_search_effort_step_by_step_and_says_so),
        cmocka_unit_test(an_index_without_effort_gives_the_full_answer_until_interests_are_cut),
        cmocka_unit_test(what_load_does_not_touch_is_not_marked),
        cmocka_unit_test(a_late_refill_keeps_what_the_first_search_found),
        cmocka_unit_test(filter_joins_values_and_intersects_attributes),
        cmocka_unit_test(a_filter_the_bundle_lacks_is_refused),
        cmocka_unit_test(no_history_gives_the_popular_items_in_their_order),
        cmocka_unit_test(unknown_items_alone_give_popular_ones_too),
        cmocka_unit_test(popular_items_pass_the_filter_as_well),
        cmocka_unit_test(without_fallback_the_answer_is_empty_and_says_why),
        cmocka_unit_test(a_zero_interest_is_never_searched),
        cmocka_unit_test(a_bundle_that_is_not_loaded_falls_back_to_the_default),
        cmocka_unit_test(an_arm_changes_the_settings_but_not_what_the_request_says),
        cmocka_unit_test(an_arm_whose_bundle_is_gone_is_answered_by_the_default),
        cmocka_unit_test(a_request_chooses_arms_only_where_there_are_some),
        cmocka_unit_test(interests_says_how_many_may_be_searched),
        cmocka_unit_test(interests_that_nearly_equal_an_earlier_one_are_dropped),
        cmocka_unit_test(explain_shows_weights_finders_and_vectors),
        cmocka_unit_test(a_direct_batch_answers_each_request_as_if_it_were_alone),
        cmocka_unit_test(a_direct_handle_can_search_another_index),
        cmocka_unit_test(neither_batch_nor_load_changes_a_bit),
        cmocka_unit_test(a_full_queue_refuses_at_once_and_loses_nothing),
        cmocka_unit_test(who_would_wait_too_long_is_refused_at_once),
        cmocka_unit_test(a_certain_refusal_does_not_read_the_body),
        cmocka_unit_test(a_full_queue_reads_no_body_at_all),
        cmocka_unit_test(those_who_wait_for_redis_are_ahead_of_whoever_asks_too),
        cmocka_unit_test(a_draining_service_takes_nothing_and_finishes_what_it_has),
        cmocka_unit_test(a_deadline_that_passed_in_the_queue_is_a_504),
        cmocka_unit_test(a_body_over_the_limit_is_not_taken),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
