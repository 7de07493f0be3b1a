/* test_base.c - errors, log lines, memory, arenas, hashes, identifiers. */
#include "recalld/base.h"

#include <sched.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- errors -------------------------------------------------------------------- */

static void the_first_cause_of_an_error_is_kept(void **state)
{
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(err_set(&err, ERR_FORMAT, "%s: offset %d", "a.bin", 8), -1);
    assert_int_equal(err_set(&err, ERR_IO, "later"), -1);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.text, "a.bin: offset 8");
}

static void a_prefix_goes_ahead_of_the_text_and_keeps_the_code(void **state)
{
    struct err err = ERR_INIT;

    (void)state;
    err_set(&err, ERR_LIMIT, "too long");
    assert_int_equal(err_prefix(&err, "bundle %s: ", "x"), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    assert_string_equal(err.text, "bundle x: too long");
}

static void a_cleared_error_takes_a_new_cause(void **state)
{
    struct err err = ERR_INIT;

    (void)state;
    err_set(&err, ERR_IO, "first");
    err_clear(&err);
    assert_int_equal(err.code, ERR_NONE);
    assert_string_equal(err.text, "");
    err_set(&err, ERR_NOMEM, "second");
    assert_string_equal(err.text, "second");
}

/* 510 bytes, then a character of three bytes that fits only by halves. */
static void a_text_that_is_too_long_is_cut_between_characters(void **state)
{
    struct err err = ERR_INIT, prefixed = ERR_INIT;
    char text[600];

    (void)state;
    memset(text, 'a', 510);
    strcpy(text + 510, "\xe2\x82\xac and more");
    err_set(&err, ERR_FORMAT, "%s", text);
    assert_int_equal(strlen(err.text), 510);
    assert_true(utf8_valid(err.text, strlen(err.text)));

    text[500] = '\0';
    strcat(text, "\xe2\x82\xac");
    err_set(&prefixed, ERR_FORMAT, "%s", text);
    assert_int_equal(strlen(prefixed.text), 503);
    err_prefix(&prefixed, "0123456789");
    assert_int_equal(strlen(prefixed.text), 510);
    assert_memory_equal(prefixed.text, "0123456789aaa", 13);
    assert_true(utf8_valid(prefixed.text, strlen(prefixed.text)));
}

static void a_text_that_just_fits_is_not_cut(void **state)
{
    struct err err = ERR_INIT;
    char text[512];

    (void)state;
    memset(text, 'a', 508);
    strcpy(text + 508, "\xe2\x82\xac");
    err_set(&err, ERR_FORMAT, "%s", text);
    assert_string_equal(err.text, text);
}

static void what_a_text_quotes_is_made_utf8(void **state)
{
    struct err err = ERR_INIT;

    (void)state;
    err_set(&err, ERR_FORMAT, "%.3s near \xff\xe2\x82", "a\xc3\xa9\xc3\xa9");
    assert_string_equal(err.text, "a\xc3\xa9 near ???");
    err_prefix(&err, "%.2s: ", "b\xe2\x82\xac");
    assert_string_equal(err.text, "b?: a\xc3\xa9 near ???");
}

/* ---- log lines ----------------------------------------------------------------- */

/* Runs one log call with stderr going into `out`. */
static void captured(char *out, size_t size, enum log_level level, const char *event,
                     const char *text)
{
    int ends[2], saved = dup(STDERR_FILENO);
    ssize_t n;

    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    log_line(level, event, "%s", text);
    dup2(saved, STDERR_FILENO);
    close(saved);
    n = read(ends[0], out, size - 1);
    close(ends[0]);
    assert_true(n >= 0);
    out[n] = '\0';
}

static void a_log_line_is_time_level_event_and_text(void **state)
{
    char line[256];
    int year, month, day, hour, minute, second, ms, end = 0;

    (void)state;
    log_setup(LOG_LEVEL_INFO, false);
    captured(line, sizeof line, LOG_LEVEL_WARN, "shard_open", "path=a rows=3");
    assert_int_equal(sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &year, &month, &day, &hour,
                            &minute, &second, &ms, &end),
                     7);
    assert_true(year >= 2024 && month >= 1 && month <= 12 && ms < 1000);
    assert_string_equal(line + end, " warn  shard_open path=a rows=3\n");
}

static void lines_below_the_least_level_are_not_written(void **state)
{
    char line[256];

    (void)state;
    log_setup(LOG_LEVEL_WARN, false);
    captured(line, sizeof line, LOG_LEVEL_INFO, "event", "x=1");
    assert_string_equal(line, "");
    log_setup(LOG_LEVEL_DEBUG, false);
    captured(line, sizeof line, LOG_LEVEL_DEBUG, "event", "x=1");
    assert_non_null(strstr(line, " debug event x=1\n"));
}

static void a_json_log_line_is_one_object(void **state)
{
    char line[256];

    (void)state;
    log_setup(LOG_LEVEL_INFO, true);
    captured(line, sizeof line, LOG_LEVEL_ERROR, "event", "say=\"hi\"");
    assert_memory_equal(line, "{\"ts\":\"2", 8);
    assert_non_null(
        strstr(line, "Z\",\"level\":\"error\",\"event\":\"event\",\"text\":\"say=\\\"hi\\\"\"}\n"));
}

static void what_a_message_quotes_cannot_start_a_second_line(void **state)
{
    char line[256];

    (void)state;
    log_setup(LOG_LEVEL_INFO, false);
    captured(line, sizeof line, LOG_LEVEL_INFO, "event", "a\nb\tc\x80");
    assert_non_null(strstr(line, " event a b c?\n"));
    captured(line, sizeof line, LOG_LEVEL_INFO, "event",
             "gr\xc3\xbc\xc3\x9f"
             "e");
    assert_non_null(strstr(line, " event gr\xc3\xbc\xc3\x9f"
                                 "e\n"));
}

static void a_limiter_lets_one_line_a_second_pass_and_counts_the_rest(void **state)
{
    struct log_limit limit = {0};
    unsigned held = 99;

    (void)state;
    assert_true(log_allow(&limit, &held));
    assert_int_equal(held, 0);
    assert_false(log_allow(&limit, &held));
    assert_false(log_allow(&limit, &held));
    atomic_store(&limit.next_ns, clock_ns()); /* a second later */
    assert_true(log_allow(&limit, &held));
    assert_int_equal(held, 2);
}

/* ---- memory -------------------------------------------------------------------- */

static void a_product_that_overflows_is_refused(void **state)
{
    size_t out = 7;

    (void)state;
    assert_true(mem_product(6, 7, &out));
    assert_int_equal(out, 42);
    assert_false(mem_product(SIZE_MAX / 2, 3, &out));
    assert_null(mem_try_array(SIZE_MAX / 2, 3));
    assert_null(mem_try_aligned(SIZE_MAX / 2, 3));
    assert_null(mem_try_array(SIZE_MAX, 1));
    assert_null(mem_try_aligned(SIZE_MAX, 1));
}

static void nothing_is_something_that_can_be_freed(void **state)
{
    void *a = mem_try_array(0, 8), *b = mem_try_aligned(8, 0);

    (void)state;
    assert_non_null(a);
    assert_non_null(b);
    free(a);
    free(b);
    free(xmalloc(0));
    free(xcalloc(0, 4));
}

static void aligned_memory_starts_at_a_multiple_of_64(void **state)
{
    (void)state;
    for (size_t n = 1; n < 300; n += 7) {
        void *p = mem_try_aligned(n, 4);

        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 1, n * 4);
        free(p);
    }
}

static void the_nth_allocation_fails_when_a_test_asks_for_it(void **state)
{
    void *a, *b, *c, *d;

    (void)state;
    mem_test_fail_at(2);
    a = mem_try_array(1, 1);
    b = mem_try_aligned(1, 1);
    c = mem_try_array(1, 1);
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    mem_test_fail_at(1);
    mem_test_fail_at(0);
    d = mem_try_array(1, 1);
    assert_non_null(d);
    free(a);
    free(c);
    free(d);
}

/* ---- arena --------------------------------------------------------------------- */

static void pieces_of_an_arena_are_aligned_and_apart(void **state)
{
    struct arena arena = ARENA_INIT;
    unsigned char *pieces[200];

    (void)state;
    for (size_t i = 0; i < 200; i++) {
        pieces[i] = arena_alloc(&arena, i * 37);
        assert_int_equal((uintptr_t)pieces[i] % 64, 0);
        memset(pieces[i], (int)i, i * 37);
    }
    for (size_t i = 0; i < 200; i++)
        for (size_t j = 0; j < i * 37; j++)
            assert_int_equal(pieces[i][j], i);
    arena_clear(&arena);
    arena_clear(&arena);
}

/* One chunk after the first round, and the same one ever after. */
static void a_warm_arena_reuses_its_memory(void **state)
{
    struct arena arena = ARENA_INIT;
    struct arena_chunk *warm = NULL;
    unsigned char *first = NULL;

    (void)state;
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 100; i++) {
            unsigned char *p = arena_alloc(&arena, 5000);

            memset(p, round, 5000);
            if (i == 0 && round >= 1) {
                assert_true(round == 1 || p == first);
                first = p;
            }
        }
        if (round >= 1) {
            assert_ptr_equal(arena.first, arena.current);
            assert_true(round == 1 || arena.first == warm);
            warm = arena.first;
        }
        arena_reset(&arena);
    }
    arena_clear(&arena);
}

static void a_trimmed_arena_keeps_no_more_than_it_may(void **state)
{
    struct arena arena = ARENA_INIT;

    (void)state;
    arena_trim(&arena, 0);
    (void)arena_alloc(&arena, 100);
    arena_reset(&arena);
    arena_trim(&arena, 1 << 20);
    assert_non_null(arena.first);
    (void)arena_alloc(&arena, 2 << 20);
    arena_reset(&arena);
    arena_trim(&arena, 1 << 20);
    assert_null(arena.first);
    for (int i = 0; i < 20; i++) /* many chunks: they are not joined first */
        (void)arena_alloc(&arena, 100000);
    arena_trim(&arena, 1 << 20);
    assert_null(arena.first);
    assert_non_null(arena_alloc(&arena, 100));
    arena_clear(&arena);
}

static void an_empty_arena_can_be_reset(void **state)
{
    struct arena arena = ARENA_INIT;

    (void)state;
    arena_reset(&arena);
    assert_null(arena.first);
    assert_string_equal(arena_strndup(&arena, "abcdef", 3), "abc");
    assert_string_equal(arena_strndup(&arena, "ab", 30), "ab");
    arena_clear(&arena);
}

/* ---- hashes and identifiers ---------------------------------------------------- */

static void hashes_agree_with_their_published_values(void **state)
{
    char hex[SHA256_HEX];

    (void)state;
    assert_true(hash_bytes("", 0) == 0x2d06800538d394c2u); /* XXH3_64bits of nothing, seed 0 */
    sha256_hex("abc", 3, hex);                             /* FIPS 180-2, appendix B.1 */
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_hex(NULL, 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void an_identifier_is_a_uuid_of_version_7(void **state)
{
    enum { N = 5000 };
    static char ids[N][UUID_LEN + 1];
    int64_t before = clock_wall_ms(), after;

    (void)state;
    for (int i = 0; i < N; i++)
        uuid7(ids[i]);
    after = clock_wall_ms();
    for (int i = 0; i < N; i++) {
        char digits[13] = "";

        assert_int_equal(strlen(ids[i]), UUID_LEN);
        for (int j = 0; j < UUID_LEN; j++) {
            bool dash = j == 8 || j == 13 || j == 18 || j == 23;

            assert_true(dash ? ids[i][j] == '-' : strchr("0123456789abcdef", ids[i][j]) != NULL);
        }
        assert_int_equal(ids[i][14], '7');
        assert_non_null(strchr("89ab", ids[i][19]));
        memcpy(digits, ids[i], 8);
        memcpy(digits + 8, ids[i] + 9, 4);
        assert_in_range(strtoll(digits, NULL, 16), before, after);
    }
    qsort(ids, N, sizeof ids[0], compare_ids);
    for (int i = 1; i < N; i++)
        assert_string_not_equal(ids[i - 1], ids[i]);
}

static void *step_back(void *policy)
{
    thread_background();
    *(int *)policy = sched_getscheduler(0);
    return NULL;
}

static void a_background_thread_steps_back_alone(void **state)
{
    pthread_t thread;
    int before = sched_getscheduler(0), policy = -1;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, step_back, &policy), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(policy, SCHED_IDLE);
    assert_int_equal(sched_getscheduler(0), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_cause_of_an_error_is_kept),
        cmocka_unit_test(a_prefix_goes_ahead_of_the_text_and_keeps_the_code),
        cmocka_unit_test(a_cleared_error_takes_a_new_cause),
        cmocka_unit_test(a_text_that_is_too_long_is_cut_between_characters),
        cmocka_unit_test(a_text_that_just_fits_is_not_cut),
        cmocka_unit_test(what_a_text_quotes_is_made_utf8),
        cmocka_unit_test(a_log_line_is_time_level_event_and_text),
        cmocka_unit_test(lines_below_the_least_level_are_not_written),
        cmocka_unit_test(a_json_log_line_is_one_object),
        cmocka_unit_test(what_a_message_quotes_cannot_start_a_second_line),
        cmocka_unit_test(a_limiter_lets_one_line_a_second_pass_and_counts_the_rest),
        cmocka_unit_test(a_product_that_overflows_is_refused),
        cmocka_unit_test(nothing_is_something_that_can_be_freed),
        cmocka_unit_test(aligned_memory_starts_at_a_multiple_of_64),
        cmocka_unit_test(the_nth_allocation_fails_when_a_test_asks_for_it),
        cmocka_unit_test(pieces_of_an_arena_are_aligned_and_apart),
        cmocka_unit_test(a_warm_arena_reuses_its_memory),
        cmocka_unit_test(a_trimmed_arena_keeps_no_more_than_it_may),
        cmocka_unit_test(an_empty_arena_can_be_reset),
        cmocka_unit_test(hashes_agree_with_their_published_values),
        cmocka_unit_test(an_identifier_is_a_uuid_of_version_7),
        cmocka_unit_test(a_background_thread_steps_back_alone),
    };

    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
