/* test_redis.c - connections, pipelines and the breaker, against a real redis-server and against a
 * fake one that hangs, lies and hangs up. */
#include "redis_fixture.h"

#include <poll.h>

/* ---- helpers --------------------------------------------------------------------- */

#define BATCH_MAX 64

struct got {
    int calls;
    enum redis_outcome outcome;
    size_t n;
    char text[256]; /* the strings joined by commas, or the error */
    uint64_t at_ns;
};

/* A pipeline under construction; then what became of it. */
struct batch {
    struct redis_command cmds[BATCH_MAX];
    struct str argv[BATCH_MAX][6];
    struct got got[BATCH_MAX];
    size_t n;
    uint64_t start_ns;
};

static void collect(const struct redis_command *cmd, const struct redis_result *res)
{
    struct got *got = cmd->user;
    size_t at = 0;

    got->calls++;
    got->outcome = res->outcome;
    got->at_ns = clock_ns();
    got->n = res->n;
    if (res->error != NULL)
        snprintf(got->text, sizeof got->text, "%s", res->error);
    for (size_t i = 0; i < res->n && at < sizeof got->text; i++)
        at += (size_t)snprintf(got->text + at, sizeof got->text - at, "%s%.*s", i > 0 ? "," : "",
                               (int)res->strings[i].len, res->strings[i].p);
}

static void add(struct batch *b, uint64_t ms, const char *first, ...)
{
    struct redis_command *cmd = &b->cmds[b->n];
    va_list args;

    assert_true(b->n < BATCH_MAX);
    va_start(args, first);
    for (const char *word = first; word != NULL; word = va_arg(args, const char *))
        b->argv[b->n][cmd->argc++] = str_of(word);
    va_end(args);
    cmd->argv = b->argv[b->n];
    cmd->deadline_ns = in_ms(ms);
    cmd->user = &b->got[b->n];
    b->n++;
}

static void run(struct redis_conn *c, struct batch *b)
{
    b->start_ns = clock_ns();
    redis_run(c, b->cmds, b->n, collect);
    for (size_t i = 0; i < b->n; i++)
        assert_int_equal(b->got[i].calls, 1);
}

static uint64_t took_ms(const struct batch *b, size_t i)
{
    return (b->got[i].at_ns - b->start_ns) / MS;
}

static void expect(const struct batch *b, size_t i, enum redis_outcome outcome, const char *text)
{
    assert_int_equal(b->got[i].outcome, outcome);
    assert_string_equal(b->got[i].text, text);
}

/* One command that must be answered so. */
static void ask(struct redis_conn *c, const char *text, const char *a1, const char *a2,
                const char *a3)
{
    struct batch b = {.n = 0};

    add(&b, 2000, a1, a2, a3, (char *)NULL);
    run(c, &b);
    expect(&b, 0, REDIS_REPLIED, text);
}

static struct redis_conn *conn_with(struct redis_options o, struct breaker *b)
{
    struct err err = ERR_INIT;
    struct redis_conn *c;

    if (o.user == NULL)
        o.user = "";
    if (o.password == NULL)
        o.password = "";
    if (o.connect_ms == 0)
        o.connect_ms = 1000;
    if (o.timeout_ms == 0)
        o.timeout_ms = 1000;
    c = redis_conn_new(&o, b, &err);
    assert_string_equal(err.text, "");
    return c;
}

static struct redis_conn *conn_to(const char *address, struct breaker *b)
{
    return conn_with((struct redis_options){.address = address}, b);
}

static struct real_redis real;

static int start_real(void **state)
{
    (void)state;
    real_start(&real);
    return 0;
}

static int stop_real(void **state)
{
    (void)state;
    real_stop(&real);
    return 0;
}

static int start_fake(void **state)
{
    *state = xmalloc(sizeof(struct fake_redis));
    fake_start(*state);
    return 0;
}

static int stop_fake(void **state)
{
    fake_stop(*state);
    free(*state);
    return 0;
}

/* ---- breaker --------------------------------------------------------------------- */

static void breaker_opens_after_failures_in_a_row_and_success_closes_it(void **state)
{
    struct breaker *b = breaker_new(3);

    (void)state;
    breaker_failure(b);
    breaker_failure(b);
    breaker_success(b);
    breaker_failure(b);
    breaker_failure(b);
    assert_true(breaker_allows(b));
    breaker_failure(b);
    assert_false(breaker_allows(b));
    for (int i = 0; i < 100; i++)
        breaker_failure(b);
    assert_false(breaker_allows(b));
    breaker_success(b);
    assert_true(breaker_allows(b));
    breaker_free(b);
}

static void *fail_often(void *b)
{
    for (int i = 0; i < 1000; i++)
        breaker_failure(b);
    return NULL;
}

static void breaker_counts_the_failures_of_all_threads(void **state)
{
    struct breaker *b = breaker_new(4000), *over = breaker_new(4001);
    pthread_t t[8];

    (void)state;
    for (int i = 0; i < 8; i++)
        pthread_create(&t[i], NULL, fail_often, i < 4 ? b : over);
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
    assert_false(breaker_allows(b));
    assert_true(breaker_allows(over));
    breaker_free(b);
    breaker_free(over);
}

static void no_breaker_always_allows(void **state)
{
    (void)state;
    breaker_failure(NULL);
    breaker_success(NULL);
    assert_true(breaker_allows(NULL));
}

/* ---- addresses ------------------------------------------------------------------- */

static void bad_addresses_are_refused_with_the_reason(void **state)
{
    static const char long_path[] =
        "/a-path/that-is-longer/than-what/a-socket/address/has-room/for-which-is/a-hundred-and-"
        "seven/bytes-on-linux/and-no-more";
    static const struct {
        const char *address, *text;
    } cases[] = {
        {"", "redis.address is empty"},
        {"localhost:", "redis.address localhost:: the port must be 1 to 65535"},
        {"localhost:0", "redis.address localhost:0: the port must be 1 to 65535"},
        {"localhost:65536", "redis.address localhost:65536: the port must be 1 to 65535"},
        {"localhost:6379x", "redis.address localhost:6379x: the port must be 1 to 65535"},
        {":6379", "redis.address :6379: the host is missing"},
        {"[]:6379", "redis.address []:6379: the host is missing"},
        {"::1:6379", "redis.address ::1:6379: an IPv6 address needs brackets: [v6]:port"},
        {long_path, NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct redis_options o = {cases[i].address, "", "", 0, 100, 100};
        struct err err = ERR_INIT;

        assert_null(redis_conn_new(&o, NULL, &err));
        assert_int_equal(err.code, ERR_USAGE);
        if (cases[i].text != NULL)
            assert_string_equal(err.text, cases[i].text);
        else
            assert_non_null(strstr(err.text, "a socket's path has at most 107 bytes"));
    }
}

static void addresses_of_every_kind_are_taken(void **state)
{
    static const char *const good[] = {"/run/redis.sock", "redis.sock", "localhost:6379",
                                       "127.0.0.1:1", "[::1]:65535"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        redis_conn_free(conn_to(good[i], NULL));
    redis_conn_free(NULL);
}

static void unreachable_servers_are_named_with_the_cause(void **state)
{
    struct redis_conn *path = conn_to("/nowhere/redis.sock", NULL);
    char *address = xasprintf("127.0.0.1:%d", free_port());
    char *text = xasprintf("redis %s: cannot connect: Connection refused", address);
    struct redis_conn *port = conn_to(address, NULL);
    struct err err = ERR_INIT;
    struct batch b = {.n = 0};

    (void)state;
    assert_int_equal(redis_conn_ready(path, &err), -1);
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_string_equal(err.text,
                        "redis /nowhere/redis.sock: cannot connect: No such file or directory");
    err_clear(&err);
    assert_int_equal(redis_conn_ready(port, &err), -1);
    assert_string_equal(err.text, text);
    add(&b, 1000, "GET", "k", NULL);
    run(port, &b);
    expect(&b, 0, REDIS_FAILED, "cannot connect: Connection refused");
    assert_int_equal(redis_conn_connects(port).failed, 2);
    assert_false(redis_conn_is_up(port));
    redis_conn_free(path);
    redis_conn_free(port);
    free(address);
    free(text);
}

/* ---- a real server --------------------------------------------------------------- */

static void unix_and_tcp_connections_are_answered(void **state)
{
    char *name = xasprintf("localhost:%d", real.port);
    const char *const addresses[] = {real.path, real.tcp, name};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        struct redis_conn *c = conn_to(addresses[i], NULL);
        struct err err = ERR_INIT;

        assert_int_equal(redis_conn_ready(c, &err), 0);
        assert_true(redis_conn_is_up(c));
        ask(c, "OK", "SET", "k", "v");
        ask(c, "v", "GET", "k", NULL);
        assert_int_equal(redis_conn_connects(c).ok, 1);
        redis_conn_free(c);
    }
    free(name);
}

static void replies_of_every_kind_become_strings(void **state)
{
    struct redis_conn *c = conn_to(real.path, NULL);
    struct batch b = {.n = 0};

    (void)state;
    add(&b, 2000, "DEL", "l", NULL);
    add(&b, 2000, "RPUSH", "l", "a", "", "c", NULL);
    add(&b, 2000, "LRANGE", "l", "0", "-1", NULL);
    add(&b, 2000, "LRANGE", "none", "0", "-1", NULL);
    add(&b, 2000, "GET", "none", NULL);
    add(&b, 2000, "EVAL", "return {1, {2, 3}, false, 'x', -7}", "0", NULL);
    add(&b, 2000, "EVAL", "return {'a', redis.error_reply('ERR inside')}", "0", NULL);
    add(&b, 2000, "NOSUCH", NULL);
    run(c, &b);
    expect(&b, 1, REDIS_REPLIED, "3");
    expect(&b, 2, REDIS_REPLIED, "a,,c");
    assert_int_equal(b.got[2].n, 3);
    assert_int_equal(b.got[3].outcome, REDIS_REPLIED);
    assert_int_equal(b.got[3].n, 0);
    assert_int_equal(b.got[4].outcome, REDIS_REPLIED);
    assert_int_equal(b.got[4].n, 0);
    expect(&b, 5, REDIS_REPLIED, "1,,,x,-7");
    expect(&b, 6, REDIS_FAILED, "ERR inside");
    assert_int_equal(b.got[7].outcome, REDIS_FAILED);
    assert_non_null(strstr(b.got[7].text, "unknown command"));
    redis_conn_free(c);
}

static void keys_are_arbitrary_bytes(void **state)
{
    static const char key[] = "a\0b\r\n$3\r\n\xff";
    struct str argv[] = {{"SET", 3}, {key, sizeof key - 1}, {"v", 1}};
    struct str get[] = {{"GET", 3}, {key, sizeof key - 1}};
    struct got got[2] = {{0}};
    struct redis_command cmds[] = {
        {.argv = argv, .argc = 3, .deadline_ns = in_ms(2000), .user = &got[0]},
        {.argv = get, .argc = 2, .deadline_ns = in_ms(2000), .user = &got[1]},
    };
    struct redis_conn *c = conn_to(real.path, NULL);

    (void)state;
    redis_run(c, cmds, 2, collect);
    assert_int_equal(got[1].outcome, REDIS_REPLIED);
    assert_string_equal(got[1].text, "v");
    redis_conn_free(c);
}

static void user_password_and_database_are_used(void **state)
{
    struct redis_conn *admin = conn_to(real.path, NULL), *c;
    struct batch b = {.n = 0};

    (void)state;
    add(&b, 2000, "ACL", "SETUSER", "alice", "on", ">secret", "~*", NULL);
    add(&b, 2000, "ACL", "SETUSER", "alice", "+@all", NULL);
    run(admin, &b);
    expect(&b, 0, REDIS_REPLIED, "OK");
    c = conn_with(
        (struct redis_options){
            .address = real.path, .user = "alice", .password = "secret", .db = 3},
        NULL);
    ask(c, "alice", "ACL", "WHOAMI", NULL);
    ask(c, "OK", "SET", "in-three", "v");
    ask(admin, "0", "EXISTS", "in-three", NULL);
    ask(admin, "OK", "SELECT", "3", NULL);
    ask(admin, "1", "EXISTS", "in-three", NULL);
    redis_conn_free(c);
    redis_conn_free(admin);
}

static void password_alone_is_the_default_users(void **state)
{
    struct redis_conn *admin = conn_to(real.path, NULL), *c;
    struct batch b = {.n = 0};
    struct err err = ERR_INIT;

    (void)state;
    add(&b, 2000, "CONFIG", "SET", "requirepass", "hush", NULL);
    run(admin, &b);
    expect(&b, 0, REDIS_REPLIED, "OK");
    c = conn_with((struct redis_options){.address = real.path, .password = "hush"}, NULL);
    ask(c, "default", "ACL", "WHOAMI", NULL);
    redis_conn_free(c);
    c = conn_to(real.path, NULL);
    assert_int_equal(redis_conn_ready(c, &err), -1);
    assert_non_null(strstr(err.text, "NOAUTH"));
    redis_conn_free(c);
    err_clear(&err);
    c = conn_with((struct redis_options){.address = real.path, .password = "wrong"}, NULL);
    assert_int_equal(redis_conn_ready(c, &err), -1);
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(err.text, "WRONGPASS"));
    redis_conn_free(c);
    b.n = 0;
    memset(&b, 0, sizeof b);
    add(&b, 2000, "CONFIG", "SET", "requirepass", "", NULL);
    run(admin, &b);
    redis_conn_free(admin);
}

static void wrong_database_never_serves_another_one(void **state)
{
    struct redis_conn *c = conn_with((struct redis_options){.address = real.path, .db = 99}, NULL);
    struct batch b = {.n = 0};

    (void)state;
    add(&b, 2000, "GET", "k", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_FAILED, "ERR DB index is out of range");
    assert_false(redis_conn_is_up(c));
    redis_conn_free(c);
}

static void user_who_may_not_ping_is_served(void **state)
{
    struct redis_conn *admin = conn_to(real.path, NULL), *c;
    struct batch b = {.n = 0};

    (void)state;
    add(&b, 2000, "ACL", "SETUSER", "reader", "on", ">pw", "~*", NULL);
    add(&b, 2000, "ACL", "SETUSER", "reader", "+get", NULL);
    run(admin, &b);
    ask(admin, "OK", "SET", "k", "v");
    c = conn_with((struct redis_options){.address = real.path, .user = "reader", .password = "pw"},
                  NULL);
    ask(c, "v", "GET", "k", NULL);
    redis_conn_free(c);
    redis_conn_free(admin);
}

static void wrong_type_is_one_keys_problem(void **state)
{
    struct breaker *breaker = breaker_new(1);
    struct redis_conn *c = conn_to(real.path, breaker);
    struct batch b = {.n = 0};

    (void)state;
    ask(c, "OK", "SET", "text", "v");
    add(&b, 2000, "LRANGE", "text", "0", "-1", NULL);
    run(c, &b);
    assert_int_equal(b.got[0].outcome, REDIS_FAILED);
    assert_memory_equal(b.got[0].text, "WRONGTYPE ", 10);
    assert_true(breaker_allows(breaker));
    ask(c, "v", "GET", "text", NULL);
    assert_int_equal(redis_conn_connects(c).ok, 1);
    redis_conn_free(c);
    breaker_free(breaker);
}

/* 64 values of 1 MB out and back: far more than the sockets hold, so both directions must move. */
static void pipeline_larger_than_the_socket_buffers_goes_through(void **state)
{
    size_t size = 1 << 20;
    char *value = xmalloc(size), key[16];
    struct redis_conn *c = conn_to(real.tcp, NULL);
    struct batch b = {.n = 0};

    (void)state;
    memset(value, 'x', size);
    for (int i = 0; i < BATCH_MAX; i++) {
        add(&b, 30000, "ECHO", "", NULL);
        b.argv[i][1] = (struct str){value, size};
    }
    run(c, &b);
    for (size_t i = 0; i < b.n; i++) {
        assert_int_equal(b.got[i].outcome, REDIS_REPLIED);
        assert_int_equal(strlen(b.got[i].text), sizeof b.got[i].text - 1);
    }
    snprintf(key, sizeof key, "%zu", b.n);
    ask(c, key, "ECHO", key, NULL);
    redis_conn_free(c);
    free(value);
}

static void reply_without_end_is_cut_off(void **state)
{
    struct redis_conn *c = conn_to(real.path, NULL);
    struct batch b = {.n = 0};

    (void)state;
    add(&b, 30000, "SETRANGE", "huge", "67200000", "x", NULL);
    add(&b, 30000, "GET", "huge", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_REPLIED, "67200001");
    expect(&b, 1, REDIS_FAILED, "a reply of more than 67108864 bytes");
    ask(c, "1", "DEL", "huge", NULL);
    redis_conn_free(c);
}

static void server_that_was_restarted_costs_no_command(void **state)
{
    struct breaker *breaker = breaker_new(1);
    const char *const addresses[] = {real.path, real.tcp};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        struct redis_conn *c = conn_to(addresses[i], breaker);

        ask(c, "OK", "SET", "k", "v");
        real_kill(&real);
        real_launch(&real);
        ask(c, "", "GET", "k", NULL);
        assert_int_equal(redis_conn_connects(c).ok, 2);
        assert_true(breaker_allows(breaker));
        redis_conn_free(c);
    }
    breaker_free(breaker);
}

static void stopped_server_times_out_and_recovers(void **state)
{
    struct breaker *breaker = breaker_new(2);
    struct redis_conn *c =
        conn_with((struct redis_options){.address = real.path, .timeout_ms = 30}, breaker);
    bool healed = false;

    (void)state;
    ask(c, "OK", "SET", "k", "v");
    kill(real.pid, SIGSTOP);
    for (int i = 0; i < 2; i++) {
        struct batch b = {.n = 0};

        add(&b, 30, "GET", "k", NULL);
        run(c, &b);
        assert_int_equal(b.got[0].outcome, REDIS_TIMED_OUT);
        assert_true(took_ms(&b, 0) >= 29);
    }
    assert_false(breaker_allows(breaker));
    assert_false(redis_conn_heal(c));
    kill(real.pid, SIGCONT);
    for (int i = 0; i < 100 && !healed; i++) {
        sleep_ms(10);
        redis_conn_heal(c);
        healed = breaker_allows(breaker);
    }
    assert_true(healed);
    ask(c, "v", "GET", "k", NULL);
    redis_conn_free(c);
    breaker_free(breaker);
}

/* ---- late and lost replies ------------------------------------------------------- */

static void late_command_times_out_alone(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);
    struct batch b = {.n = 0};

    add(&b, 2000, "GET", "first", NULL);
    add(&b, 50, "GET", "late:300:second", NULL);
    add(&b, 2000, "GET", "third", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_REPLIED, "first");
    assert_true(took_ms(&b, 0) < 290); /* not held up by the second */
    assert_int_equal(b.got[1].outcome, REDIS_TIMED_OUT);
    assert_in_range(took_ms(&b, 1), 49, 290);
    expect(&b, 2, REDIS_REPLIED, "third");
    assert_true(took_ms(&b, 2) >= 299);
    ask(c, "next", "GET", "next", NULL);
    assert_int_equal(redis_conn_connects(c).ok, 1); /* every reply came: nothing to discard */
    redis_conn_free(c);
}

static void deadlines_are_kept_one_by_one(void **state)
{
    static const uint64_t ms[] = {450, 150, 600, 300};
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);
    struct batch b = {.n = 0};

    for (size_t i = 0; i < ARRAY_LEN(ms); i++)
        add(&b, ms[i], "GET", "hang", NULL);
    run(c, &b);
    for (size_t i = 0; i < ARRAY_LEN(ms); i++) {
        assert_int_equal(b.got[i].outcome, REDIS_TIMED_OUT);
        assert_in_range(took_ms(&b, i), ms[i] - 1, ms[i] + 140);
    }
    assert_false(redis_conn_is_up(c));
    assert_string_equal(redis_conn_error(c), "no reply in time");
    redis_conn_free(c);
}

static void late_reply_never_reaches_another_command(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);

    for (int i = 0; i < 8; i++) {
        struct batch b = {.n = 0};
        char bob[16];

        add(&b, 20, "GET", "late:200:alice", NULL);
        run(c, &b);
        assert_int_equal(b.got[0].outcome, REDIS_TIMED_OUT);
        sleep_ms(i % 4 == 0 ? 220 : 0); /* with alice's reply there already, or not yet */
        snprintf(bob, sizeof bob, "bob%d", i);
        ask(c, bob, "GET", bob, NULL);
    }
    redis_conn_free(c);
}

static void bytes_nobody_asked_for_reach_nobody(void **state)
{
    static const char *const with_more[] = {
        "raw:+one\r\n+stray\r\n", /* a whole reply */
        "raw:+one\r\n*1\r\n",     /* a part of one: the next reply would complete it */
        "raw:+one\r\n$9\r\nhal",
        "raw:+one\r\n:",
    };
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);

    for (size_t i = 0; i < ARRAY_LEN(with_more); i++) {
        ask(c, "one", "GET", with_more[i], NULL);
        ask(c, "mine", "GET", "mine", NULL);
    }
    send(f->fds[f->connections - 1], "+stray\r\n", 8, MSG_NOSIGNAL);
    sleep_ms(20); /* idle for a while, so the socket is looked at before it is used */
    ask(c, "mine", "GET", "mine", NULL);
    redis_conn_free(c);
}

static void half_a_reply_is_late_not_wrong(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);
    struct batch b = {.n = 0};

    add(&b, 1000, "GET", "whole", NULL);
    add(&b, 50, "GET", "half:*2\r\n$3\r\nabc\r\n$5\r\nab", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_REPLIED, "whole");
    expect(&b, 1, REDIS_TIMED_OUT, "");
    ask(c, "after", "GET", "after", NULL);
    redis_conn_free(c);
}

/* ---- in steps -------------------------------------------------------------------- */

static void wait_readable(const struct redis_conn *c)
{
    struct pollfd p = {redis_conn_fd(c), POLLIN, 0};

    assert_int_equal(poll(&p, 1, 10000), 1);
}

static void steps_hand_out_what_has_come(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);
    enum redis_step step = REDIS_MORE;
    struct batch b = {.n = 0};

    ask(c, "x", "GET", "x", NULL);
    add(&b, 5000, "GET", "one", NULL);
    add(&b, 5000, "GET", "split-two", NULL);
    add(&b, 5000, "GET", "late:50:three", NULL);
    assert_int_equal(redis_begin(c, b.cmds, b.n, collect), REDIS_MORE);
    while (step == REDIS_MORE) {
        wait_readable(c);
        step = redis_continue(c);
    }
    assert_int_equal(step, REDIS_DONE);
    expect(&b, 0, REDIS_REPLIED, "one");
    expect(&b, 1, REDIS_REPLIED, "split-two");
    expect(&b, 2, REDIS_REPLIED, "late:50:three");
    ask(c, "after", "GET", "after", NULL);
    redis_conn_free(c);
}

/* With a part of a reply read, and the rest to come or not. */
static void finishing_waits_for_the_rest(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);

    for (int hangs = 0; hangs < 2; hangs++) {
        struct batch b = {.n = 0};

        ask(c, "x", "GET", "x", NULL);
        add(&b, 5000, "GET", "one", NULL);
        add(&b, hangs ? 100 : 5000, "GET", hangs ? "half:*1\r\n$5\r\nab" : "late:100:two", NULL);
        b.start_ns = clock_ns();
        assert_int_equal(redis_begin(c, b.cmds, b.n, collect), REDIS_MORE);
        while (b.got[0].calls == 0) {
            wait_readable(c);
            assert_int_equal(redis_continue(c), REDIS_MORE);
        }
        expect(&b, 0, REDIS_REPLIED, "one");
        assert_int_equal(b.got[1].calls, 0);
        assert_true(redis_late_ns(c) <= b.cmds[1].deadline_ns);
        redis_finish(c);
        assert_int_equal(b.got[0].calls, 1);
        assert_int_equal(b.got[1].calls, 1);
        expect(&b, 1, hangs ? REDIS_TIMED_OUT : REDIS_REPLIED, hangs ? "" : "late:100:two");
        assert_int_equal(redis_conn_is_up(c), !hangs);
    }
    redis_conn_free(c);
}

static void trouble_is_what_finishing_deals_with(void **state)
{
    static const struct {
        const char *key, *error;
    } rows[] = {
        {"raw:what?\r\n", "not a reply: Protocol error, got \"w\" as reply type byte"},
        {"raw:*1\r\n$1\r\nx\r\n+stray\r\n", NULL},
        {"close", NULL},
    };
    struct fake_redis *f = *state;
    struct breaker *breaker = breaker_new(1);
    struct redis_conn *c = conn_to(f->path, breaker);

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        bool answered = strstr(rows[i].key, "stray") != NULL;
        struct batch b = {.n = 0};

        ask(c, "x", "GET", "x", NULL);
        add(&b, 5000, "GET", rows[i].key, NULL);
        assert_int_equal(redis_begin(c, b.cmds, b.n, collect), REDIS_MORE);
        wait_readable(c);
        assert_int_equal(redis_continue(c), REDIS_TROUBLE);
        redis_finish(c);
        assert_int_equal(b.got[0].calls, 1);
        assert_int_equal(b.got[0].outcome, answered ? REDIS_REPLIED : REDIS_FAILED);
        if (rows[i].error != NULL)
            assert_string_equal(b.got[0].text, rows[i].error);
        assert_false(redis_conn_is_up(c));
        assert_int_equal(breaker_allows(breaker), answered);
    }
    redis_conn_free(c);
    breaker_free(breaker);
}

static void connection_that_died_while_idle_is_replaced_in_steps_too(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);

    for (unsigned ms = 0; ms <= 20; ms += 20) { /* not looked at before it is used, and looked at */
        struct batch b = {.n = 0};
        enum redis_step step;

        ask(c, "x", "GET", "x", NULL);
        shutdown(f->fds[f->connections - 1], SHUT_RDWR);
        sleep_ms(ms);
        add(&b, 5000, "GET", "one", NULL);
        step = redis_begin(c, b.cmds, b.n, collect);
        if (step == REDIS_MORE) {
            wait_readable(c);
            step = redis_continue(c);
        }
        assert_int_equal(step, REDIS_TROUBLE);
        redis_finish(c);
        assert_int_equal(b.got[0].calls, 1);
        expect(&b, 0, REDIS_REPLIED, "one");
        assert_true(redis_conn_look(c));
    }
    shutdown(f->fds[f->connections - 1], SHUT_RDWR);
    wait_readable(c);
    assert_false(redis_conn_look(c));
    assert_int_equal(redis_conn_fd(c), -1);
    redis_conn_free(c);
}

static void pipeline_that_the_socket_does_not_take_at_once_is_finished(void **state)
{
    char *big = xmalloc(8 << 20);
    struct redis_conn *c = conn_to(real.path, NULL);
    struct batch b = {.n = 0};

    (void)state;
    memset(big, 'b', 8 << 20);
    big[(8 << 20) - 1] = '\0';
    ask(c, "PONG", "PING", NULL, NULL);
    add(&b, 20000, "SET", "big", big, NULL);
    add(&b, 20000, "STRLEN", "big", NULL);
    add(&b, 20000, "DEL", "big", NULL);
    assert_int_equal(redis_begin(c, b.cmds, b.n, collect), REDIS_TROUBLE);
    redis_finish(c);
    expect(&b, 0, REDIS_REPLIED, "OK");
    expect(&b, 1, REDIS_REPLIED, "8388607");
    expect(&b, 2, REDIS_REPLIED, "1");
    redis_conn_free(c);
    free(big);
}

/* ---- overdue replies ------------------------------------------------------------- */

/* What `overdue` answers, and what it was asked about. */
struct watch {
    enum redis_overdue answer;
    int asked, of_nobody;
    const struct redis_command *about;
    uint64_t at_ns;
};

static enum redis_overdue watch(const struct redis_command *cmd, void *arg)
{
    struct watch *w = arg;

    w->asked++;
    w->of_nobody += cmd == NULL;
    w->about = cmd;
    w->at_ns = clock_ns();
    return w->answer;
}

static struct redis_conn *watched_conn(const char *address, int timeout_ms, struct watch *w)
{
    struct redis_conn *c =
        conn_with((struct redis_options){.address = address, .timeout_ms = timeout_ms}, NULL);

    redis_conn_when_overdue(c, watch, w);
    ask(c, "x", "GET", "x", NULL); /* connected, and a reply is known to take no time */
    return c;
}

static void those_behind_an_overdue_reply_are_given_back(void **state)
{
    static const char *const hung[] = {"hang", "half:*1\r\n$5\r\nab", "late:400:h"};
    struct fake_redis *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(hung); i++) {
        struct watch w = {.answer = REDIS_ALONE};
        struct redis_conn *c = watched_conn(f->path, 300, &w);
        struct batch b = {.n = 0};

        add(&b, 300, "GET", "before", NULL);
        add(&b, 300, "GET", hung[i], NULL);
        add(&b, 300, "GET", "its other", NULL);
        b.cmds[2].with_previous = true;
        add(&b, 300, "GET", "behind", NULL);
        add(&b, 60, "GET", "hasty", NULL);
        run(c, &b);
        assert_int_equal(w.asked, 1);
        assert_ptr_equal(w.about, &b.cmds[1]);
        expect(&b, 0, REDIS_REPLIED, "before");
        assert_int_equal(b.got[1].outcome, REDIS_TIMED_OUT);
        assert_int_equal(b.got[2].outcome, REDIS_TIMED_OUT);
        assert_true(took_ms(&b, 1) >= 299); /* it had all its time */
        assert_int_equal(b.got[3].outcome, REDIS_BLOCKED);
        assert_in_range(took_ms(&b, 3), 99, 290);
        assert_int_equal(b.got[4].outcome, REDIS_TIMED_OUT);
        ask(c, "after", "GET", "after", NULL);
        redis_conn_free(c);
    }
}

static void overdue_reply_that_comes_is_handed_out(void **state)
{
    struct fake_redis *f = *state;
    struct watch w = {.answer = REDIS_ALONE};
    struct redis_conn *c = watched_conn(f->path, 300, &w);
    struct batch b = {.n = 0};

    add(&b, 3000, "GET", "late:200:me", NULL);
    add(&b, 3000, "GET", "behind", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_REPLIED, "late:200:me");
    assert_int_equal(b.got[1].outcome, REDIS_BLOCKED); /* its reply comes too, to nobody */
    ask(c, "after", "GET", "after", NULL);
    redis_conn_free(c);
}

static void overdue_reply_can_be_given_up_at_once(void **state)
{
    struct fake_redis *f = *state;
    struct watch w = {.answer = REDIS_DROP};
    struct redis_conn *c = watched_conn(f->path, 300, &w);
    struct batch b = {.n = 0};

    add(&b, 3000, "GET", "hang", NULL);
    add(&b, 3000, "GET", "its other", NULL);
    b.cmds[1].with_previous = true;
    add(&b, 3000, "GET", "behind", NULL);
    run(c, &b);
    assert_int_equal(b.got[0].outcome, REDIS_TIMED_OUT);
    assert_int_equal(b.got[1].outcome, REDIS_TIMED_OUT);
    assert_int_equal(b.got[2].outcome, REDIS_BLOCKED);
    assert_in_range(took_ms(&b, 0), 99, 2000);
    assert_false(redis_conn_is_up(c));
    redis_conn_free(c);
}

static void waiting_on_is_asked_about_again(void **state)
{
    struct fake_redis *f = *state;
    struct watch w = {.answer = REDIS_WAIT};
    struct redis_conn *c = watched_conn(f->path, 90, &w);
    struct batch b = {.n = 0};

    add(&b, 3000, "GET", "late:200:a", NULL);
    add(&b, 3000, "GET", "b", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_REPLIED, "late:200:a");
    expect(&b, 1, REDIS_REPLIED, "b");
    assert_in_range(w.asked, 1, 6);
    assert_int_equal(w.of_nobody, 0);
    assert_int_equal(redis_conn_connects(c).ok, 1);
    redis_conn_free(c);
}

static void overdue_reply_to_a_late_command_is_nobodys(void **state)
{
    struct fake_redis *f = *state;
    struct watch w = {.answer = REDIS_ALONE};
    struct redis_conn *c = watched_conn(f->path, 300, &w);
    struct batch b = {.n = 0};

    add(&b, 20, "GET", "hang", NULL);
    add(&b, 3000, "GET", "behind", NULL);
    run(c, &b);
    assert_int_equal(w.of_nobody, 1);
    assert_int_equal(b.got[0].outcome, REDIS_TIMED_OUT);
    assert_int_equal(b.got[1].outcome, REDIS_BLOCKED);
    assert_in_range(took_ms(&b, 1), 99, 2000);
    redis_conn_free(c);
}

/* A reply is overdue against what replies take, not against a clock of ours. */
static void slow_server_is_not_overdue_for_long(void **state)
{
    struct fake_redis *f = *state;
    struct watch w = {.answer = REDIS_ALONE};
    struct redis_conn *c = watched_conn(f->path, 300, &w);

    for (int i = 0; i < 4; i++) {
        struct batch b = {.n = 0};

        add(&b, 3000, "GET", "late:150:a", NULL);
        add(&b, 3000, "GET", "b", NULL);
        run(c, &b);
        expect(&b, 0, REDIS_REPLIED, "late:150:a");
        assert_int_equal(b.got[1].outcome, i == 0 ? REDIS_BLOCKED : REDIS_REPLIED);
    }
    assert_int_equal(w.asked, 1);
    redis_conn_free(c);
}

/* ---- broken connections and protocols -------------------------------------------- */

static void what_is_not_a_reply_fails_the_rest_and_the_connection(void **state)
{
    static const struct {
        const char *key, *text;
    } cases[] = {
        {"raw:HTTP/1.1 400 Bad Request\r\n\r\n", "not a reply: "},
        {"raw:*1048577\r\n", "not a reply: "},
        {"raw:*2147483647\r\n", "not a reply: "},
        {"raw:*99999999999999999999\r\n", "not a reply: "},
        {"raw:*-2\r\n", "not a reply: "},
        {"raw:$-2\r\n", "not a reply: "},
        {"raw:$x\r\n", "not a reply: "},
        {"raw:*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
         "not a reply: "},
        {"close", "the server closed the connection"},
    };
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct batch b = {.n = 0};

        add(&b, 2000, "GET", "good", NULL);
        add(&b, 2000, "GET", cases[i].key, NULL);
        add(&b, 2000, "GET", "never", NULL);
        run(c, &b);
        expect(&b, 0, REDIS_REPLIED, "good");
        for (size_t k = 1; k < 3; k++) {
            assert_int_equal(b.got[k].outcome, REDIS_FAILED);
            assert_memory_equal(b.got[k].text, cases[i].text, strlen(cases[i].text));
        }
        assert_false(redis_conn_is_up(c));
        ask(c, "after", "GET", "after", NULL);
    }
    redis_conn_free(c);
}

static void error_texts_are_printable(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);
    struct batch b = {.n = 0};

    add(&b, 2000, "GET", "raw:-ERR bell \a, escape \033[2J and half a \xc3\r\n", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_FAILED, "ERR bell ?, escape ?[2J and half a ?");
    redis_conn_free(c);
}

static void lost_connection_is_not_tried_again_blindly(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);
    struct batch b = {.n = 0}, again = {.n = 0};

    add(&b, 2000, "GET", "close", NULL); /* the connection is new: it did not die while idle */
    run(c, &b);
    expect(&b, 0, REDIS_FAILED, "the server closed the connection");
    assert_int_equal(f->commands, 1);
    ask(c, "a", "GET", "a", NULL);
    add(&again, 2000, "GET", "b", NULL);
    add(&again, 2000, "GET", "close", NULL); /* idle before, but something was answered */
    run(c, &again);
    expect(&again, 0, REDIS_REPLIED, "b");
    expect(&again, 1, REDIS_FAILED, "the server closed the connection");
    assert_int_equal(f->commands, 4);
    redis_conn_free(c);
}

static void connection_that_dies_at_the_first_use_is_replaced_once(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);
    struct batch b = {.n = 0};

    ask(c, "a", "GET", "a", NULL);
    add(&b, 2000, "GET", "close", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_FAILED, "the server closed the connection");
    assert_int_equal(f->commands, 3); /* a, close, close */
    assert_int_equal(redis_conn_connects(c).ok, 2);
    redis_conn_free(c);
}

static void refusal_in_the_greeting_is_the_error(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);
    struct err err = ERR_INIT;
    struct batch b = {.n = 0};

    f->greeting = "-ERR max number of clients reached\r\n";
    assert_int_equal(redis_conn_ready(c, &err), -1);
    assert_non_null(strstr(err.text, ": ERR max number of clients reached"));
    add(&b, 1000, "GET", "k", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_FAILED, "ERR max number of clients reached");
    f->greeting = "-LOADING Redis is loading the dataset in memory\r\n";
    err_clear(&err);
    assert_int_equal(redis_conn_ready(c, &err), -1);
    assert_non_null(strstr(err.text, ": LOADING Redis is loading"));
    f->greeting = "+PONG\r\n";
    err_clear(&err);
    assert_int_equal(redis_conn_ready(c, &err), 0);
    assert_int_equal(f->commands, 0);
    redis_conn_free(c);
}

static void silent_greeting_ends_in_time(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c =
        conn_with((struct redis_options){.address = f->path, .timeout_ms = 300}, NULL);
    struct err err = ERR_INIT;
    struct batch b = {.n = 0};
    uint64_t start = clock_ns();

    f->greeting = NULL;
    assert_int_equal(redis_conn_ready(c, &err), -1);
    assert_non_null(strstr(err.text, ": no answer to the greeting in time"));
    assert_in_range((clock_ns() - start) / MS, 299, 900);
    add(&b, 100, "GET", "impatient", NULL);
    add(&b, 1000, "GET", "patient", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_TIMED_OUT, "");
    assert_in_range(took_ms(&b, 0), 99, 290); /* its own deadline, not the greeting's */
    expect(&b, 1, REDIS_FAILED, "no answer to the greeting in time");
    redis_conn_free(c);
}

/* A listener whose backlog is full drops what asks to connect: as a dead machine would. */
static void commands_keep_their_deadlines_while_connecting(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fds[4] = {socket(AF_INET, SOCK_STREAM, 0)};
    struct batch b = {.n = 0};
    struct redis_conn *c;
    char *address;

    (void)state;
    assert_int_equal(bind(fds[0], (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fds[0], 0), 0);
    getsockname(fds[0], (struct sockaddr *)&at, &len);
    for (int i = 1; i < 4; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fds[i], (struct sockaddr *)&at, sizeof at);
    }
    address = xasprintf("127.0.0.1:%d", ntohs(at.sin_port));
    c = conn_with((struct redis_options){.address = address, .connect_ms = 1000}, NULL);
    add(&b, 150, "GET", "a", NULL);
    add(&b, 400, "GET", "b", NULL);
    add(&b, 5000, "GET", "c", NULL);
    run(c, &b);
    expect(&b, 0, REDIS_TIMED_OUT, "");
    assert_in_range(took_ms(&b, 0), 149, 990);
    expect(&b, 1, REDIS_TIMED_OUT, "");
    assert_in_range(took_ms(&b, 1), 399, 990);
    expect(&b, 2, REDIS_FAILED, "no connection in time");
    assert_in_range(took_ms(&b, 2), 999, 3000);
    redis_conn_free(c);
    free(address);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
}

/* ---- what the breaker is told ---------------------------------------------------- */

static void errors_of_the_server_as_a_whole_count_for_the_breaker(void **state)
{
    static const struct {
        const char *key;
        bool counts;
    } cases[] = {
        {"raw:-LOADING Redis is loading the dataset in memory\r\n", true},
        {"raw:-NOAUTH Authentication required.\r\n", true},
        {"raw:-NOPERM this user has no permissions\r\n", true},
        {"raw:-MOVED 3999 127.0.0.1:6381\r\n", true},
        {"raw:-CLUSTERDOWN Hash slot not served\r\n", true},
        {"raw:-READONLY You can't write against a read only replica.\r\n", true},
        {"raw:-MASTERDOWN Link with MASTER is down\r\n", true},
        {"raw:-BUSY Redis is busy running a script.\r\n", true},
        {"raw:-ERR max number of clients reached\r\n", true},
        {"raw:-WRONGTYPE Operation against a key\r\n", false},
        {"raw:-ERR something about this key\r\n", false},
        {"raw:-LOADINGS is another word\r\n", false},
    };
    struct fake_redis *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct breaker *breaker = breaker_new(1);
        struct redis_conn *c = conn_to(f->path, breaker);
        struct batch b = {.n = 0};

        add(&b, 1000, "GET", cases[i].key, NULL);
        run(c, &b);
        assert_int_equal(b.got[0].outcome, REDIS_FAILED);
        assert_int_equal(breaker_allows(breaker), !cases[i].counts);
        assert_true(redis_conn_is_up(c));
        redis_conn_free(c);
        breaker_free(breaker);
    }
}

static void pipeline_is_one_event_for_the_breaker(void **state)
{
    struct fake_redis *f = *state;
    struct breaker *breaker = breaker_new(2);
    struct redis_conn *c =
        conn_with((struct redis_options){.address = f->path, .timeout_ms = 100}, breaker);
    struct batch dead = {.n = 0}, mixed = {.n = 0}, last = {.n = 0}, more = {.n = 0};

    for (int i = 0; i < 10; i++)
        add(&dead, 100, "GET", "hang", NULL);
    run(c, &dead);
    assert_true(breaker_allows(breaker));
    add(&mixed, 2000, "GET", "good", NULL);
    add(&mixed, 100, "GET", "hang", NULL);
    run(c, &mixed); /* one answer speaks for the server */
    add(&last, 100, "GET", "hang", NULL);
    run(c, &last);
    assert_true(breaker_allows(breaker));
    add(&more, 100, "GET", "close", NULL);
    run(c, &more);
    assert_false(breaker_allows(breaker));
    redis_conn_free(c);
    breaker_free(breaker);
}

static void impatient_commands_do_not_open_the_breaker(void **state)
{
    struct fake_redis *f = *state;
    struct breaker *breaker = breaker_new(1);
    struct redis_conn *c =
        conn_with((struct redis_options){.address = f->path, .timeout_ms = 1000}, breaker);

    for (int i = 0; i < 3; i++) {
        struct batch b = {.n = 0};

        add(&b, 5, "GET", "late:200:", NULL);
        run(c, &b);
        assert_int_equal(b.got[0].outcome, REDIS_TIMED_OUT);
    }
    assert_true(breaker_allows(breaker));
    redis_conn_free(c);
    breaker_free(breaker);
}

static void silence_of_doubtful_commands_does_not_open_the_breaker(void **state)
{
    struct fake_redis *f = *state;
    struct breaker *breaker = breaker_new(1);
    struct redis_conn *c =
        conn_with((struct redis_options){.address = f->path, .timeout_ms = 100}, breaker);
    struct batch doubtful = {.n = 0}, both = {.n = 0};

    add(&doubtful, 100, "GET", "hang", NULL);
    doubtful.cmds[0].doubtful = true;
    run(c, &doubtful);
    assert_int_equal(doubtful.got[0].outcome, REDIS_TIMED_OUT);
    assert_true(breaker_allows(breaker));
    add(&both, 100, "GET", "hang", NULL);
    both.cmds[0].doubtful = true;
    add(&both, 100, "GET", "other", NULL);
    run(c, &both);
    assert_false(breaker_allows(breaker));
    redis_conn_free(c);
    breaker_free(breaker);
}

static void healing_backs_off_and_closes_the_breaker(void **state)
{
    struct fake_redis *f = *state;
    struct breaker *breaker = breaker_new(1);
    struct redis_conn *c = conn_to(f->path, breaker);
    uint64_t now, wait_ms[6];

    f->greeting = "-LOADING Redis is loading the dataset in memory\r\n";
    breaker_failure(breaker);
    for (size_t i = 0; i < ARRAY_LEN(wait_ms); i++) {
        while (redis_conn_next_heal_ns(c) > clock_ns())
            sleep_ms(1);
        now = clock_ns();
        assert_false(redis_conn_heal(c));
        assert_true(redis_conn_heal(c)); /* too early: no attempt */
        wait_ms[i] = (redis_conn_next_heal_ns(c) - now) / MS;
    }
    assert_int_equal(redis_conn_connects(c).failed, ARRAY_LEN(wait_ms));
    assert_in_range(wait_ms[0], 50, 99);
    assert_in_range(wait_ms[1], 100, 199);
    assert_in_range(wait_ms[2], 200, 399);
    for (size_t i = 4; i < ARRAY_LEN(wait_ms); i++)
        assert_in_range(wait_ms[i], 500, 900);
    f->greeting = "+PONG\r\n";
    now = clock_ns();
    while (!breaker_allows(breaker) && clock_ns() < now + 2000 * MS) {
        redis_conn_heal(c);
        sleep_ms(1);
    }
    assert_in_range((clock_ns() - now) / MS, 0, 999);
    assert_true(redis_conn_is_up(c));
    assert_int_equal(redis_conn_next_heal_ns(c), 0);
    redis_conn_free(c);
    breaker_free(breaker);
}

static void open_breaker_is_closed_by_a_ping_over_the_standing_connection(void **state)
{
    struct fake_redis *f = *state;
    struct breaker *breaker = breaker_new(1);
    struct redis_conn *c = conn_to(f->path, breaker);

    ask(c, "a", "GET", "a", NULL);
    breaker_failure(breaker);
    assert_true(redis_conn_heal(c));
    assert_true(breaker_allows(breaker));
    assert_int_equal(redis_conn_connects(c).ok, 1);
    redis_conn_free(c);
    breaker_free(breaker);
}

static void healing_notices_a_connection_that_was_closed(void **state)
{
    struct fake_redis *f = *state;
    struct redis_conn *c = conn_to(f->path, NULL);

    ask(c, "a", "GET", "a", NULL);
    shutdown(f->fds[0], SHUT_RDWR);
    assert_true(redis_conn_heal(c));
    assert_int_equal(redis_conn_connects(c).ok, 2);
    ask(c, "b", "GET", "b", NULL);
    assert_int_equal(redis_conn_connects(c).ok, 2);
    redis_conn_free(c);
}

#define WITH_FAKE(test) cmocka_unit_test_setup_teardown(test, start_fake, stop_fake)

int main(void)
{
    const struct CMUnitTest with_real[] = {
        cmocka_unit_test(breaker_opens_after_failures_in_a_row_and_success_closes_it),
        cmocka_unit_test(breaker_counts_the_failures_of_all_threads),
        cmocka_unit_test(no_breaker_always_allows),
        cmocka_unit_test(bad_addresses_are_refused_with_the_reason),
        cmocka_unit_test(addresses_of_every_kind_are_taken),
        cmocka_unit_test(unreachable_servers_are_named_with_the_cause),
        cmocka_unit_test(unix_and_tcp_connections_are_answered),
        cmocka_unit_test(replies_of_every_kind_become_strings),
        cmocka_unit_test(keys_are_arbitrary_bytes),
        cmocka_unit_test(user_password_and_database_are_used),
        cmocka_unit_test(password_alone_is_the_default_users),
        cmocka_unit_test(wrong_database_never_serves_another_one),
        cmocka_unit_test(user_who_may_not_ping_is_served),
        cmocka_unit_test(wrong_type_is_one_keys_problem),
        cmocka_unit_test(pipeline_larger_than_the_socket_buffers_goes_through),
        cmocka_unit_test(reply_without_end_is_cut_off),
        cmocka_unit_test(server_that_was_restarted_costs_no_command),
        cmocka_unit_test(stopped_server_times_out_and_recovers),
        WITH_FAKE(late_command_times_out_alone),
        WITH_FAKE(deadlines_are_kept_one_by_one),
        WITH_FAKE(late_reply_never_reaches_another_command),
        WITH_FAKE(bytes_nobody_asked_for_reach_nobody),
        WITH_FAKE(half_a_reply_is_late_not_wrong),
        WITH_FAKE(steps_hand_out_what_has_come),
        WITH_FAKE(finishing_waits_for_the_rest),
        WITH_FAKE(trouble_is_what_finishing_deals_with),
        WITH_FAKE(connection_that_died_while_idle_is_replaced_in_steps_too),
        cmocka_unit_test(pipeline_that_the_socket_does_not_take_at_once_is_finished),
        WITH_FAKE(those_behind_an_overdue_reply_are_given_back),
        WITH_FAKE(overdue_reply_that_comes_is_handed_out),
        WITH_FAKE(overdue_reply_can_be_given_up_at_once),
        WITH_FAKE(waiting_on_is_asked_about_again),
        WITH_FAKE(overdue_reply_to_a_late_command_is_nobodys),
        WITH_FAKE(slow_server_is_not_overdue_for_long),
        WITH_FAKE(what_is_not_a_reply_fails_the_rest_and_the_connection),
        WITH_FAKE(error_texts_are_printable),
        WITH_FAKE(lost_connection_is_not_tried_again_blindly),
        WITH_FAKE(connection_that_dies_at_the_first_use_is_replaced_once),
        WITH_FAKE(refusal_in_the_greeting_is_the_error),
        WITH_FAKE(silent_greeting_ends_in_time),
        cmocka_unit_test(commands_keep_their_deadlines_while_connecting),
        WITH_FAKE(errors_of_the_server_as_a_whole_count_for_the_breaker),
        WITH_FAKE(pipeline_is_one_event_for_the_breaker),
        WITH_FAKE(impatient_commands_do_not_open_the_breaker),
        WITH_FAKE(silence_of_doubtful_commands_does_not_open_the_breaker),
        WITH_FAKE(healing_backs_off_and_closes_the_breaker),
        WITH_FAKE(open_breaker_is_closed_by_a_ping_over_the_standing_connection),
        WITH_FAKE(healing_notices_a_connection_that_was_closed),
    };

    return cmocka_run_group_tests_name("redis", with_real, start_real, stop_real);
}
