/* Evaluation: behaviour files, protocols, figures against hand-made cases and twins, whole runs. */
#include "bundle_fixture.h"

#include "recalld/eval.h"
#include "recalld/vec.h"

#include <math.h>

#define CLOSE 1e-6

static void assert_close(double got, double wanted, double tolerance)
{
    if (!(fabs(got - wanted) <= tolerance))
        fail_msg("%.17g instead of %.17g", got, wanted);
}

/* ---- behaviour files ------------------------------------------------------------------- */

static struct eval_data *read_text(const char *text)
{
    struct err err = ERR_INIT;
    struct eval_data *d = eval_data_read("users.txt", text, strlen(text), &err);

    if (d == NULL)
        fail_msg("%s", err.text);
    return d;
}

/* "u1:a,b;u2:c;" */
static void assert_users(const char *text, const char *form, const char *expected)
{
    struct eval_data *d = read_text(text);
    struct buf got = BUF_INIT;

    for (size_t i = 0; i < eval_data_users(d); i++) {
        struct eval_user u = eval_data_user(d, i);

        buf_printf(&got, "%.*s:", (int)u.id.len, u.id.p);
        for (size_t j = 0; j < u.n; j++)
            buf_printf(&got, "%s%.*s", j > 0 ? "," : "", (int)u.items[j].len, u.items[j].p);
        buf_putc(&got, ';');
    }
    assert_string_equal(buf_cstr(&got), expected);
    assert_string_equal(eval_data_form(d), form);
    buf_clear(&got);
    eval_data_free(d);
}

static void sequences_are_read_with_blanks_or_a_tab(void **state)
{
    (void)state;
    assert_users("u1 a b c\nu2 d\n", "user item item ...", "u1:a,b,c;u2:d;");
    assert_users("u1\ta b c\nu2\td", "user item item ...", "u1:a,b,c;u2:d;");
    assert_users("u 1\ta b\tc\n", "user item item ...", "u 1:a b,c;");
    assert_users("\n \nu1 a,b,3 c\r\n\nu1 d\n", "user item item ...", "u1:a,b,3,c;u1:d;");
}

static void triples_are_read_in_any_order(void **state)
{
    (void)state;
    assert_users("7,a,0\n7,b,1\n9,c,0\n", "user,item,position", "7:a,b;9:c;");
    assert_users("9,c,5\n7,b,1\n\n9,d,-2\n7,a,0\n", "user,item,position", "9:d,c;7:a,b;");
    assert_users("u,x,3\nu,a,3\nu,b,3\r\nu,z,1", "user,item,position", "u:z,x,a,b;");
}

static void users_come_in_the_order_of_their_first_lines_however_many(void **state)
{
    struct buf text = BUF_INIT;
    struct eval_data *d;

    (void)state;
    for (int turn = 0; turn < 2; turn++)
        for (int i = 0; i < 5000; i++)
            buf_printf(&text, "u%d,%s%d,%d\n", 7 * i, turn == 0 ? "late" : "early", i, -turn);
    d = read_text(buf_cstr(&text));
    assert_int_equal(eval_data_users(d), 5000);
    for (size_t i = 0; i < 5000; i++) {
        struct eval_user u = eval_data_user(d, i);
        char id[32], early[32];

        snprintf(id, sizeof id, "u%zu", 7 * i);
        snprintf(early, sizeof early, "early%zu", i);
        assert_int_equal(u.n, 2);
        assert_int_equal(u.id.len, strlen(id));
        assert_memory_equal(u.id.p, id, u.id.len);
        assert_int_equal(u.items[0].len, strlen(early));
        assert_memory_equal(u.items[0].p, early, u.items[0].len);
    }
    eval_data_free(d);
    buf_clear(&text);
}

static void assert_refused(const char *text, const char *message)
{
    struct err err = ERR_INIT;

    assert_null(eval_data_read("users.txt", text, strlen(text), &err));
    assert_string_equal(err.text, message);
    assert_int_equal(err.code, ERR_FORMAT);
}

static void bad_lines_are_named(void **state)
{
    char long_id[300];

    (void)state;
    memset(long_id, 'x', sizeof long_id);
    memcpy(long_id, "u ", 2);
    long_id[sizeof long_id - 1] = '\0';
    assert_refused("", "users.txt: has no users");
    assert_refused("\n \t\n", "users.txt: has no users");
    assert_refused("u a\n\tb c\n", "users.txt: line 2: begins with a separator, not with a user");
    assert_refused("u a\n\nu2\n", "users.txt: line 3: a user without items");
    assert_refused(long_id, "users.txt: line 1: item: an id is 1 to 256 bytes of UTF-8");
    assert_refused("\xff a", "users.txt: line 1: user: an id is 1 to 256 bytes of UTF-8");
    assert_refused("u,a,1\nu,b\n", "users.txt: line 2: must be user,item,position");
    assert_refused("u,a,1\nu b c\n", "users.txt: line 2: must be user,item,position");
    assert_refused("u,a,1\nu,b,2,3\n", "users.txt: line 2: must be user,item,position");
    assert_refused("user,item,time\n", "users.txt: line 1: position: must be a whole number");
    assert_refused("u,a,99999999999999999999\n",
                   "users.txt: line 1: position: must be a whole number");
    assert_refused("u,a,1.5\n", "users.txt: line 1: position: must be a whole number");
    assert_refused("u,,1\n", "users.txt: line 1: item: an id is 1 to 256 bytes of UTF-8");
    assert_refused(",a,1\n", "users.txt: line 1: user: an id is 1 to 256 bytes of UTF-8");
}

static void a_file_is_read_as_its_bytes_are(void **state)
{
    struct err err = ERR_INIT;
    struct eval_data *d;

    (void)state;
    write_text(at("users"), "7,a,0\n7,b,1\n");
    d = eval_data_open(at("users"), &err);
    assert_non_null(d);
    assert_int_equal(eval_data_user(d, 0).n, 2);
    eval_data_free(d);
    assert_null(eval_data_open(at("nowhere"), &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    eval_data_free(NULL);
}

static void memory_that_is_out_is_an_error(void **state)
{
    static const char *const texts[] = {"u a b\n", "u,a,1\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        for (unsigned n = 1; n <= 3 + i; n++) {
            struct err err = ERR_INIT;

            mem_test_fail_at(n);
            assert_null(eval_data_read("users.txt", texts[i], strlen(texts[i]), &err));
            mem_test_fail_at(0);
            assert_int_equal(err.code, ERR_NOMEM);
        }
}

/* ---- protocols ------------------------------------------------------------------------- */

static bool cut(const char *protocol, size_t n, uint64_t draw, struct eval_cut *out)
{
    const struct eval_user u = {.id = {"u1", 2}, .n = n};

    return eval_protocol_find(protocol)->cut(&u, draw, out);
}

static void comirec_cuts_at_four_fifths_as_python_does(void **state)
{
    /* [int(0.8 * n) for n in range(26)] */
    static const size_t history[] = {0,  0,  1,  2,  3,  4,  4,  5,  6,  7,  8,  8,  9,
                                     10, 11, 12, 12, 13, 14, 15, 16, 16, 17, 18, 19, 20};
    struct eval_cut c;

    (void)state;
    for (size_t n = 0; n < ARRAY_LEN(history); n++) {
        assert_int_equal(cut("comirec", n, 0, &c), n >= 2);
        if (n < 2)
            continue;
        assert_int_equal(c.history, history[n]);
        assert_int_equal(c.end, n);
        assert_true(cut("seed", n, 0, &c));
        assert_int_equal(c.history, history[n]);
    }
}

static void leave_one_out_looks_for_the_last_item(void **state)
{
    struct eval_cut c;

    (void)state;
    assert_false(cut("leave-one-out", 1, 0, &c));
    assert_true(cut("leave-one-out", 2, 0, &c));
    assert_int_equal(c.history, 1);
    assert_int_equal(c.end, 2);
    assert_true(cut("leave-one-out", 9, 0, &c));
    assert_int_equal(c.history, 8);
    assert_int_equal(c.end, 9);
}

static void mind_draws_one_target_and_keeps_to_it(void **state)
{
    bool drawn[10] = {false};
    struct eval_cut c, again;

    (void)state;
    assert_false(cut("mind", 1, 0, &c));
    for (uint64_t draw = 0; draw < 200; draw++) {
        assert_true(cut("mind", 10, draw, &c));
        assert_in_range(c.history, 1, 9);
        assert_int_equal(c.end, c.history + 1);
        drawn[c.history] = true;
        assert_true(cut("mind", 10, draw, &again));
        assert_int_equal(again.history, c.history);
    }
    for (size_t i = 1; i < 10; i++)
        assert_true(drawn[i]);
    assert_int_equal(eval_protocol_find("mind")->every, 20);
    assert_null(eval_protocol_find("MIND"));
}

/* ---- figures of one answer --------------------------------------------------------------- */

#define ROWS_OF(...) ((const uint32_t[]){__VA_ARGS__}), ARRAY_LEN(((const uint32_t[]){__VA_ARGS__}))

static void figures_of_a_hand_computed_answer(void **state)
{
    /* Gains: 1, 0.6309298, 0.5. Hits at ranks 0 and 2. */
    struct eval_score s = eval_score(ROWS_OF(5, 3, 9), ROWS_OF(7, 9, 5), 3, EVAL_NDCG_MASTER);

    (void)state;
    assert_int_equal(s.hits, 2);
    assert_close(s.recall, 2.0 / 3, CLOSE);
    assert_close(s.ndcg, 1.5 / 1.6309298, CLOSE);
    s = eval_score(ROWS_OF(5, 3, 9), ROWS_OF(7, 9, 5), 3, EVAL_NDCG_STANDARD);
    assert_close(s.ndcg, 1.5 / 2.1309298, CLOSE);
    /* The found targets' places among the targets are 1 and 2. */
    s = eval_score(ROWS_OF(5, 3, 9), ROWS_OF(7, 9, 5), 3, EVAL_NDCG_PAPER);
    assert_close(s.ndcg, 1.1309298 / 1.6309298, CLOSE);
}

static void the_order_of_the_answer_does_not_change_the_paper_ndcg(void **state)
{
    struct eval_score one = eval_score(ROWS_OF(5, 3, 9), ROWS_OF(7, 9, 5), 3, EVAL_NDCG_PAPER);
    struct eval_score other = eval_score(ROWS_OF(3, 9, 5), ROWS_OF(7, 9, 5), 3, EVAL_NDCG_PAPER);

    (void)state;
    assert_close(one.ndcg, other.ndcg, 0);
    one = eval_score(ROWS_OF(5, 3, 9), ROWS_OF(7, 9, 5), 3, EVAL_NDCG_MASTER);
    other = eval_score(ROWS_OF(3, 9, 5), ROWS_OF(7, 9, 5), 3, EVAL_NDCG_MASTER);
    assert_true(other.ndcg < one.ndcg);
}

static void a_repeated_target_lowers_recall_and_counts_once_in_the_ideal(void **state)
{
    struct eval_score s = eval_score(ROWS_OF(5, 1), ROWS_OF(5, 5, 7), 2, EVAL_NDCG_MASTER);

    (void)state;
    assert_int_equal(s.hits, 1);
    assert_close(s.recall, 1.0 / 3, CLOSE);
    assert_close(s.ndcg, 1, CLOSE);
    /* Two different targets, two places. */
    s = eval_score(ROWS_OF(5, 1), ROWS_OF(5, 5, 7), 2, EVAL_NDCG_STANDARD);
    assert_close(s.ndcg, 1 / 1.6309298, CLOSE);
    /* Found at places 0 and 1 of the targets. */
    s = eval_score(ROWS_OF(5, 1), ROWS_OF(5, 5, 7), 2, EVAL_NDCG_PAPER);
    assert_close(s.ndcg, 1, CLOSE);
}

static void no_hit_gives_zeros(void **state)
{
    (void)state;
    for (int kind = 0; kind < EVAL_NDCG_COUNT; kind++) {
        struct eval_score s =
            eval_score(ROWS_OF(1, 2), ROWS_OF(3, UINT32_MAX), 2, (enum eval_ndcg)kind);

        assert_int_equal(s.hits, 0);
        assert_close(s.recall, 0, 0);
        assert_close(s.ndcg, 0, 0);
        s = eval_score(NULL, 0, ROWS_OF(3), 2, (enum eval_ndcg)kind);
        assert_int_equal(s.hits, 0);
        assert_close(s.ndcg, 0, 0);
    }
}

static void an_answer_shorter_than_n_is_measured_against_n(void **state)
{
    struct eval_score s = eval_score(ROWS_OF(5), ROWS_OF(5, 6, 7), 50, EVAL_NDCG_STANDARD);

    (void)state;
    assert_close(s.recall, 1.0 / 3, CLOSE);
    assert_close(s.ndcg, 1 / 2.1309298, CLOSE);
    s = eval_score(ROWS_OF(5), ROWS_OF(5, 6, 7), 2, EVAL_NDCG_STANDARD);
    assert_close(s.ndcg, 1 / 1.6309298, CLOSE);
}

/* The twin: marks what is relevant, place by place, and compares with the same marks sorted. */

#define UNIVERSE 12

static double gains(const bool *relevant, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += relevant[i] ? log(2) / log((double)i + 2) : 0;
    return sum;
}

static double over_sorted(const bool *relevant, size_t n, size_t wanted)
{
    bool sorted[64] = {false};
    size_t ones = 0;

    for (size_t i = 0; i < n; i++)
        ones += relevant[i];
    memset(sorted, 1, wanted == SIZE_MAX ? ones : wanted);
    return gains(relevant, n) / gains(sorted, ARRAY_LEN(sorted));
}

static struct eval_score score_twin(const uint32_t *answer, size_t n_answer,
                                    const uint32_t *targets, size_t n_targets, size_t n,
                                    enum eval_ndcg kind)
{
    bool in_answer[UNIVERSE] = {false}, in_targets[UNIVERSE] = {false}, marks[64] = {false};
    struct eval_score s = {0, 0, 0};
    size_t different = 0;

    for (size_t i = 0; i < n_answer; i++)
        in_answer[answer[i]] = true;
    for (size_t i = 0; i < n_targets; i++)
        in_targets[targets[i]] = true;
    for (size_t row = 0; row < UNIVERSE; row++) {
        s.hits += in_answer[row] && in_targets[row];
        different += in_targets[row];
    }
    if (s.hits == 0)
        return s;
    s.recall = (double)s.hits / (double)n_targets;
    if (kind == EVAL_NDCG_PAPER) {
        for (size_t i = 0; i < n_targets; i++)
            marks[i] = in_answer[targets[i]];
        s.ndcg = over_sorted(marks, n_targets, SIZE_MAX);
        return s;
    }
    for (size_t i = 0; i < n_answer; i++)
        marks[i] = in_targets[answer[i]];
    s.ndcg = over_sorted(marks, n_answer,
                         kind == EVAL_NDCG_MASTER ? SIZE_MAX
                         : different < n          ? different
                                                  : n);
    return s;
}

static size_t below(size_t n)
{
    return (size_t)((double)(any() + 1) / 2 * (double)n) % n;
}

static void figures_equal_their_twin_on_random_lists(void **state)
{
    (void)state;
    seed = 11;
    for (int round = 0; round < 20000; round++) {
        size_t n = 1 + below(UNIVERSE), n_answer = below(n + 1), n_targets = 1 + below(15);
        enum eval_ndcg kind = (enum eval_ndcg)below(EVAL_NDCG_COUNT);
        uint32_t answer[UNIVERSE], targets[16];
        struct eval_score got, wanted;

        for (uint32_t i = 0; i < UNIVERSE; i++)
            answer[i] = i;
        for (size_t i = 0; i < n_answer; i++) {
            size_t other = i + below(UNIVERSE - i);
            uint32_t row = answer[i];

            answer[i] = answer[other];
            answer[other] = row;
        }
        for (size_t i = 0; i < n_targets; i++)
            targets[i] = (uint32_t)below(UNIVERSE);
        got = eval_score(answer, n_answer, targets, n_targets, n, kind);
        wanted = score_twin(answer, n_answer, targets, n_targets, n, kind);
        assert_int_equal(got.hits, wanted.hits);
        assert_close(got.recall, wanted.recall, 1e-12);
        assert_close(got.ndcg, wanted.ndcg, 1e-12);
        assert_true(got.ndcg <= 1 + 1e-12);
    }
}

static void diversity_counts_pairs_without_a_common_value(void **state)
{
    static const char text[] = "row\tid\tkind\n1\ta\tred\n2\tb\tred\n3\tc\tblue\n4\td\t\n5\te\t\n"
                               "6\tf\tred|blue\n";
    struct err err = ERR_INIT;
    struct items *it = items_load("items.tsv", text, strlen(text), 7, &err);

    (void)state;
    assert_non_null(it);
    assert_close(eval_diversity(it, 0, ROWS_OF(1, 2)), 0, 0);
    assert_close(eval_diversity(it, 0, ROWS_OF(1, 3)), 1, 0);
    assert_close(eval_diversity(it, 0, ROWS_OF(1, 2, 3)), 2.0 / 3, CLOSE);
    assert_close(eval_diversity(it, 0, ROWS_OF(4, 5)), 1, 0); /* nothing in common */
    assert_close(eval_diversity(it, 0, ROWS_OF(1, 2, 3, 6)), 2.0 / 6, CLOSE);
    assert_close(eval_diversity(it, 0, ROWS_OF(1)), 0, 0);
    assert_close(eval_diversity(it, 0, NULL, 0), 0, 0);
    items_free(it);
}

/* ---- runs -------------------------------------------------------------------------------- */

static struct config *config;

static struct eval_ask plain_ask(const char *protocol)
{
    const struct eval_protocol *p = eval_protocol_find(protocol);

    return (struct eval_ask){.protocol = p, .every = p->every, .n = 10, .threads = 1, .batch = 8};
}

static int run_bundle(const char *dir, const struct eval_ask *ask, const struct eval_data *d,
                      struct eval_result *out, struct err *err)
{
    struct registry *reg = registry_new("", 0);
    int result;

    if (registry_configure(reg, &dir, 1, "", err) == -1)
        fail_msg("%s", err->text);
    result = eval_run(ask, config, reg, d, NULL, NULL, out, err);
    registry_free(reg);
    return result;
}

static struct eval_result must_run(const char *dir, const struct eval_ask *ask,
                                   const struct eval_data *d)
{
    struct err err = ERR_INIT;
    struct eval_result r;

    if (run_bundle(dir, ask, d, &r, &err) == -1)
        fail_msg("%s", err.text);
    return r;
}

static void assert_same(const struct eval_result *a, const struct eval_result *b)
{
    assert_int_equal(a->users, b->users);
    assert_int_equal(a->too_short, b->too_short);
    assert_int_equal(a->hits, b->hits);
    assert_int_equal(a->short_answers, b->short_answers);
    assert_int_equal(a->history, b->history);
    assert_int_equal(a->history_unknown, b->history_unknown);
    assert_int_equal(a->targets, b->targets);
    assert_int_equal(a->targets_unknown, b->targets_unknown);
    assert_memory_equal(&a->recall, &b->recall, sizeof a->recall);
    assert_memory_equal(&a->hit_rate, &b->hit_rate, sizeof a->hit_rate);
    assert_memory_equal(&a->ndcg, &b->ndcg, sizeof a->ndcg);
    assert_memory_equal(&a->diversity, &b->diversity, sizeof a->diversity);
}

/* Users of 2 to 13 items, some of them unknown to the bundle, each user's own chain of rows. */
static struct eval_data *some_users(size_t users)
{
    static struct buf text = BUF_INIT; /* lives as long as the data */

    seed = 29;
    text.len = 0;
    for (size_t i = 0; i < users; i++) {
        buf_printf(&text, "user%zu", i);
        for (size_t n = 2 + below(12), j = 0; j < n; j++)
            if (below(9) == 0)
                buf_puts(&text, " unheard-of");
            else
                buf_printf(&text, " item%zu", 1 + below(60));
        buf_putc(&text, '\n');
    }
    return read_text(buf_cstr(&text));
}

/* The best rows by the best of the interests, row by row. */
static size_t brute_answer(const struct bundle *b, const struct eval_user *u, size_t history,
                           size_t n, uint32_t *answer)
{
    const struct vectors *v = bundle_vectors(b);
    struct model_scratch *scratch = model_scratch_new();
    float interests[K * DIM], best[ROWS];
    uint32_t rows[64];
    struct model_input in = {.rows = rows, .dynamic = -1, .interests = interests};
    size_t n_answer = 0;

    for (size_t i = 0; i < history; i++) {
        rows[in.n_rows] = items_row(bundle_items(b), u->items[i].p, u->items[i].len);
        in.n_rows += rows[in.n_rows] != ITEMS_NONE;
    }
    model_interests(bundle_model(b), scratch, &in, 1);
    model_scratch_free(scratch);
    for (uint32_t row = 0; row < ROWS; row++) {
        best[row] = -INFINITY;
        for (int k = 0; row > 0 && k < K; k++) {
            float score = vec_dot(interests + k * DIM, v->data + row * DIM, DIM);

            best[row] = score > best[row] ? score : best[row];
        }
    }
    while (in.n_rows > 0 && n_answer < n) {
        uint32_t top = 0;

        for (uint32_t row = 1; row < ROWS; row++)
            top = best[row] > best[top] ? row : top;
        answer[n_answer++] = top;
        best[top] = -INFINITY;
    }
    return n_answer;
}

static void a_run_gives_what_its_brute_force_twin_gives(void **state)
{
    struct bundle *b = must_open(at("exact"));
    struct eval_data *d = some_users(150);
    struct eval_ask ask = plain_ask("comirec");
    struct eval_result got = must_run(at("exact"), &ask, d);
    double recall = 0, ndcg = 0, hits = 0;
    size_t users = 0;

    (void)state;
    for (size_t i = 0; i < eval_data_users(d); i++) {
        struct eval_user u = eval_data_user(d, i);
        size_t history = u.n * 8 / 10, n_targets = u.n - history;
        uint32_t answer[10], targets[64];
        size_t n = brute_answer(b, &u, history, 10, answer);
        struct eval_score s;

        for (size_t j = 0; j < n_targets; j++)
            targets[j] =
                items_row(bundle_items(b), u.items[history + j].p, u.items[history + j].len);
        s = eval_score(answer, n, targets, n_targets, 10, EVAL_NDCG_MASTER);
        recall += s.recall;
        ndcg += s.ndcg;
        hits += s.hits > 0;
        users++;
    }
    assert_int_equal(got.users, users);
    assert_true(got.hits > 20 && got.hits < 140);
    assert_close(got.recall, recall / (double)users, 1e-12);
    assert_close(got.ndcg, ndcg / (double)users, 1e-12);
    assert_close(got.hit_rate, hits / (double)users, 1e-12);
    assert_true(got.history_unknown > 0 && got.targets_unknown > 0);
    eval_data_free(d);
    bundle_release(b);
}

static void neither_threads_nor_batches_change_a_bit(void **state)
{
    struct eval_data *d = some_users(331);
    struct eval_ask ask = plain_ask("comirec");
    struct eval_result one, other;

    (void)state;
    ask.diversity = true;
    one = must_run(at("exact"), &ask, d);
    ask.threads = 3;
    other = must_run(at("exact"), &ask, d);
    assert_same(&one, &other);
    ask.threads = 64; /* more than there are batches */
    other = must_run(at("exact"), &ask, d);
    assert_same(&one, &other);
    ask.threads = 2;
    ask.batch = 1;
    other = must_run(at("exact"), &ask, d);
    assert_int_equal(other.hits, one.hits);
    assert_close(other.recall, one.recall, 1e-12);
    assert_close(other.ndcg, one.ndcg, 1e-12);
    assert_close(other.diversity, one.diversity, 1e-12);
    eval_data_free(d);
}

static void an_unknown_target_is_a_miss_and_a_repeated_one_is_one_item(void **state)
{
    struct eval_data *d =
        read_text("u item1 item2 item3 item4 item5 item6 item7 item8 gone gone\n");
    struct eval_ask ask = plain_ask("comirec");
    struct eval_result r;

    (void)state;
    ask.n = 60; /* all there are: every known target is hit */
    r = must_run(at("exact"), &ask, d);
    assert_int_equal(r.users, 1);
    assert_int_equal(r.hits, 0);
    assert_int_equal(r.targets_unknown, 2);
    eval_data_free(d);

    /* ... item12, gone, gone: three targets, two of them different, one found at rank r. */
    d = read_text("u item1 item2 item3 item4 item5 item6 item7 item8 item9 item10 item11 item13 "
                  "item12 gone gone\n");
    ask.ndcg = EVAL_NDCG_STANDARD;
    r = must_run(at("exact"), &ask, d);
    assert_int_equal(r.hits, 1);
    assert_close(r.recall, 1.0 / 3, CLOSE);
    ask.ndcg = EVAL_NDCG_MASTER;
    assert_close(r.ndcg * 1.6309298, must_run(at("exact"), &ask, d).ndcg, CLOSE);
    eval_data_free(d);
}

static void exact_search_stands_in_for_a_poor_index(void **state)
{
    struct bundle_build poor = plain_build("poor");
    struct eval_data *d = some_users(300);
    struct eval_ask ask = plain_ask("comirec");
    struct eval_result true_one, poor_one, stand_in;

    (void)state;
    ask.n =
        2; /* fewer than a list of the index holds: where more is missing, every row is searched */
    poor.factory = "IVF8,Flat";
    poor.effort = 1;
    poor.recall_floor = 0;
    poor.shards = 1;
    must_build(&poor);
    true_one = must_run(at("exact"), &ask, d);
    poor_one = must_run(at("poor"), &ask, d);
    ask.exact = true;
    stand_in = must_run(at("poor"), &ask, d);
    assert_same(&true_one, &stand_in);
    assert_true(poor_one.ndcg != true_one.ndcg);
    eval_data_free(d);
}

static void every_nth_user_is_tested(void **state)
{
    struct eval_data *d = some_users(45);
    struct buf text = BUF_INIT;
    struct eval_data *few;
    struct eval_ask ask = plain_ask("leave-one-out");
    struct eval_result by_every, by_hand;

    (void)state;
    for (size_t i = 19; i < 45; i += 20) {
        struct eval_user u = eval_data_user(d, i);

        buf_printf(&text, "user%zu", i);
        for (size_t j = 0; j < u.n; j++)
            buf_printf(&text, " %.*s", (int)u.items[j].len, u.items[j].p);
        buf_putc(&text, '\n');
    }
    few = read_text(buf_cstr(&text));
    by_hand = must_run(at("exact"), &ask, few);
    ask.every = 20;
    by_every = must_run(at("exact"), &ask, d);
    assert_int_equal(by_every.users, 2);
    assert_same(&by_every, &by_hand);
    eval_data_free(few);
    eval_data_free(d);
    buf_clear(&text);
}

static void settings_of_the_merge_are_heard(void **state)
{
    struct eval_data *d = some_users(200);
    struct eval_ask ask = plain_ask("comirec");
    struct eval_result plain, diverse;

    (void)state;
    ask.diversity = true;
    plain = must_run(at("exact"), &ask, d);
    config->recall.merge = MERGE_DIVERSE;
    config->recall.lambda = 10;
    diverse = must_run(at("exact"), &ask, d);
    eval_reference(&config->recall);
    assert_true(diverse.diversity > plain.diversity);
    assert_true(plain.diversity > 0);
    eval_data_free(d);
}

static void assert_run_refused(const char *dir, const struct eval_ask *ask, const char *users,
                               const char *message)
{
    struct eval_data *d = read_text(users);
    struct eval_result r;
    struct err err = ERR_INIT;

    assert_int_equal(run_bundle(dir, ask, d, &r, &err), -1);
    assert_string_equal(err.text, message);
    assert_int_equal(err.code, ERR_USAGE);
    eval_data_free(d);
}

static void the_seed_protocol_asks_for_normalised_interests(void **state)
{
    struct bundle_build b = plain_build("normalised");
    const char *const keys[] = {"normalize_user", "true", NULL};
    struct eval_data *d = some_users(100);
    struct eval_ask ask = plain_ask("seed");
    struct eval_result by_seed, by_comirec;

    (void)state;
    assert_run_refused(at("exact"), &ask, "u item1 item2\n",
                       "protocol seed asks for interests of length 1, and bundle toy@1 does not "
                       "normalise them: build it with --model.normalize_user=true");
    b.model_keys = keys;
    must_build(&b);
    by_seed = must_run(at("normalised"), &ask, d);
    ask.protocol = eval_protocol_find("comirec");
    by_comirec = must_run(at("normalised"), &ask, d);
    assert_same(&by_seed, &by_comirec);
    eval_data_free(d);
}

static void what_cannot_be_evaluated_is_refused(void **state)
{
    struct eval_ask ask = plain_ask("comirec");

    (void)state;
    assert_run_refused(at("exact"), &ask, "u item1\nu2 item2\n",
                       "protocol comirec tests no user: one of 1 is due, and 2 of those are too "
                       "short");
    assert_run_refused(at("exact"), &ask, "u 1 2 3\n",
                       "bundle toy@1 has none of the items that users are asked with");
    ask.every = 2;
    assert_run_refused(at("exact"), &ask, "u item1 item2\n",
                       "protocol comirec tests no user: one of 2 is due, and 0 of those are too "
                       "short");
    ask.every = 1;
    ask.diversity = true;
    strcpy(config->recall.diversity_attribute, "colour");
    assert_run_refused(at("exact"), &ask, "u item1 item2\n",
                       "bundle toy@1 has no attribute colour to tell diversity by");
    memset(config->recall.diversity_attribute, 0, SETTINGS_NAME_MAX);
    ask.diversity = false;
    ask.n = 5000; /* more than a request may ask for */
    assert_run_refused(at("exact"), &ask, "u item1 item2\n",
                       "user u: n: must be an integer from 1 to 1000");
}

static int setup(void **state)
{
    struct err err = ERR_INIT;

    if (folder_setup(state) == -1)
        return -1;
    build_version("exact", "1");
    config = config_parse("none", "", 0, NULL, NULL, 0, &err);
    if (config == NULL)
        return -1;
    eval_reference(&config->recall);
    return 0;
}

static int teardown(void **state)
{
    config_free(config);
    return folder_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_are_read_with_blanks_or_a_tab),
        cmocka_unit_test(triples_are_read_in_any_order),
        cmocka_unit_test(users_come_in_the_order_of_their_first_lines_however_many),
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(a_file_is_read_as_its_bytes_are),
        cmocka_unit_test(memory_that_is_out_is_an_error),
        cmocka_unit_test(comirec_cuts_at_four_fifths_as_python_does),
        cmocka_unit_test(leave_one_out_looks_for_the_last_item),
        cmocka_unit_test(mind_draws_one_target_and_keeps_to_it),
        cmocka_unit_test(figures_of_a_hand_computed_answer),
        cmocka_unit_test(the_order_of_the_answer_does_not_change_the_paper_ndcg),
        cmocka_unit_test(a_repeated_target_lowers_recall_and_counts_once_in_the_ideal),
        cmocka_unit_test(no_hit_gives_zeros),
        cmocka_unit_test(an_answer_shorter_than_n_is_measured_against_n),
        cmocka_unit_test(figures_equal_their_twin_on_random_lists),
        cmocka_unit_test(diversity_counts_pairs_without_a_common_value),
        cmocka_unit_test(a_run_gives_what_its_brute_force_twin_gives),
        cmocka_unit_test(neither_threads_nor_batches_change_a_bit),
        cmocka_unit_test(an_unknown_target_is_a_miss_and_a_repeated_one_is_one_item),
        cmocka_unit_test(exact_search_stands_in_for_a_poor_index),
        cmocka_unit_test(every_nth_user_is_tested),
        cmocka_unit_test(settings_of_the_merge_are_heard),
        cmocka_unit_test(the_seed_protocol_asks_for_normalised_interests),
        cmocka_unit_test(what_cannot_be_evaluated_is_refused),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
