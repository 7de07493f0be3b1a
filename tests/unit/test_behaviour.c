/* test_behaviour.c - elements, keys, orders and the stage with its threads, against a real
 * redis-server and a fake one. */
#include "recalld/behaviour.h"
#include "recalld/metrics.h"
#include "redis_fixture.h"

#include <dirent.h>
#include <jansson.h>

/* ---- helpers --------------------------------------------------------------------- */

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

/* Threads that wait in a poller, for the tests that are run again with one. */
#define POLL_THREADS 2

static struct poller *poller; /* NULL: the stage's own threads do everything */
static pthread_t poll_threads[POLL_THREADS];
static atomic_bool polling;

static void *poll_main(void *arg)
{
    (void)arg;
    while (atomic_load(&polling))
        poller_wait(poller, -1);
    return NULL;
}

static int start_polled(void **state)
{
    struct err err = ERR_INIT;

    start_real(state);
    poller = poller_new(&err);
    assert_non_null(poller);
    polling = true;
    for (int i = 0; i < POLL_THREADS; i++)
        pthread_create(&poll_threads[i], NULL, poll_main, NULL);
    return 0;
}

static int stop_polled(void **state)
{
    polling = false;
    poller_close(poller);
    for (int i = 0; i < POLL_THREADS; i++)
        pthread_join(poll_threads[i], NULL);
    poller_free(poller);
    poller = NULL;
    return stop_real(state);
}

/* For what follows a failed test that had killed or stopped it. */
static int revive_real(void **state)
{
    (void)state;
    if (real.pid == 0)
        real_launch(&real);
    return kill(real.pid, SIGCONT);
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

static struct config config_for(char *address)
{
    static char none[] = "", key[] = "hist:{user_id}", element[] = "id";

    return (struct config){
        .redis_address = address,
        .redis_user = none,
        .redis_password_file = none,
        .redis_connections = 2,
        .redis_connect_ms = 500,
        .redis_timeout_ms = 1000,
        .behaviour_key = key,
        .behaviour_element = element,
        .behaviour_exposed_key = none,
        .behaviour_read = 100,
    };
}

/* One job and what became of it. */
struct asked {
    struct behaviour_job job;
    struct arena arena;
    int calls;
    uint64_t submitted_ns, done_ns;
    bool by_stage; /* done by a thread of the stage's own */
};

static pthread_mutex_t done_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t done_cond = PTHREAD_COND_INITIALIZER;

static void done(struct behaviour_job *job)
{
    struct asked *a = job->owner;
    char name[16];

    pthread_getname_np(pthread_self(), name, sizeof name);
    pthread_mutex_lock(&done_lock);
    a->calls++;
    a->done_ns = clock_ns();
    a->by_stage = strcmp(name, "behaviour") == 0 || strcmp(name, "timekeeper") == 0;
    pthread_cond_broadcast(&done_cond);
    pthread_mutex_unlock(&done_lock);
}

static bool submit_unflushed(struct behaviour *b, struct asked *a, const char *user, uint64_t ms)
{
    *a = (struct asked){.arena = ARENA_INIT};
    a->submitted_ns = clock_ns();
    a->job = (struct behaviour_job){.user_id = str_of(user),
                                    .deadline_ns = in_ms(ms),
                                    .arena = &a->arena,
                                    .done = done,
                                    .owner = a};
    return behaviour_submit(b, &a->job);
}

static bool submit(struct behaviour *b, struct asked *a, const char *user, uint64_t ms)
{
    bool taken = submit_unflushed(b, a, user, ms);

    behaviour_flush(b);
    return taken;
}

static void wait_for(struct asked *a)
{
    struct timespec until;
    int late = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&done_lock);
    while (a->calls == 0 && late == 0)
        late = pthread_cond_timedwait(&done_cond, &done_lock, &until);
    pthread_mutex_unlock(&done_lock);
    assert_int_equal(a->calls, 1);
}

static uint64_t took_ms(const struct asked *a)
{
    return (a->done_ns - a->submitted_ns) / MS;
}

static const char *joined(const struct str *items, size_t n, char out[4096])
{
    size_t at = 0;

    out[0] = '\0';
    for (size_t i = 0; i < n && at < 4096; i++)
        at += (size_t)snprintf(out + at, 4096 - at, "%s%.*s", i > 0 ? "," : "", (int)items[i].len,
                               items[i].p);
    return out;
}

/* Submits, waits, compares; `items` NULL when the status alone matters. */
static void expect(struct behaviour *b, const char *user, enum behaviour_status status,
                   const char *items)
{
    struct asked a;
    char text[4096];

    assert_true(submit(b, &a, user, 5000));
    wait_for(&a);
    assert_int_equal(a.job.status, status);
    if (items != NULL)
        assert_string_equal(joined(a.job.items, a.job.n_items, text), items);
    arena_clear(&a.arena);
}

static void expect_read_one(const struct config *cfg, const char *user, const char *items)
{
    struct asked a = {.arena = ARENA_INIT};
    struct err err = ERR_INIT;
    char text[4096];

    a.job = (struct behaviour_job){
        .user_id = str_of(user), .deadline_ns = in_ms(5000), .arena = &a.arena};
    assert_int_equal(behaviour_read_one(cfg, &a.job, &err), 0);
    assert_string_equal(joined(a.job.items, a.job.n_items, text), items);
    arena_clear(&a.arena);
}

static void nothing(const struct redis_command *cmd, const struct redis_result *res)
{
    (void)cmd;
    assert_int_equal(res->outcome, REDIS_REPLIED);
}

/* A command that prepares the real server. */
static void prepare(const char *first, ...)
{
    struct str argv[16];
    struct redis_command cmd = {.argv = argv, .deadline_ns = in_ms(5000)};
    struct redis_options o = {real.path, "", "", 0, 1000, 1000};
    struct err err = ERR_INIT;
    struct redis_conn *c = redis_conn_new(&o, NULL, &err);
    va_list args;

    va_start(args, first);
    for (const char *word = first; word != NULL; word = va_arg(args, const char *))
        argv[cmd.argc++] = str_of(word);
    va_end(args);
    redis_run(c, &cmd, 1, nothing);
    redis_conn_free(c);
}

static struct behaviour *started(const struct config *cfg)
{
    struct err err = ERR_INIT;
    struct behaviour *b = behaviour_start(cfg, 1024, poller, &err);

    assert_string_equal(err.text, "");
    return b;
}

static void wait_for_state(struct behaviour *b, const char *state, uint64_t ms)
{
    uint64_t until = in_ms(ms);

    while (strcmp(behaviour_state(b), state) != 0 && clock_ns() < until)
        sleep_ms(1);
    assert_string_equal(behaviour_state(b), state);
}

/* A scrape soon holds this line. */
static void wait_for_metric(const char *line)
{
    char *whole = xasprintf("\n%s\n", line);
    struct buf text = BUF_INIT;
    uint64_t until = in_ms(10000);
    bool found = false;

    while (!found && clock_ns() < until) {
        text.len = 0;
        metrics_render(&text);
        found = strstr(buf_cstr(&text), whole) != NULL;
        sleep_ms(1);
    }
    if (!found)
        fail_msg("no scrape held %s", line);
    buf_clear(&text);
    free(whole);
}

/* ---- elements -------------------------------------------------------------------- */

#define ID_256                                                         \
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" \
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" \
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" \
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* `id` NULL = malformed. */
static const struct {
    const char *form, *element, *id;
} elements[] = {
    {"id", "42", "42"},
    {"id", "007", "007"},
    {"id", "a:b:c", "a:b:c"},
    {"id", " x ", " x "},
    {"id", "\xc3\xa9t\xc3\xa9", "\xc3\xa9t\xc3\xa9"},
    {"id", ID_256, ID_256},
    {"id", "", NULL},
    {"id", ID_256 "x", NULL},
    {"id", "\xff", NULL},
    {"id", "caf\xc3", NULL},
    {"id:ts", "42:1700000000", "42"},
    {"id:ts", "42:1700000000.25", "42"},
    {"id:ts", "42:-1", "42"},
    {"id:ts", "a:b:7", "a:b"},
    {"id:ts", "a::7", "a:"},
    {"id:ts", "42", NULL},
    {"id:ts", "42:", NULL},
    {"id:ts", ":1700000000", NULL},
    {"id:ts", "42:soon", NULL},
    {"id:ts", "42: 7", NULL},
    {"id:ts", "42:7:x", NULL},
    {"id:ts", "42:nan", NULL},
    {"id:ts", "42:inf", NULL},
    {"id:ts", "42:1e999", NULL},
    {"id:ts", "\xff:7", NULL},
    {"id:ts", ID_256 "x:7", NULL},
    {"json:item", "{\"item\":\"42\"}", "42"},
    {"json:item", "{\"ts\":7,\"item\":\"a b\",\"tags\":[1,{\"item\":2}]}", "a b"},
    {"json:item", "{\"item\":42}", "42"},
    {"json:item", "{\"item\":-42}", "-42"},
    {"json:item", "{\"item\":9223372036854775807}", "9223372036854775807"},
    {"json:item", "{\"item\":\"\\u00e9\\n\"}", "\xc3\xa9\n"},
    {"json:item", "{\"item\":\"" ID_256 "\"}", ID_256},
    {"json:a.b", "{\"a.b\":\"x\",\"a\":{\"b\":\"y\"}}", "x"},
    {"json:id:ts", "{\"id:ts\":\"x\"}", "x"},
    {"json:item", "{\"item\":\"" ID_256 "x\"}", NULL},
    {"json:item", "{\"item\":\"\"}", NULL},
    {"json:item", "{\"item\":1.0}", NULL},
    {"json:item", "{\"item\":1e3}", NULL},
    {"json:item", "{\"item\":9223372036854775808}", NULL},
    {"json:item", "{\"item\":null}", NULL},
    {"json:item", "{\"item\":true}", NULL},
    {"json:item", "{\"item\":[\"42\"]}", NULL},
    {"json:item", "{\"item\":{\"item\":\"42\"}}", NULL},
    {"json:item", "{\"Item\":\"42\"}", NULL},
    {"json:item", "{}", NULL},
    {"json:item", "[\"item\",\"42\"]", NULL},
    {"json:item", "\"item\"", NULL},
    {"json:item", "42", NULL},
    {"json:item", "{\"item\":\"42\"", NULL},
    {"json:item", "{\"item\":\"42\"} x", NULL},
    {"json:item", "{\"item\":\"1\",\"item\":\"2\"}", NULL},
    {"json:item", "{\"item\":\"\xff\"}", NULL},
    {"json:item", "", NULL},
};

static void elements_of_every_form_are_decoded_or_malformed(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(elements); i++) {
        struct err err = ERR_INIT;
        struct behaviour_element *e = behaviour_element_new(elements[i].form, &err);
        struct arena scratch = ARENA_INIT;
        struct str id = {NULL, 0};
        bool ok = behaviour_element_decode(e, str_of(elements[i].element), &scratch, &id);

        if (ok != (elements[i].id != NULL))
            fail_msg("%s: %s: decoded: %d", elements[i].form, elements[i].element, ok);
        if (ok) {
            assert_int_equal(id.len, strlen(elements[i].id));
            assert_memory_equal(id.p, elements[i].id, id.len);
        }
        arena_clear(&scratch);
        behaviour_element_free(e);
    }
}

/* What the header says of json:item, by jansson alone. */
static bool judged(struct str element, struct buf *id)
{
    json_error_t why;
    json_t *object =
        json_loadb(element.p, element.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    const json_t *item = json_object_get(object, "item");
    bool ok;

    id->len = 0;
    if (json_is_integer(item))
        buf_printf(id, "%lld", (long long)json_integer_value(item));
    else if (json_is_string(item))
        buf_put(id, json_string_value(item), json_string_length(item));
    ok = id->len > 0 && id->len <= 256 && utf8_valid(id->p, id->len);
    json_decref(object);
    return ok;
}

static const char *one_of(uint64_t *chance, const char *const *words, size_t n)
{
    *chance = *chance * 6364136223846793005u + 1442695040888963407u;
    return words[(*chance >> 33) % n];
}

/* Objects of a few fields; now and then a word stands where it should not. */
static void write_by_chance(struct buf *text, uint64_t *chance)
{
    static const char *const names[] = {"\"item\"", "\"item\"", "\"ts\"", "\"x\"", "\"\""};
    static const char *const values[] = {
        "\"42\"",
        "\"a b\"",
        "42",
        "-7",
        "-0",
        "0",
        "07",
        "1.5",
        "1.",
        "1e3",
        "\"\"",
        "null",
        "[1]",
        "\"\\n\"",
        "\"\xff\"",
        "\"",
        "{}",
        "\"\x01\"",
        "\"\xc3\xa9\"",
        "1234567890123456789",
        "123456789012345678",
        "9223372036854775808",
    };
    static const char *const signs[] = {"{", "}", ",", ":", " ", "\n", "x", ""};
    static const char *const next[] = {",", ",", "}", "}", " }", " ,\t"};
    static const char *const yes_no[] = {"", "", "", "", "", "", "", "x"};
    const char *end = ",";

    text->len = 0;
    buf_puts(text, "{");
    while (strchr(end, ',') != NULL) {
        buf_puts(text, one_of(chance, names, ARRAY_LEN(names)));
        buf_puts(text, ":");
        buf_puts(text, one_of(chance, values, ARRAY_LEN(values)));
        if (one_of(chance, yes_no, ARRAY_LEN(yes_no))[0] == 'x')
            buf_puts(text, one_of(chance, signs, ARRAY_LEN(signs)));
        end = one_of(chance, next, ARRAY_LEN(next));
        buf_puts(text, end);
    }
}

static void plain_json_is_judged_as_any_other(void **state)
{
    struct err err = ERR_INIT;
    struct behaviour_element *e = behaviour_element_new("json:item", &err);
    struct arena scratch = ARENA_INIT;
    struct buf text = BUF_INIT, want = BUF_INIT;
    uint64_t chance = 1;
    int good = 0, bad = 0;
    struct str id;

    (void)state;
    for (int i = 0; i < 100000; i++) {
        write_by_chance(&text, &chance);
        bool ok = judged((struct str){text.p, text.len}, &want);

        if (ok != behaviour_element_decode(e, (struct str){text.p, text.len}, &scratch, &id))
            fail_msg("%s: should be decoded: %d", buf_cstr(&text), ok);
        if (ok) {
            assert_int_equal(id.len, want.len);
            assert_memory_equal(id.p, want.p, id.len);
        }
        good += ok;
        bad += !ok;
        arena_reset(&scratch);
    }
    assert_true(good > 1000 && bad > 1000);
    buf_clear(&text);
    buf_clear(&want);
    arena_clear(&scratch);
    behaviour_element_free(e);
}

/* A JSON text of `depth` nested arrays beside the field. */
static bool nested_is_decoded(size_t depth)
{
    struct err err = ERR_INIT;
    struct behaviour_element *e = behaviour_element_new("json:item", &err);
    struct arena scratch = ARENA_INIT;
    struct buf text = BUF_INIT;
    struct str id;
    bool ok;

    buf_puts(&text, "{\"item\":\"x\",\"deep\":");
    for (size_t i = 0; i < depth; i++)
        buf_putc(&text, '[');
    for (size_t i = 0; i < depth; i++)
        buf_putc(&text, ']');
    buf_putc(&text, '}');
    ok = behaviour_element_decode(e, (struct str){text.p, text.len}, &scratch, &id);
    buf_clear(&text);
    arena_clear(&scratch);
    behaviour_element_free(e);
    return ok;
}

static void deep_json_is_malformed_not_fatal(void **state)
{
    (void)state;
    assert_true(nested_is_decoded(100));
    assert_false(nested_is_decoded(10000));
}

static void elements_over_64_kib_are_malformed(void **state)
{
    struct err err = ERR_INIT;
    struct behaviour_element *e = behaviour_element_new("json:item", &err);
    struct arena scratch = ARENA_INIT;
    struct buf text = BUF_INIT;
    struct str id;

    (void)state;
    buf_puts(&text, "{\"item\":\"x\",\"pad\":\"");
    while (text.len < 65536 - 2)
        buf_putc(&text, 'p');
    buf_puts(&text, "\"}");
    assert_true(behaviour_element_decode(e, (struct str){text.p, text.len}, &scratch, &id));
    buf_putc(&text, ' ');
    assert_false(behaviour_element_decode(e, (struct str){text.p, text.len}, &scratch, &id));
    buf_clear(&text);
    arena_clear(&scratch);
    behaviour_element_free(e);
}

static void unknown_element_forms_are_refused(void **state)
{
    static const char *const forms[] = {"", "ID", "id:", "ts:id", "json", "json:", "json:\xff"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct err err = ERR_INIT;

        assert_null(behaviour_element_new(forms[i], &err));
        assert_int_equal(err.code, ERR_USAGE);
        assert_memory_equal(err.text, "behaviour.element: must be id, id:ts or json:FIELD", 50);
    }
    behaviour_element_free(NULL);
}

/* ---- configuration --------------------------------------------------------------- */

static void refused(const struct config *cfg, enum err_code code, const char *text)
{
    struct err err = ERR_INIT;

    assert_null(behaviour_start(cfg, 8, NULL, &err));
    assert_int_equal(err.code, code);
    assert_string_equal(err.text, text);
}

static void keys_must_hold_the_user_id_exactly_once(void **state)
{
    char none[] = "hist", twice[] = "{user_id}:{user_id}", path[] = "/nowhere";
    struct config cfg = config_for(path);

    (void)state;
    cfg.behaviour_key = none;
    refused(&cfg, ERR_USAGE, "behaviour.key: must contain {user_id} exactly once, not \"hist\"");
    cfg = config_for(path);
    cfg.behaviour_exposed_key = twice;
    refused(
        &cfg, ERR_USAGE,
        "behaviour.exposed_key: must contain {user_id} exactly once, not \"{user_id}:{user_id}\"");
}

static void bad_address_and_password_files_are_refused(void **state)
{
    char bad[] = "localhost:x", path[] = "/nowhere", user[] = "alice", missing[] = "/nowhere/pw";
    char *dir = scratch_dir(), *file = path_join(dir, "pw");
    struct config cfg = config_for(bad);
    struct err err = ERR_INIT;
    char *text;

    (void)state;
    refused(&cfg, ERR_USAGE, "redis.address localhost:x: the port must be 1 to 65535");
    cfg = config_for(path);
    cfg.redis_user = user;
    refused(&cfg, ERR_USAGE, "redis.user: needs redis.password_file");
    cfg.redis_password_file = missing;
    assert_null(behaviour_start(&cfg, 8, NULL, &err));
    assert_memory_equal(err.text, "redis.password_file: ", 21);
    assert_non_null(strstr(err.text, "/nowhere/pw"));
    err_clear(&err);
    assert_int_equal(file_write(file, "\nsecret\n", 8, &err), 0);
    cfg.redis_password_file = file;
    text = xasprintf("redis.password_file: %s: the first line is empty", file);
    refused(&cfg, ERR_USAGE, text);
    unlink(file);
    rmdir(dir);
    free(text);
    free(file);
    free(dir);
}

static void password_file_and_user_open_the_connection(void **state)
{
    static const char *const contents[] = {"secret", "secret\n", "secret\r\n", "secret\nnote\n"};
    char *dir = scratch_dir(), *file = path_join(dir, "pw"), user[] = "carol";
    struct config cfg = config_for(real.path);
    struct err err = ERR_INIT;

    (void)state;
    prepare("ACL", "SETUSER", "carol", "on", ">secret", "~hist:*", "+lrange", NULL);
    prepare("RPUSH", "hist:pw", "one", NULL);
    cfg.redis_user = user;
    cfg.redis_password_file = file;
    for (size_t i = 0; i < ARRAY_LEN(contents); i++) {
        struct behaviour *b;

        assert_int_equal(file_write(file, contents[i], strlen(contents[i]), &err), 0);
        b = started(&cfg);
        expect(b, "pw", BEHAVIOUR_READ, "one");
        behaviour_free(b);
    }
    unlink(file);
    rmdir(dir);
    free(file);
    free(dir);
}

/* ---- what is written is read ----------------------------------------------------- */

static const char *const forms[] = {"id", "id:ts", "json:item", "json:ts"};

static void write_one(const struct config *cfg, const char *user, const char *const *ids,
                      const int64_t *ts_ms, size_t n)
{
    struct err err = ERR_INIT;
    struct redis_conn *c = behaviour_connect(cfg, &err);
    struct str items[64];
    struct behaviour_history h = {str_of(user), items, ts_ms, n};

    for (size_t i = 0; i < n; i++)
        items[i] = str_of(ids[i]);
    assert_int_equal(behaviour_write(c, cfg, &h, 1, &err), 0);
    redis_conn_free(c);
}

static void every_type_order_and_element_reads_back_what_was_written(void **state)
{
    static const char *const ids[] = {"c", "a", "b:1", "d \"q\"", "\xc3\xa9", "e"};
    static const char *const fewer[] = {"z", "y"};
    static const int64_t times[] = {1700000000000, 1700000000001, 1700000000500,
                                    1700000060000, 1700000060001, 1700000060002};
    struct config cfg = config_for(real.path);

    (void)state;
    for (int type = BEHAVIOUR_LIST; type <= BEHAVIOUR_ZSET; type++) {
        for (int order = BEHAVIOUR_NEWEST_FIRST; order <= BEHAVIOUR_OLDEST_FIRST; order++) {
            for (size_t i = 0; i < 2 * ARRAY_LEN(forms); i++) {
                char element[16];

                snprintf(element, sizeof element, "%s", forms[i / 2]);
                cfg.behaviour_type = type;
                cfg.behaviour_order = order;
                cfg.behaviour_element = element;
                write_one(&cfg, "rt", ids, i % 2 == 0 ? times : NULL, 6);
                cfg.behaviour_read = 100;
                expect_read_one(&cfg, "rt", "c,a,b:1,d \"q\",\xc3\xa9,e");
                cfg.behaviour_read = 6;
                expect_read_one(&cfg, "rt", "c,a,b:1,d \"q\",\xc3\xa9,e");
                cfg.behaviour_read = 2; /* the newest two */
                expect_read_one(&cfg, "rt", "\xc3\xa9,e");
                write_one(&cfg, "rt", fewer, NULL, 2);
                cfg.behaviour_read = 100;
                expect_read_one(&cfg, "rt", "z,y");
                write_one(&cfg, "rt", NULL, NULL, 0);
                expect_read_one(&cfg, "rt", "");
            }
        }
    }
}

static void layouts_are_what_the_header_says(void **state)
{
    static const struct {
        enum behaviour_type type;
        enum behaviour_order order;
        const char *command[8];
    } cases[] = {
        {BEHAVIOUR_LIST, BEHAVIOUR_NEWEST_FIRST, {"LPUSH", "hist:l", "old", "mid", "new"}},
        {BEHAVIOUR_LIST, BEHAVIOUR_OLDEST_FIRST, {"RPUSH", "hist:l", "old", "mid", "new"}},
        {BEHAVIOUR_ZSET,
         BEHAVIOUR_OLDEST_FIRST,
         {"ZADD", "hist:l", "100", "old", "200", "mid", "300", "new"}},
        {BEHAVIOUR_ZSET,
         BEHAVIOUR_NEWEST_FIRST,
         {"ZADD", "hist:l", "30", "old", "20", "mid", "10", "new"}},
    };
    struct config cfg = config_for(real.path);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *const *w = cases[i].command;

        prepare("DEL", "hist:l", NULL);
        prepare(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], NULL);
        cfg.behaviour_type = cases[i].type;
        cfg.behaviour_order = cases[i].order;
        cfg.behaviour_read = 100;
        expect_read_one(&cfg, "l", "old,mid,new");
        cfg.behaviour_read = 1;
        expect_read_one(&cfg, "l", "new");
    }
}

static void equal_times_keep_their_order_in_a_sorted_set(void **state)
{
    static const char *const ids[] = {"d", "c", "b", "a", "z"};
    static const int64_t times[] = {1700000000000, 1700000000000, 1700000000000, 1700000000000,
                                    1700000000001};
    struct config cfg = config_for(real.path);

    (void)state;
    cfg.behaviour_type = BEHAVIOUR_ZSET;
    for (int order = BEHAVIOUR_NEWEST_FIRST; order <= BEHAVIOUR_OLDEST_FIRST; order++) {
        cfg.behaviour_order = order;
        write_one(&cfg, "ties", ids, times, 5);
        expect_read_one(&cfg, "ties", "d,c,b,a,z");
    }
}

static void repeated_item_stays_at_its_newest_place_in_a_sorted_set(void **state)
{
    static const char *const ids[] = {"a", "b", "a"};
    struct config cfg = config_for(real.path);

    (void)state;
    write_one(&cfg, "rep", ids, NULL, 3);
    expect_read_one(&cfg, "rep", "a,b,a");
    cfg.behaviour_type = BEHAVIOUR_ZSET;
    cfg.behaviour_order = BEHAVIOUR_OLDEST_FIRST;
    write_one(&cfg, "rep", ids, NULL, 3);
    expect_read_one(&cfg, "rep", "b,a");
}

static void what_could_not_be_read_back_is_not_written(void **state)
{
    struct config cfg = config_for(real.path);
    struct err err = ERR_INIT;
    struct redis_conn *c = behaviour_connect(&cfg, &err);
    struct str good = {"x", 1}, bad[] = {{"x", 1}, {"\xff", 1}}, two[] = {{"a", 1}, {"b", 1}};
    int64_t back[] = {2, 1};
    struct behaviour_history users[] = {{{"good", 4}, &good, NULL, 1}, {{"bad", 3}, bad, NULL, 2}};
    struct behaviour_history unsorted = {{"\xff", 1}, two, back, 2};

    (void)state;
    assert_int_equal(behaviour_write(c, &cfg, users, 2, &err), -1);
    assert_int_equal(err.code, ERR_USAGE);
    assert_string_equal(err.text, "user bad: item 2: an id is 1 to 256 bytes of UTF-8");
    expect_read_one(&cfg, "good", "");
    err_clear(&err);
    assert_int_equal(behaviour_write(c, &cfg, &unsorted, 1, &err), -1);
    assert_string_equal(err.text,
                        "user (an id that is not UTF-8): item 2: older than the one before it");
    redis_conn_free(c);
}

static void refusal_while_writing_names_the_user(void **state)
{
    static const char *const ids[] = {"x"};
    struct config cfg = config_for(real.path);
    struct str item = {"y", 1};
    struct behaviour_history h = {{"full", 4}, &item, NULL, 1};
    struct err err = ERR_INIT;
    struct redis_conn *c = behaviour_connect(&cfg, &err);

    (void)state;
    write_one(&cfg, "full", ids, NULL, 1);
    prepare("CONFIG", "SET", "maxmemory", "1", NULL);
    assert_int_equal(behaviour_write(c, &cfg, &h, 1, &err), -1);
    prepare("CONFIG", "SET", "maxmemory", "0", NULL);
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_memory_equal(err.text, "redis: user full: OOM ", 22);
    expect_read_one(&cfg, "full", "x"); /* the old history, not half of the new one */
    redis_conn_free(c);
}

/* Several commands' worth of elements, several pipelines' worth of users. */
static void long_histories_and_many_users_are_written_whole(void **state)
{
    enum { LONG = 2500, USERS = 1000 };
    struct config cfg = config_for(real.path);
    struct err err = ERR_INIT;
    struct redis_conn *c = behaviour_connect(&cfg, &err);
    static char ids[LONG][8], names[USERS][8];
    static struct str items[LONG];
    static struct behaviour_history users[USERS];

    (void)state;
    for (size_t i = 0; i < LONG; i++)
        items[i] = (struct str){ids[i], (size_t)snprintf(ids[i], 8, "i%zu", i)};
    for (size_t i = 0; i < USERS; i++)
        users[i] = (struct behaviour_history){
            {names[i], (size_t)snprintf(names[i], 8, "u%zu", i)}, items + i, NULL, 3};
    users[7].items = items;
    users[7].n = LONG;
    for (int type = BEHAVIOUR_LIST; type <= BEHAVIOUR_ZSET; type++) {
        cfg.behaviour_type = type;
        assert_int_equal(behaviour_write(c, &cfg, users, USERS, &err), 0);
        cfg.behaviour_read = 4;
        expect_read_one(&cfg, "u7", "i2496,i2497,i2498,i2499");
        expect_read_one(&cfg, "u0", "i0,i1,i2");
        expect_read_one(&cfg, "u999", "i999,i1000,i1001");
        cfg.behaviour_read = 10000;
        {
            struct asked a = {.arena = ARENA_INIT};

            a.job = (struct behaviour_job){
                .user_id = {"u7", 2}, .deadline_ns = in_ms(5000), .arena = &a.arena};
            assert_int_equal(behaviour_read_one(&cfg, &a.job, &err), 0);
            assert_int_equal(a.job.n_items, LONG);
            for (size_t i = 0; i < LONG; i++) {
                assert_int_equal(a.job.items[i].len, items[i].len);
                assert_memory_equal(a.job.items[i].p, items[i].p, items[i].len);
            }
            arena_clear(&a.arena);
        }
    }
    redis_conn_free(c);
}

static void reading_one_reports_what_went_wrong(void **state)
{
    char nowhere[] = "/nowhere/redis.sock", none[] = "";
    struct config cfg = config_for(nowhere);
    struct asked a = {.arena = ARENA_INIT};
    struct err err = ERR_INIT;

    (void)state;
    a.job =
        (struct behaviour_job){.user_id = {"x", 1}, .deadline_ns = in_ms(1000), .arena = &a.arena};
    assert_int_equal(behaviour_read_one(&cfg, &a.job, &err), -1);
    assert_int_equal(a.job.status, BEHAVIOUR_ERROR);
    assert_string_equal(err.text,
                        "redis /nowhere/redis.sock: cannot connect: No such file or directory");
    err_clear(&err);
    prepare("SET", "hist:text", "v", NULL);
    cfg = config_for(real.path);
    a.job.user_id = str_of("text");
    assert_int_equal(behaviour_read_one(&cfg, &a.job, &err), -1);
    assert_int_equal(a.job.status, BEHAVIOUR_ERROR);
    assert_non_null(strstr(err.text, "WRONGTYPE"));
    err_clear(&err);
    cfg = config_for(none);
    assert_int_equal(behaviour_read_one(&cfg, &a.job, &err), 0);
    assert_int_equal(a.job.n_items, 0);
    assert_null(behaviour_connect(&cfg, &err));
    assert_string_equal(err.text, "redis.address is empty");
    arena_clear(&a.arena);
}

/* ---- the stage ------------------------------------------------------------------- */

static void stage_without_redis_hands_every_job_back_empty(void **state)
{
    char none[] = "";
    struct config cfg = config_for(none);
    struct behaviour *b = started(&cfg);

    (void)state;
    assert_string_equal(behaviour_state(b), "off");
    expect(b, "anyone", BEHAVIOUR_READ, "");
    behaviour_free(b);
    behaviour_free(NULL);
    behaviour_stop(NULL);
}

static void first_job_is_answered_though_nothing_is_connected_yet(void **state)
{
    struct config cfg = config_for(real.path);

    (void)state;
    prepare("DEL", "hist:first", NULL);
    prepare("LPUSH", "hist:first", "a", "b", NULL);
    for (int i = 0; i < 20; i++) {
        struct behaviour *b = started(&cfg);

        expect(b, "first", BEHAVIOUR_READ, "a,b");
        behaviour_free(b);
    }
}

static void malformed_elements_are_left_out_and_counted(void **state)
{
    struct config cfg = config_for(real.path);
    char form[] = "id:ts", text[4096];
    struct behaviour *b;
    struct asked a;
    uint64_t before;
    int malformed;

    (void)state;
    prepare("DEL", "hist:mal", NULL);
    prepare("RPUSH", "hist:mal", "a:1", "b", "", "\xff:2", "c:3", NULL);
    cfg.behaviour_element = form;
    cfg.behaviour_order = BEHAVIOUR_OLDEST_FIRST;
    b = started(&cfg);
    malformed = metric_counter("recalld_behaviour_malformed_total",
                               "Stored elements that could not be decoded.", "");
    before = metric_value(malformed);
    assert_true(submit(b, &a, "mal", 5000));
    wait_for(&a);
    assert_int_equal(a.job.status, BEHAVIOUR_READ);
    assert_string_equal(joined(a.job.items, a.job.n_items, text), "a,c");
    assert_int_equal(a.job.malformed, 3);
    assert_int_equal(metric_value(malformed) - before, 3);
    arena_clear(&a.arena);
    behaviour_free(b);
}

static void exposed_items_come_with_the_history(void **state)
{
    struct config cfg = config_for(real.path);
    char key[] = "seen:{user_id}:x", text[4096];
    struct behaviour *b;
    struct asked a;

    (void)state;
    prepare("DEL", "hist:ex", "seen:ex:x", NULL);
    prepare("LPUSH", "hist:ex", "h1", "h2", NULL);
    prepare("LPUSH", "seen:ex:x", "s1", "s2", "s3", NULL);
    cfg.behaviour_exposed_key = key;
    b = started(&cfg);
    assert_true(submit(b, &a, "ex", 5000));
    wait_for(&a);
    assert_int_equal(a.job.status, BEHAVIOUR_READ);
    assert_string_equal(joined(a.job.items, a.job.n_items, text), "h1,h2");
    assert_string_equal(joined(a.job.exposed, a.job.n_exposed, text), "s1,s2,s3");
    arena_clear(&a.arena);
    prepare("DEL", "seen:ex:x", NULL);
    prepare("SET", "seen:ex:x", "not a list", NULL);
    assert_true(submit(b, &a, "ex", 5000));
    wait_for(&a);
    assert_int_equal(a.job.status, BEHAVIOUR_ERROR);
    assert_string_equal(joined(a.job.items, a.job.n_items, text), "h1,h2");
    assert_int_equal(a.job.n_exposed, 0);
    arena_clear(&a.arena);
    behaviour_free(b);
}

static void unknown_user_is_read_and_wrong_type_is_an_error_of_one(void **state)
{
    struct config cfg = config_for(real.path);
    struct behaviour *b = started(&cfg);

    (void)state;
    prepare("SET", "hist:wrong", "v", NULL);
    for (int i = 0; i < 10; i++) /* twice what would open the breaker */
        expect(b, "wrong", BEHAVIOUR_ERROR, "");
    expect(b, "nobody", BEHAVIOUR_READ, "");
    assert_string_equal(behaviour_state(b), "up");
    behaviour_free(b);
}

enum { CLIENTS = 4, PER_CLIENT = 500, WINDOW = 50 };

/* Submits in windows; every user's answer must be the user's own. */
static void *client_main(void *arg)
{
    struct behaviour *b = arg;
    struct asked *jobs = xcalloc(WINDOW, sizeof *jobs);
    char names[WINDOW][16], want[32], text[4096];
    size_t wrong = 0;

    for (int i = 0; i < PER_CLIENT; i += WINDOW) {
        for (int k = 0; k < WINDOW; k++) {
            snprintf(names[k], sizeof names[k], "m%d", (i + k) % 100);
            while (!submit(b, &jobs[k], names[k], 5000))
                sleep_ms(1);
        }
        for (int k = 0; k < WINDOW; k++) {
            wait_for(&jobs[k]);
            snprintf(want, sizeof want, "old-%.9s,new-%.9s", names[k], names[k]);
            if (jobs[k].job.status != BEHAVIOUR_READ ||
                strcmp(joined(jobs[k].job.items, jobs[k].job.n_items, text), want) != 0)
                wrong++;
            arena_clear(&jobs[k].arena);
        }
    }
    free(jobs);
    return (void *)wrong;
}

static void many_threads_get_their_own_answers(void **state)
{
    struct config cfg = config_for(real.path);
    struct behaviour *b = started(&cfg);
    pthread_t clients[CLIENTS];
    void *wrong;

    (void)state;
    for (int i = 0; i < 100; i++) {
        char key[32], old[32], new[32];

        snprintf(key, sizeof key, "hist:m%d", i);
        snprintf(old, sizeof old, "old-m%d", i);
        snprintf(new, sizeof new, "new-m%d", i);
        prepare("DEL", key, NULL);
        prepare("LPUSH", key, old, new, NULL);
    }
    for (int i = 0; i < CLIENTS; i++)
        pthread_create(&clients[i], NULL, client_main, b);
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(clients[i], &wrong);
        assert_null(wrong);
    }
    assert_int_equal(behaviour_depth(b), 0);
    behaviour_free(b);
}

static void user_ids_are_arbitrary_bytes(void **state)
{
    static const char id[] = "a\0b\r\n{user_id}\xff";
    struct config cfg = config_for(real.path);
    struct str user = {id, sizeof id - 1}, item = {"mine", 4};
    struct behaviour_history h = {user, &item, NULL, 1};
    struct err err = ERR_INIT;
    struct redis_conn *c = behaviour_connect(&cfg, &err);
    struct behaviour *b = started(&cfg);
    struct asked a = {.arena = ARENA_INIT};
    char text[64 * 64];

    (void)state;
    assert_int_equal(behaviour_write(c, &cfg, &h, 1, &err), 0);
    a.job = (struct behaviour_job){
        .user_id = user, .deadline_ns = in_ms(5000), .arena = &a.arena, .done = done, .owner = &a};
    assert_true(behaviour_submit(b, &a.job));
    behaviour_flush(b);
    wait_for(&a);
    assert_string_equal(joined(a.job.items, a.job.n_items, text), "mine");
    arena_clear(&a.arena);
    behaviour_free(b);
    redis_conn_free(c);
}

static void finish(struct asked *jobs, int n, enum behaviour_status status)
{
    for (int i = 0; i < n; i++) {
        wait_for(&jobs[i]);
        assert_int_equal(jobs[i].job.status, status);
        arena_clear(&jobs[i].arena);
    }
}

/* The pipelines so far. */
static uint64_t pipelines(void)
{
    return metric_value(metric_histogram(
        "recalld_redis_seconds", "Pipelines to Redis, until every command was answered or late.",
        "", metric_stage_bounds, METRIC_STAGE_BOUNDS_N));
}

/* The first lives while the others are submitted; all wait for the only connection. */
static void one_pipeline_asks_for_all_that_wait(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}", users[40][8];
    struct asked busy, jobs[40];
    struct behaviour *b;
    uint64_t before;

    cfg.behaviour_key = key;
    cfg.redis_connections = 1;
    b = started(&cfg);
    wait_for_metric("recalld_redis_connections_up 1");
    before = pipelines();
    assert_true(submit(b, &busy, "late:60:busy", 5000));
    while (f->commands == 0)
        sleep_ms(1);
    for (int i = 0; i < 40; i++) {
        snprintf(users[i], sizeof users[i], "u%d", i);
        assert_true(submit(b, &jobs[i], users[i], 5000));
    }
    finish(&busy, 1, BEHAVIOUR_READ);
    finish(jobs, 40, BEHAVIOUR_READ);
    behaviour_stop(b);
    assert_int_equal(pipelines() - before, 2);
    behaviour_free(b);
}

static void reply_in_pieces_is_read_whole(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}", users[20][16], text[4096];
    struct asked jobs[20];
    struct behaviour *b;

    cfg.behaviour_key = key;
    b = started(&cfg);
    for (int i = 0; i < 20; i++) {
        snprintf(users[i], sizeof users[i], "split-%d", i);
        assert_true(submit(b, &jobs[i], users[i], 5000));
    }
    for (int i = 0; i < 20; i++) {
        wait_for(&jobs[i]);
        assert_int_equal(jobs[i].job.status, BEHAVIOUR_READ);
        assert_string_equal(joined(jobs[i].job.items, jobs[i].job.n_items, text), users[i]);
        arena_clear(&jobs[i].arena);
    }
    behaviour_free(b);
}

/* Nobody may forget them, or hand one back twice. */
static void stopping_while_pipelines_are_on_their_way_hands_all_back(void **state)
{
    struct config cfg = config_for(real.path);
    struct asked jobs[50];

    (void)state;
    cfg.redis_connections = 4;
    for (int round = 0; round < 50; round++) {
        struct behaviour *b = started(&cfg);

        if (round % 4 > 0)
            wait_for_state(b, "up", 5000);
        for (int i = 0; i < 50; i++)
            assert_true((i % 8 > 0 ? submit_unflushed : submit)(b, &jobs[i], "u", 5000));
        behaviour_stop(b);
        for (int i = 0; i < 50; i++) {
            assert_int_equal(jobs[i].calls, 1);
            assert_true(jobs[i].job.status == BEHAVIOUR_READ ||
                        jobs[i].job.status == BEHAVIOUR_BREAKER);
            arena_clear(&jobs[i].arena);
        }
        behaviour_free(b);
    }
}

/* ---- with a poller --------------------------------------------------------------- */

/* How often threads of that name gave up their core by themselves. */
static long switches(const char *name)
{
    DIR *tasks = opendir("/proc/self/task");
    char path[64], line[256];
    long sum = 0, n;

    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        bool mine = false;
        FILE *f;

        snprintf(path, sizeof path, "/proc/self/task/%.16s/status", task->d_name);
        f = fopen(path, "r");
        if (f == NULL)
            continue;
        while (fgets(line, sizeof line, f) != NULL) {
            if (strncmp(line, "Name:\t", 6) == 0)
                mine = strncmp(line + 6, name, strlen(name)) == 0;
            if (mine && sscanf(line, "voluntary_ctxt_switches: %ld", &n) == 1)
                sum += n;
        }
        fclose(f);
    }
    closedir(tasks);
    return sum;
}

static void threads_of_the_stage_sleep_while_all_goes_well(void **state)
{
    enum { N = 2000 };
    struct config cfg = config_for(real.path);
    struct behaviour *b = started(&cfg);
    struct asked a;
    int by_stage = 0;
    long before;

    (void)state;
    wait_for_metric("recalld_redis_connections_up 2");
    expect(b, "u", BEHAVIOUR_READ, "");
    before = switches("behaviour") + switches("timekeeper");
    for (int i = 0; i < N; i++) {
        assert_true(submit(b, &a, "u", 1000));
        wait_for(&a);
        assert_int_equal(a.job.status, BEHAVIOUR_READ);
        by_stage += a.by_stage;
        arena_clear(&a.arena);
    }
    assert_true(by_stage < N / 10);
    assert_true(switches("behaviour") + switches("timekeeper") - before < N / 10);
    behaviour_free(b);
}

/* What is submitted waits for the flush, and goes in one pipeline. */
static void flush_sends_one_pipeline(void **state)
{
    struct config cfg = config_for(real.path);
    struct behaviour *b = started(&cfg);
    struct asked jobs[40];
    uint64_t before;

    (void)state;
    wait_for_metric("recalld_redis_connections_up 2");
    sleep_ms(20); /* both are lent */
    before = pipelines();
    for (int i = 0; i < 40; i++)
        assert_true(submit_unflushed(b, &jobs[i], "u", 5000));
    behaviour_flush(b);
    finish(jobs, 40, BEHAVIOUR_READ);
    behaviour_stop(b);
    assert_int_equal(pipelines() - before, 1);
    behaviour_flush(b);
    behaviour_free(b);
}

/* ---- when Redis fails ------------------------------------------------------------ */

/* As many jobs as there are connections that keep them busy, so that what comes next waits. */
static void keep_busy(struct behaviour *b, struct fake_redis *f, struct asked *jobs, int n)
{
    for (int i = 0; i < n; i++) {
        int before = f->commands;

        assert_true(submit(b, &jobs[i], "late:60:busy", 2000));
        while (f->commands == before)
            sleep_ms(1);
    }
}

static void hung_key_hurts_nobody_else(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}", exposed[] = "{user_id}:x", users[40][8], text[4096];
    struct asked busy[2], hung, others[40], late;
    struct behaviour *b;

    cfg.behaviour_key = key;
    cfg.behaviour_exposed_key = exposed;
    cfg.redis_timeout_ms = 300;
    b = started(&cfg);
    wait_for_metric("recalld_redis_connections_up 2");
    keep_busy(b, f, busy, 2);
    assert_true(
        submit(b, &hung, "hang", 1000)); /* into one pipeline with the others, before them */
    for (int i = 0; i < 40; i++) {
        snprintf(users[i], sizeof users[i], "u%d", i);
        assert_true(submit(b, &others[i], users[i], 5000));
    }
    finish(busy, 2, BEHAVIOUR_READ);
    for (int i = 0; i < 40; i++) {
        wait_for(&others[i]);
        assert_int_equal(others[i].job.status, BEHAVIOUR_READ);
        assert_string_equal(joined(others[i].job.items, others[i].job.n_items, text), users[i]);
        assert_int_equal(others[i].job.n_exposed, 1);
        arena_clear(&others[i].arena);
    }
    wait_for(&hung);
    assert_int_equal(hung.job.status, BEHAVIOUR_TIMEOUT);
    assert_true(took_ms(&hung) >= 999); /* it had all its time */
    for (int i = 0; i < 40; i++)
        assert_true(others[i].done_ns < hung.done_ns);
    for (int i = 0; i < 10; i++) { /* the reply comes after the deadline, on its old connection */
        assert_true(submit(b, &late, "late:150:other", 20));
        wait_for(&late);
        assert_int_equal(late.job.status, BEHAVIOUR_TIMEOUT);
        assert_int_equal(late.job.n_items, 0);
        expect(b, "me", BEHAVIOUR_READ, "me");
        arena_clear(&late.arena);
    }
    arena_clear(&hung.arena);
    behaviour_free(b);
}

/* Both connections meet the key at once; one gives it up, and the rest do not ask. */
static void many_jobs_of_a_hung_key_hold_one_connection(void **state)
{
    enum { N = 200 };
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    struct asked *hung = xcalloc(N, sizeof *hung), *others = xcalloc(N, sizeof *others);
    char key[] = "{user_id}";
    bool one_waited = false;
    uint64_t last_ns = 0;
    struct behaviour *b;

    cfg.behaviour_key = key;
    cfg.redis_timeout_ms = 300;
    b = started(&cfg);
    wait_for_metric("recalld_redis_connections_up 2");
    for (int i = 0; i < N; i++) {
        assert_true(submit(b, &hung[i], "hang", 1000));
        assert_true(submit(b, &others[i], "u", 5000));
    }
    finish(others, N, BEHAVIOUR_READ);
    finish(hung, N, BEHAVIOUR_TIMEOUT);
    for (int i = 0; i < N; i++) {
        one_waited |= took_ms(&hung[i]) >= 999;
        last_ns = others[i].done_ns > last_ns ? others[i].done_ns : last_ns;
    }
    assert_true(one_waited);
    assert_true(last_ns < hung[0].submitted_ns + 1000 * MS);
    assert_in_range(f->hung, 1, 2);
    assert_string_equal(behaviour_state(b), "up");
    behaviour_free(b);
    free(hung);
    free(others);
}

/* Asks for a user every 20 ms until the status comes. */
static void wait_for_status(struct behaviour *b, const char *user, enum behaviour_status status,
                            uint64_t ms)
{
    uint64_t until = in_ms(ms);
    struct asked a = {.calls = 0};

    do {
        sleep_ms(20);
        assert_true(submit(b, &a, user, 100));
        wait_for(&a);
        arena_clear(&a.arena);
    } while (a.job.status != status && clock_ns() < until);
    assert_int_equal(a.job.status, status);
}

static void hung_key_alone_opens_no_breaker_and_is_read_once_it_answers(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}";
    struct behaviour *b;
    uint64_t until;
    struct asked a;

    cfg.behaviour_key = key;
    cfg.redis_timeout_ms = 100;
    for (int connections = 1; connections <= 2; connections++) {
        cfg.redis_connections = connections;
        f->well = false;
        f->hung = 0;
        b = started(&cfg);
        wait_for_state(b, "up", 5000);
        until = in_ms(20000);
        while (f->hung < 6 && clock_ns() < until) { /* more often than what opens the breaker */
            assert_true(submit(b, &a, "hang", 100));
            wait_for(&a);
            assert_int_equal(a.job.status, BEHAVIOUR_TIMEOUT);
            arena_clear(&a.arena);
            sleep_ms(20);
        }
        assert_int_equal(f->hung, 6);
        expect(b, "u", BEHAVIOUR_READ, "u");
        f->well = true;
        wait_for_status(b, "hang", BEHAVIOUR_READ, 1000);
        expect(b, "hang", BEHAVIOUR_READ, "hang");
        behaviour_free(b);
    }
}

static void key_that_is_merely_slow_is_read_every_time(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}", exposed[] = "x:{user_id}";
    struct behaviour *b;
    struct asked a;

    cfg.behaviour_key = key;
    cfg.behaviour_exposed_key = exposed;
    cfg.redis_timeout_ms = 150;
    for (cfg.redis_connections = 1; cfg.redis_connections <= 2; cfg.redis_connections++) {
        b = started(&cfg);
        wait_for_state(b, "up", 5000);
        for (int i = 0; i < 3; i++) {
            assert_true(submit(b, &a, "late:140:slow", 5000));
            wait_for(&a);
            assert_int_equal(a.job.status, BEHAVIOUR_READ);
            assert_int_equal(a.job.n_items, 1);
            assert_int_equal(a.job.n_exposed, 1);
            arena_clear(&a.arena);
            expect(b, "u", BEHAVIOUR_READ, "u");
        }
        behaviour_free(b);
    }
}

static void deadlines_are_kept_while_every_connection_waits(void **state)
{
    static const uint64_t ms[] = {400, 50, 200, 100};
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}";
    struct asked hung, jobs[ARRAY_LEN(ms)];
    struct behaviour *b;

    cfg.behaviour_key = key;
    cfg.redis_connections = 1;
    b = started(&cfg);
    assert_true(submit(b, &hung, "hang", 1200));
    while (f->commands == 0)
        sleep_ms(1);
    for (size_t i = 0; i < ARRAY_LEN(ms); i++)
        assert_true(submit(b, &jobs[i], "u", ms[i]));
    finish(jobs, ARRAY_LEN(ms), BEHAVIOUR_TIMEOUT);
    finish(&hung, 1, BEHAVIOUR_TIMEOUT);
    assert_int_equal(f->commands, 1);
    for (size_t i = 0; i < ARRAY_LEN(ms); i++) {
        assert_true(took_ms(&jobs[i]) >= ms[i] - 1);
        assert_true(jobs[i].done_ns < hung.done_ns);
    }
    assert_true(jobs[1].done_ns < jobs[0].done_ns); /* not in their order */
    behaviour_free(b);
}

static void job_past_its_deadline_is_not_asked(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    struct behaviour *b = started(&cfg);
    struct asked a;

    wait_for_state(b, "up", 5000);
    assert_true(submit(b, &a, "x", 0));
    wait_for(&a);
    assert_int_equal(a.job.status, BEHAVIOUR_TIMEOUT);
    assert_int_equal(f->commands, 0);
    arena_clear(&a.arena);
    behaviour_free(b);
}

static void full_stage_takes_no_more_and_stopping_hands_all_back(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}";
    struct err err = ERR_INIT;
    struct asked hung, waiting[3], refused_job;
    struct behaviour *b;

    cfg.behaviour_key = key;
    cfg.redis_connections = 1;
    b = behaviour_start(&cfg, 3, poller, &err);
    assert_true(submit(b, &hung, "hang", 400));
    while (f->commands == 0)
        sleep_ms(1);
    for (int i = 0; i < 3; i++)
        assert_true(submit(b, &waiting[i], "x", 60000));
    assert_int_equal(behaviour_depth(b), 3);
    assert_false(submit(b, &refused_job, "y", 60000));
    assert_int_equal(refused_job.job.status, BEHAVIOUR_BREAKER);
    assert_int_equal(refused_job.calls, 0);
    behaviour_stop(b);
    assert_int_equal(hung.calls, 1);
    assert_int_equal(hung.job.status, BEHAVIOUR_TIMEOUT);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(waiting[i].calls, 1);
        assert_int_equal(waiting[i].job.status, BEHAVIOUR_BREAKER);
    }
    assert_false(submit(b, &refused_job, "y", 60000));
    behaviour_stop(b);
    behaviour_free(b);
    arena_clear(&hung.arena);
}

static void errors_of_the_server_open_the_breaker(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}";
    struct asked a;
    struct behaviour *b;
    bool taken = true;
    int asked = 0;

    cfg.behaviour_key = key;
    cfg.redis_connections = 1;
    b = started(&cfg);
    wait_for_state(b, "up", 5000);
    while (asked < 20 && taken) {
        taken = submit(b, &a, "raw:-MOVED 1 127.0.0.1:1\r\n", 1000);
        if (taken)
            wait_for(&a);
        taken = a.job.status != BEHAVIOUR_BREAKER; /* it may open while a job waits */
        if (taken) {
            assert_int_equal(a.job.status, BEHAVIOUR_ERROR);
            asked++;
        }
        arena_clear(&a.arena);
    }
    assert_int_equal(asked, 5);
    wait_for_state(b, "up", 1000); /* PING is answered: it may be tried again */
    expect(b, "fine", BEHAVIOUR_READ, "fine");
    behaviour_free(b);
}

/* Asks for ever other users until the breaker refuses; returns how many were asked. */
static int ask_until_refused(struct behaviour *b, enum behaviour_status status)
{
    char user[16] = "u0";
    struct asked a;
    int n = 0;

    while (n < 1000 && submit(b, &a, user, 30)) {
        wait_for(&a);
        snprintf(user, sizeof user, "u%d", n + 1);
        if (a.job.status != BEHAVIOUR_BREAKER) /* it may open while a job waits */
            assert_int_equal(a.job.status, status);
        arena_clear(&a.arena);
        n++;
    }
    assert_int_equal(a.job.status, BEHAVIOUR_BREAKER);
    assert_int_equal(a.calls, 0);
    return n;
}

static void breaker_opens_and_heals_within_a_second_of_a_restart(void **state)
{
    struct config cfg = config_for(real.path);
    struct behaviour *b;
    uint64_t start;
    struct asked a;

    (void)state;
    for (int round = 0; round < 2; round++) {
        cfg.redis_address = round == 0 ? real.path : real.tcp;
        b = started(&cfg);
        wait_for_state(b, "up", 5000);
        real_kill(&real);
        assert_in_range(ask_until_refused(b, BEHAVIOUR_ERROR), 0, 12);
        assert_string_equal(behaviour_state(b), "down");
        sleep_ms(1500); /* the back-off is at its longest */
        start = clock_ns();
        assert_false(submit(b, &a, "u", 1000));
        assert_true(clock_ns() - start < 50 * MS); /* at once */
        real_launch(&real);
        wait_for_state(b, "up", 1000);
        expect(b, "u", BEHAVIOUR_READ, "");
        behaviour_free(b);
    }
}

static void stopped_redis_costs_jobs_no_more_than_their_time(void **state)
{
    struct config cfg = config_for(real.path);
    struct asked jobs[20];
    struct behaviour *b;

    (void)state;
    cfg.redis_timeout_ms = 200;
    b = started(&cfg);
    wait_for_metric("recalld_redis_connections_up 2");
    expect(b, "u", BEHAVIOUR_READ, "");
    kill(real.pid, SIGSTOP);
    for (int i = 0; i < 20; i++)
        assert_true(submit(b, &jobs[i], "u", 60));
    for (int i = 0; i < 20; i++) {
        wait_for(&jobs[i]);
        assert_int_equal(jobs[i].job.status, BEHAVIOUR_TIMEOUT);
        assert_in_range(took_ms(&jobs[i]), 59, 1000);
        arena_clear(&jobs[i].arena);
    }
    kill(real.pid, SIGCONT);
    wait_for_status(b, "u", BEHAVIOUR_READ, 1000);
    behaviour_free(b);
}

static void connection_lost_within_a_reply_is_an_error_of_those_on_it(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}";
    struct behaviour *b;
    struct asked a;

    cfg.behaviour_key = key;
    b = started(&cfg);
    wait_for_metric("recalld_redis_connections_up 2");
    for (int i = 0; i < 10; i++) {
        expect(b, "close", BEHAVIOUR_ERROR, "");
        expect(b, "u", BEHAVIOUR_READ, "u");
        expect(b, "raw:what?\r\n", BEHAVIOUR_ERROR, "");
        expect(b, "u", BEHAVIOUR_READ, "u");
        assert_true(submit(b, &a, "half:*1\r\n$9\r\nab", 30));
        wait_for(&a);
        assert_int_equal(a.job.status, BEHAVIOUR_TIMEOUT);
        arena_clear(&a.arena);
        expect(b, "u", BEHAVIOUR_READ, "u");
        expect(b, "raw:*1\r\n$1\r\nx\r\n+stray\r\n", BEHAVIOUR_READ, "x");
        expect(b, "u", BEHAVIOUR_READ, "u");
    }
    behaviour_free(b);
}

static void stopped_redis_opens_the_breaker_and_going_on_closes_it(void **state)
{
    struct config cfg = config_for(real.path);
    struct behaviour *b;

    (void)state;
    cfg.redis_timeout_ms = 30;
    b = started(&cfg);
    wait_for_state(b, "up", 5000);
    expect(b, "u", BEHAVIOUR_READ, "");
    kill(real.pid, SIGSTOP);
    assert_in_range(ask_until_refused(b, BEHAVIOUR_TIMEOUT), 1, 12);
    kill(real.pid, SIGCONT);
    wait_for_state(b, "up", 1000);
    expect(b, "u", BEHAVIOUR_READ, "");
    behaviour_free(b);
}

static void restart_while_idle_costs_no_job(void **state)
{
    struct config cfg = config_for(real.path);
    struct behaviour *b = started(&cfg);

    (void)state;
    wait_for_state(b, "up", 5000);
    for (unsigned i = 0; i < 4; i++) {
        real_kill(&real);
        real_launch(&real);
        sleep_ms(60 * i); /* before and after an idle thread has noticed */
        wait_for_state(b, "up", 5000);
        expect(b, "u", BEHAVIOUR_READ, "");
    }
    behaviour_free(b);
}

static void idle_stage_notices_that_redis_is_gone_and_back(void **state)
{
    struct config cfg = config_for(real.path);
    struct behaviour *b = started(&cfg);

    (void)state;
    wait_for_state(b, "up", 5000);
    real_kill(&real);
    wait_for_state(b, "down", 5000);
    wait_for_metric("recalld_redis_breaker_open 1");
    wait_for_metric("recalld_redis_connections_up 0");
    real_launch(&real);
    wait_for_state(b, "up", 5000);
    wait_for_metric("recalld_redis_breaker_open 0");
    wait_for_metric("recalld_redis_connections_up 2");
    behaviour_free(b);
}

static void stage_starts_without_redis_and_finds_it_later(void **state)
{
    struct config cfg = config_for(real.path);
    struct behaviour *b;

    (void)state;
    real_kill(&real);
    b = started(&cfg);
    wait_for_state(b, "down", 5000);
    real_launch(&real);
    wait_for_state(b, "up", 1000);
    expect(b, "u", BEHAVIOUR_READ, "");
    behaviour_free(b);
}

/* A server that takes one connection and refuses the next must be served by the one that stands. */
static void connection_that_cannot_be_had_costs_no_job(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}";
    struct behaviour *b;

    cfg.behaviour_key = key;
    cfg.redis_connections = 4;
    b = started(&cfg);
    wait_for_metric("recalld_redis_connections_up 4");
    f->greeting = "-ERR max number of clients reached\r\n";
    for (int i = 1; i < 4; i++)
        shutdown(f->fds[i], SHUT_RDWR);
    wait_for_metric("recalld_redis_connections_up 1");
    for (int i = 0; i < 300; i++) {
        expect(b, "u", BEHAVIOUR_READ, "u");
        if (i % 30 == 0)
            sleep_ms(100);
    }
    behaviour_free(b);
}

static void outcomes_are_counted(void **state)
{
    struct fake_redis *f = *state;
    struct config cfg = config_for(f->path);
    char key[] = "{user_id}";
    const char *help = "Commands sent to Redis, by outcome.",
               *name = "recalld_redis_commands_total";
    struct behaviour *b;
    uint64_t before[3];
    struct asked a;
    int ids[3];

    cfg.behaviour_key = key;
    b = started(&cfg);
    ids[0] = metric_counter(name, help, "outcome=\"replied\"");
    ids[1] = metric_counter(name, help, "outcome=\"timeout\"");
    ids[2] = metric_counter(name, help, "outcome=\"error\"");
    for (int i = 0; i < 3; i++)
        before[i] = metric_value(ids[i]);
    expect(b, "a", BEHAVIOUR_READ, "a");
    expect(b, "b", BEHAVIOUR_READ, "b");
    expect(b, "raw:-WRONGTYPE no\r\n", BEHAVIOUR_ERROR, "");
    assert_true(submit(b, &a, "hang", 20));
    wait_for(&a);
    assert_int_equal(metric_value(ids[0]) - before[0], 2);
    assert_int_equal(metric_value(ids[1]) - before[1], 1);
    assert_int_equal(metric_value(ids[2]) - before[2], 1);
    arena_clear(&a.arena);
    behaviour_free(b);
}

#define WITH_REAL(test) cmocka_unit_test_setup(test, revive_real)
#define WITH_FAKE(test) cmocka_unit_test_setup_teardown(test, start_fake, stop_fake)

int main(void)
{
    const struct CMUnitTest without[] = {
        cmocka_unit_test(elements_of_every_form_are_decoded_or_malformed),
        cmocka_unit_test(plain_json_is_judged_as_any_other),
        cmocka_unit_test(deep_json_is_malformed_not_fatal),
        cmocka_unit_test(elements_over_64_kib_are_malformed),
        cmocka_unit_test(unknown_element_forms_are_refused),
        cmocka_unit_test(keys_must_hold_the_user_id_exactly_once),
        cmocka_unit_test(bad_address_and_password_files_are_refused),
        cmocka_unit_test(password_file_and_user_open_the_connection),
        cmocka_unit_test(every_type_order_and_element_reads_back_what_was_written),
        cmocka_unit_test(layouts_are_what_the_header_says),
        cmocka_unit_test(equal_times_keep_their_order_in_a_sorted_set),
        cmocka_unit_test(repeated_item_stays_at_its_newest_place_in_a_sorted_set),
        cmocka_unit_test(what_could_not_be_read_back_is_not_written),
        cmocka_unit_test(refusal_while_writing_names_the_user),
        cmocka_unit_test(long_histories_and_many_users_are_written_whole),
        cmocka_unit_test(reading_one_reports_what_went_wrong),
    };
    const struct CMUnitTest stage[] = {
        cmocka_unit_test(stage_without_redis_hands_every_job_back_empty),
        cmocka_unit_test(first_job_is_answered_though_nothing_is_connected_yet),
        cmocka_unit_test(malformed_elements_are_left_out_and_counted),
        cmocka_unit_test(exposed_items_come_with_the_history),
        cmocka_unit_test(unknown_user_is_read_and_wrong_type_is_an_error_of_one),
        cmocka_unit_test(many_threads_get_their_own_answers),
        cmocka_unit_test(user_ids_are_arbitrary_bytes),
        cmocka_unit_test(stopping_while_pipelines_are_on_their_way_hands_all_back),
        WITH_FAKE(one_pipeline_asks_for_all_that_wait),
        WITH_FAKE(reply_in_pieces_is_read_whole),
        WITH_FAKE(hung_key_hurts_nobody_else),
        WITH_FAKE(many_jobs_of_a_hung_key_hold_one_connection),
        WITH_FAKE(hung_key_alone_opens_no_breaker_and_is_read_once_it_answers),
        WITH_FAKE(key_that_is_merely_slow_is_read_every_time),
        WITH_FAKE(deadlines_are_kept_while_every_connection_waits),
        WITH_FAKE(job_past_its_deadline_is_not_asked),
        WITH_FAKE(full_stage_takes_no_more_and_stopping_hands_all_back),
        WITH_FAKE(errors_of_the_server_open_the_breaker),
        WITH_REAL(breaker_opens_and_heals_within_a_second_of_a_restart),
        WITH_REAL(stopped_redis_costs_jobs_no_more_than_their_time),
        WITH_FAKE(connection_lost_within_a_reply_is_an_error_of_those_on_it),
        WITH_REAL(stopped_redis_opens_the_breaker_and_going_on_closes_it),
        WITH_REAL(restart_while_idle_costs_no_job),
        WITH_REAL(idle_stage_notices_that_redis_is_gone_and_back),
        WITH_REAL(stage_starts_without_redis_and_finds_it_later),
        WITH_FAKE(connection_that_cannot_be_had_costs_no_job),
        WITH_FAKE(outcomes_are_counted),
    };

    const struct CMUnitTest polled[] = {
        cmocka_unit_test(threads_of_the_stage_sleep_while_all_goes_well),
        cmocka_unit_test(flush_sends_one_pipeline),
    };

    return cmocka_run_group_tests_name("behaviour", without, start_real, stop_real) +
           cmocka_run_group_tests_name("the stage by its threads", stage, start_real, stop_real) +
           cmocka_run_group_tests_name("lent connections", polled, start_polled, stop_polled) +
           cmocka_run_group_tests_name("the stage through a poller", stage, start_polled,
                                       stop_polled);
}
