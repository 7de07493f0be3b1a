/* test_registry.c - which bundle answers: defaults, aliases, loading while serving, and what
 * survives a restart. */
#include "bundle_fixture.h"

#include <jansson.h>
#include <pthread.h>

#define PATIENCE_NS 60000000000u

/* ---- helpers ------------------------------------------------------------------------- */

static const char *one, *two,
    *one_changed; /* toy@1, toy@2, and other bytes that are called toy@1 */

static int setup(void **state)
{
    struct bundle_build b;

    folder_setup(state);
    one = build_version("one", "1");
    two = build_version("two", "2");
    b = plain_build("changed");
    b.shards = 3;
    one_changed = must_build(&b);
    return 0;
}

/* A folder for state files that is empty. */
static const char *fresh_state(void)
{
    static int n;
    char name[32];

    snprintf(name, sizeof name, "state%d", n++);
    assert_int_equal(mkdir(at(name), 0777), 0);
    return at(name);
}

static int configure(struct registry *r, const char *first, const char *second, const char *def,
                     struct err *err)
{
    const char *dirs[] = {first, second};

    return registry_configure(r, dirs, second != NULL ? 2 : first != NULL ? 1 : 0, def, err);
}

static struct registry *started(const char *state_dir, const char *first, const char *second,
                                const char *def)
{
    struct registry *r = registry_new(state_dir, 0);
    struct err err = ERR_INIT;

    if (configure(r, first, second, def, &err) == -1)
        fail_msg("%s", err.text);
    return r;
}

/* The name of what `name` finds, or "-". */
static const char *found(struct registry *r, const char *name)
{
    static char text[BUNDLE_NAME_MAX];
    const struct bundle_set *s = registry_acquire(r);
    struct bundle *b = bundle_set_find(s, name);

    snprintf(text, sizeof text, "%s", b == NULL ? "-" : bundle_name(b));
    bundle_set_release(s);
    return text;
}

static size_t count(struct registry *r)
{
    const struct bundle_set *s = registry_acquire(r);
    size_t n = bundle_set_count(s);

    bundle_set_release(s);
    return n;
}

static json_t *listed(struct registry *r)
{
    struct buf text = BUF_INIT;
    json_error_t why;
    json_t *json;

    registry_list(r, &text);
    json = json_loadb(text.p, text.len, JSON_REJECT_DUPLICATES, &why);
    if (json == NULL)
        fail_msg("%s in %s", why.text, buf_cstr(&text));
    buf_clear(&text);
    return json;
}

/* The entry of a directory, or NULL; borrowed from `list`. */
static json_t *entry(json_t *list, const char *dir)
{
    json_t *e;
    size_t i;

    json_array_foreach (json_object_get(list, "bundles"), i, e) {
        if (strcmp(json_string_value(json_object_get(e, "dir")), dir) == 0)
            return e;
    }
    return NULL;
}

static const char *member(json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s == NULL ? "" : s;
}

/* Posts a directory and waits until it is ready or failed; the caller frees the list. */
static json_t *load(struct registry *r, const char *dir)
{
    uint64_t end = clock_ns() + PATIENCE_NS;
    struct err err = ERR_INIT;

    if (registry_load_async(r, dir, &err) == -1)
        fail_msg("%s", err.text);
    while (clock_ns() < end) {
        json_t *list = listed(r), *e = entry(list, dir);

        if (e == NULL || strcmp(member(e, "state"), "loading") != 0)
            return list;
        json_decref(list);
        usleep(2000);
    }
    fail_msg("%s is still not loaded", dir);
    return NULL;
}

static void must_load(struct registry *r, const char *dir)
{
    json_t *list = load(r, dir), *e = entry(list, dir);

    if (e == NULL || strcmp(member(e, "state"), "ready") != 0)
        fail_msg("%s: %s", dir, e == NULL ? "not listed" : member(e, "error"));
    json_decref(list);
}

static void must_fail(struct registry *r, const char *dir, const char *reason)
{
    json_t *list = load(r, dir), *e = entry(list, dir);

    assert_non_null(e);
    assert_string_equal(member(e, "state"), "failed");
    assert_string_equal(member(e, "error"), reason);
    json_decref(list);
}

#define refuses(call, wanted, reason)          \
    do {                                       \
        struct err err = ERR_INIT;             \
        assert_int_equal(call, -1);            \
        assert_string_equal(err.text, reason); \
        assert_int_equal(err.code, wanted);    \
    } while (0)

#define accepts(call)                 \
    do {                              \
        struct err err = ERR_INIT;    \
        if ((call) == -1)             \
            fail_msg("%s", err.text); \
    } while (0)

static void state_is(const char *state_dir, const char *expected)
{
    struct buf text = read_all(in(state_dir, "bundles.json"));

    assert_string_equal(text.p, expected);
    buf_clear(&text);
}

/* ---- configuration ------------------------------------------------------------------- */

static void nothing_is_served_at_first(void **state)
{
    struct registry *r = registry_new("", 0);
    json_t *list = listed(r);

    (void)state;
    assert_string_equal(found(r, NULL), "-");
    assert_string_equal(found(r, "toy@1"), "-");
    assert_int_equal(count(r), 0);
    assert_true(json_is_null(json_object_get(list, "default")));
    json_decref(list);
    accepts(configure(r, NULL, NULL, "", &err));
    registry_free(r);
    registry_free(NULL);
}

static void the_only_bundle_is_the_default(void **state)
{
    struct registry *r = started("", one, NULL, "");

    (void)state;
    assert_string_equal(found(r, NULL), "toy@1");
    assert_string_equal(found(r, ""), "toy@1");
    assert_string_equal(found(r, "toy@1"), "toy@1");
    assert_string_equal(found(r, "toy@2"), "-");
    registry_free(r);
}

static void of_several_one_must_be_named(void **state)
{
    struct registry *r = registry_new("", 0);

    (void)state;
    refuses(configure(r, one, two, "", &err), ERR_USAGE,
            "bundle.default must say which of the 2 bundles answers");
    refuses(configure(r, one, two, "toy@3", &err), ERR_NOT_FOUND,
            "bundle.default: no bundle or alias \"toy@3\" is loaded");
    assert_int_equal(count(r), 0);
    accepts(configure(r, one, two, "toy@2", &err));
    assert_string_equal(found(r, NULL), "toy@2");
    assert_int_equal(count(r), 2);
    registry_free(r);
}

static void configuring_is_all_or_nothing(void **state)
{
    struct registry *r = started("", one, NULL, "");
    char *reason =
        xasprintf("%s/manifest.json: cannot open: No such file or directory", at("gone"));

    (void)state;
    refuses(configure(r, two, at("gone"), "toy@2", &err), ERR_NOT_FOUND, reason);
    assert_string_equal(found(r, NULL), "toy@1");
    assert_int_equal(count(r), 1);
    free(reason);
    registry_free(r);
}

static void what_did_not_change_is_kept_not_loaded_again(void **state)
{
    struct registry *r = started("", one, NULL, "");
    const struct bundle_set *before = registry_acquire(r), *after;

    (void)state;
    accepts(configure(r, one, two, "toy@1", &err));
    after = registry_acquire(r);
    assert_ptr_not_equal(before, after);
    assert_ptr_equal(bundle_set_find(before, "toy@1"), bundle_set_find(after, "toy@1"));
    bundle_set_release(before);
    bundle_set_release(after);
    registry_free(r);
}

static void a_bundle_the_configuration_lost_is_gone(void **state)
{
    struct registry *r = started("", one, two, "toy@1");

    (void)state;
    accepts(configure(r, two, NULL, "", &err));
    assert_string_equal(found(r, "toy@1"), "-");
    assert_string_equal(found(r, NULL), "toy@2");
    registry_free(r);
}

static void one_name_cannot_mean_two_contents(void **state)
{
    struct registry *r = registry_new("", 0);
    char *reason =
        xasprintf("%s: toy@1 is loaded already with another manifest, from %s: give the new one "
                  "another version",
                  one_changed, one);

    (void)state;
    refuses(configure(r, one, one_changed, "toy@1", &err), ERR_CONFLICT, reason);
    accepts(configure(r, one, one, "", &err)); /* the same one twice is one */
    assert_int_equal(count(r), 1);
    refuses(configure(r, one_changed, NULL, "", &err), ERR_CONFLICT, reason);
    free(reason);
    registry_free(r);
}

/* ---- loading while serving ----------------------------------------------------------- */

static void loading_adds_a_bundle_and_switches_nothing(void **state)
{
    const char *dir = fresh_state();
    struct registry *r = started(dir, one, NULL, "");

    (void)state;
    must_load(r, two);
    assert_string_equal(found(r, NULL), "toy@1");
    assert_string_equal(found(r, "toy@2"), "toy@2");
    registry_free(r);
}

static void a_bundle_that_does_not_verify_leaves_what_is_served(void **state)
{
    struct registry *r = started(fresh_state(), one, NULL, "");
    const char *broken = build_version("broken", "3");
    char *reason =
        xasprintf("%s/manifest.json: items.count: is 61, items.tsv has 60 items", broken);
    json_t *list;

    (void)state;
    edit_manifest(broken, "\"count\": 60", "\"count\": 61");
    must_fail(r, broken, reason);
    list = listed(r);
    assert_string_equal(member(entry(list, broken), "name"), "toy@3");
    json_decref(list);
    assert_int_equal(count(r), 1);
    assert_string_equal(found(r, NULL), "toy@1");
    edit_manifest(broken, "\"count\": 61", "\"count\": 60");
    must_load(r, broken); /* and the failure is forgotten */
    assert_int_equal(count(r), 2);
    free(reason);
    registry_free(r);
}

static void a_folder_that_is_not_there_fails_with_its_name(void **state)
{
    struct registry *r = started(fresh_state(), NULL, NULL, "");
    char *reason =
        xasprintf("%s/manifest.json: cannot open: No such file or directory", at("nowhere"));
    json_t *list;

    (void)state;
    must_fail(r, at("nowhere"), reason);
    list = listed(r);
    assert_true(json_is_null(json_object_get(entry(list, at("nowhere")), "name")));
    json_decref(list);
    free(reason);
    registry_free(r);
}

static void loading_the_same_again_does_nothing(void **state)
{
    struct registry *r = started(fresh_state(), one, NULL, "");
    const struct bundle_set *before = registry_acquire(r), *after;
    char *reason =
        xasprintf("%s: toy@1 is loaded already with another manifest, from %s: give the new one "
                  "another version",
                  one_changed, one);

    (void)state;
    must_load(r, one);
    after = registry_acquire(r);
    assert_ptr_equal(before, after);
    bundle_set_release(before);
    bundle_set_release(after);
    must_fail(r, one_changed, reason);
    assert_int_equal(count(r), 1);
    free(reason);
    registry_free(r);
}

static void only_the_last_failures_are_remembered(void **state)
{
    struct registry *r = started(fresh_state(), NULL, NULL, "");
    json_t *list;

    (void)state;
    for (int i = 0; i < 10; i++) {
        char name[16];

        snprintf(name, sizeof name, "nowhere%d", i);
        json_decref(load(r, at(name)));
    }
    list = listed(r);
    assert_int_equal(json_array_size(json_object_get(list, "bundles")), 8);
    assert_null(entry(list, at("nowhere1")));
    assert_non_null(entry(list, at("nowhere2")));
    assert_non_null(entry(list, at("nowhere9")));
    json_decref(list);
    registry_free(r);
}

static void what_cannot_be_kept_is_not_changed(void **state)
{
    static const char reason[] = "state.dir is not set, so the change could not be kept";
    struct registry *r = started("", one, NULL, "");

    (void)state;
    refuses(registry_load_async(r, two, &err), ERR_CONFLICT, reason);
    refuses(registry_set_default(r, "toy@1", &err), ERR_CONFLICT, reason);
    refuses(registry_set_alias(r, "stable", "toy@1", &err), ERR_CONFLICT, reason);
    refuses(registry_unload(r, "toy@1", &err), ERR_CONFLICT, reason);
    registry_free(r);
}

static void a_change_that_cannot_be_written_is_not_made(void **state)
{
    const char *dir = fresh_state();
    struct registry *r = started(dir, one, two, "toy@1");
    char *reason = xasprintf("the change cannot be kept: %s: is in the way: not a folder", dir);

    (void)state;
    assert_int_equal(rmdir(dir), 0);
    write_text(dir, "a file");
    refuses(registry_set_alias(r, "stable", "toy@1", &err), ERR_IO, reason);
    assert_string_equal(found(r, "stable"), "-");
    refuses(registry_set_default(r, "toy@2", &err), ERR_IO, reason);
    assert_string_equal(found(r, NULL), "toy@1");
    assert_int_equal(unlink(dir), 0);
    accepts(registry_set_default(r, "toy@2", &err)); /* the folder is made again */
    assert_string_equal(found(r, NULL), "toy@2");
    free(reason);
    registry_free(r);
}

static void memory_is_limited_with_numbers(void **state)
{
    struct bundle *b = must_open(one);
    size_t each = bundle_memory(b);
    struct registry *r = registry_new("", (int64_t)(2 * each - 1));
    char *reason = xasprintf("toy@2 needs %zu bytes and %zu are taken by other bundles: more than "
                             "bundle.memory_max = %zu",
                             each, each, 2 * each - 1);

    (void)state;
    bundle_release(b);
    accepts(configure(r, one, NULL, "", &err));
    refuses(configure(r, one, two, "toy@1", &err), ERR_LIMIT, reason);
    assert_int_equal(count(r), 1);
    registry_free(r);
    r = registry_new("", (int64_t)(2 * each));
    accepts(configure(r, one, two, "toy@1", &err));
    registry_free(r);
    free(reason);
}

static void what_is_too_big_by_its_files_is_not_even_opened(void **state)
{
    const char *dir = build_faiss("big");
    struct registry *r = registry_new("", 4000);
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(unlink(in(dir, "items.tsv")), 0); /* opening would say that */
    assert_int_equal(configure(r, dir, NULL, "", &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    registry_free(r);
}

/* ---- default, aliases, unloading ----------------------------------------------------- */

static void a_default_is_a_name_or_an_alias(void **state)
{
    struct registry *r = started(fresh_state(), one, two, "toy@1");

    (void)state;
    accepts(registry_set_default(r, "toy@2", &err));
    assert_string_equal(found(r, NULL), "toy@2");
    refuses(registry_set_default(r, "toy@3", &err), ERR_NOT_FOUND,
            "no bundle or alias \"toy@3\" is loaded");
    refuses(registry_set_default(r, "", &err), ERR_USAGE,
            "the default must be name@version or an alias");
    accepts(registry_set_alias(r, "stable", "toy@1", &err));
    accepts(registry_set_default(r, "stable", &err));
    assert_string_equal(found(r, NULL), "toy@1");
    accepts(registry_set_alias(r, "stable", "toy@2", &err)); /* the default goes along */
    assert_string_equal(found(r, NULL), "toy@2");
    registry_free(r);
}

static void an_alias_names_a_bundle_and_looks_like_none(void **state)
{
    struct registry *r = started(fresh_state(), one, NULL, "");

    (void)state;
    refuses(registry_set_alias(r, "toy@9", "toy@1", &err), ERR_USAGE,
            "\"toy@9\" cannot be an alias: 1 to 60 of A-Z a-z 0-9 . _ -");
    refuses(registry_set_alias(r, "", "toy@1", &err), ERR_USAGE,
            "\"\" cannot be an alias: 1 to 60 of A-Z a-z 0-9 . _ -");
    accepts(registry_set_alias(r, "stable", "toy@1", &err));
    assert_string_equal(found(r, "stable"), "toy@1");
    refuses(registry_set_alias(r, "canary", "stable", &err), ERR_NOT_FOUND,
            "no bundle \"stable\" is loaded (an alias needs name@version)");
    registry_free(r);
}

static void what_is_referenced_cannot_be_unloaded(void **state)
{
    struct registry *r = started(fresh_state(), one, two, "toy@1");

    (void)state;
    refuses(registry_unload(r, "toy@1", &err), ERR_CONFLICT,
            "toy@1 is the default: choose another one first");
    accepts(registry_set_alias(r, "canary", "toy@2", &err));
    refuses(registry_unload(r, "toy@2", &err), ERR_CONFLICT,
            "the alias \"canary\" names toy@2: move it first");
    refuses(registry_unload(r, "canary", &err), ERR_NOT_FOUND, "no bundle \"canary\" is loaded");
    accepts(registry_set_alias(r, "canary", "toy@1", &err));
    accepts(registry_unload(r, "toy@2", &err));
    assert_string_equal(found(r, "toy@2"), "-");
    assert_int_equal(count(r), 1);
    registry_free(r);
}

/* Reads every vector, so that one unmapped too early is noticed. */
static bool vectors_are_there(const struct vectors *v)
{
    float sum = 0;

    for (size_t i = 0; i < v->rows * v->dim; i++)
        sum += v->data[i] * v->data[i];
    return sum > 0;
}

static void a_batch_keeps_its_bundle_while_it_is_unloaded(void **state)
{
    struct registry *r = started(fresh_state(), one, two, "toy@1");
    const struct bundle_set *batch = registry_acquire(r);
    struct bundle *b = bundle_set_find(batch, "toy@2");

    (void)state;
    accepts(registry_unload(r, "toy@2", &err));
    usleep(300000); /* the loader looks at retired bundles ten times a second */
    assert_string_equal(bundle_name(b), "toy@2");
    assert_true(vectors_are_there(bundle_vectors(b)));
    bundle_set_release(batch);
    usleep(300000); /* now it may go; sanitizers would see a second release */
    registry_free(r);
}

/* ---- what survives ------------------------------------------------------------------- */

static void what_clients_changed_survives_a_restart(void **state)
{
    const char *dir = fresh_state();
    struct registry *r = started(dir, one, NULL, "");
    char *expected =
        xasprintf("{\"paths\": [\"%s\"],\n \"aliases\": {\"stable\": \"toy@1\", \"canary\": "
                  "\"toy@2\"},\n \"default\": \"canary\"}\n",
                  two);

    (void)state;
    must_load(r, two);
    accepts(registry_set_alias(r, "stable", "toy@1", &err));
    accepts(registry_set_alias(r, "canary", "toy@2", &err));
    accepts(registry_set_default(r, "canary", &err));
    state_is(dir, expected);
    registry_free(r);
    r = started(dir, one, NULL, "toy@1"); /* the client's choice is stronger than bundle.default */
    assert_string_equal(found(r, NULL), "toy@2");
    assert_string_equal(found(r, "stable"), "toy@1");
    state_is(dir, expected);
    accepts(registry_set_default(r, "toy@1", &err));
    accepts(registry_set_alias(r, "canary", "toy@1", &err));
    accepts(registry_unload(r, "toy@2", &err));
    state_is(dir,
             "{\"paths\": [],\n \"aliases\": {\"stable\": \"toy@1\", \"canary\": \"toy@1\"},\n "
             "\"default\": \"toy@1\"}\n");
    registry_free(r);
    free(expected);
}

static void a_posted_path_is_kept_absolute(void **state)
{
    const char *dir = fresh_state();
    struct registry *r = started(dir, one, NULL, "");
    char *roundabout = xasprintf("%s/one/../two", folder), *expected;
    json_t *list = load(r, roundabout);

    (void)state;
    assert_string_equal(member(entry(list, two), "state"), "ready");
    expected = xasprintf("{\"paths\": [\"%s\"],\n \"aliases\": {},\n \"default\": null}\n", two);
    state_is(dir, expected);
    json_decref(list);
    free(expected);
    free(roundabout);
    registry_free(r);
}

static void a_reload_keeps_what_was_posted(void **state)
{
    struct registry *r = started(fresh_state(), one, NULL, "");

    (void)state;
    must_load(r, two);
    accepts(configure(r, one, NULL, "", &err));
    assert_string_equal(found(r, NULL), "toy@1"); /* the only configured one, still */
    assert_string_equal(found(r, "toy@2"), "toy@2");
    registry_free(r);
}

static void refuse_state(const char *dir, const char *text, enum err_code code, const char *reason)
{
    struct registry *r = registry_new(dir, 0);
    char *full = xasprintf("%s/bundles.json: %s", dir, reason);

    write_text(in(dir, "bundles.json"), text);
    refuses(configure(r, one, NULL, "", &err), code, full);
    assert_int_equal(count(r), 0);
    free(full);
    registry_free(r);
}

static void a_state_file_that_cannot_be_true_is_refused(void **state)
{
    const char *dir = fresh_state();
    char *gone =
        xasprintf("paths[0]: %s/manifest.json: cannot open: No such file or directory", at("gone"));
    char *paths = xasprintf("{\"paths\": [\"%s\"]}", at("gone"));

    (void)state;
    refuse_state(dir, "", ERR_FORMAT, "line 1, column 0: '[' or '{' expected near end of file");
    refuse_state(dir, "[]", ERR_FORMAT, "must be a JSON object");
    refuse_state(dir, "{\"path\": []}", ERR_FORMAT, "path: unknown field");
    refuse_state(dir, "{\"paths\": {}}", ERR_FORMAT, "paths: must be a list");
    refuse_state(dir, "{\"paths\": [1]}", ERR_FORMAT, "paths[0]: must be a string");
    refuse_state(dir, "{\"aliases\": []}", ERR_FORMAT, "aliases: must be an object");
    refuse_state(dir, "{\"aliases\": {\"a\": 1}}", ERR_FORMAT, "aliases.a: must be a string");
    refuse_state(dir, "{\"default\": 1}", ERR_FORMAT, "default: must be a string or null");
    refuse_state(dir, paths, ERR_NOT_FOUND, gone);
    refuse_state(dir, "{\"aliases\": {\"a\": \"toy@2\"}}", ERR_NOT_FOUND,
                 "aliases.a: no bundle \"toy@2\" is loaded (an alias needs name@version)");
    refuse_state(dir, "{\"default\": \"toy@2\"}", ERR_NOT_FOUND,
                 "default: no bundle or alias \"toy@2\" is loaded");
    free(gone);
    free(paths);
}

/* ---- threads ------------------------------------------------------------------------- */

struct reader_thread {
    struct registry *r;
    atomic_bool stop;
    atomic_size_t reads;
};

static void *read_on(void *arg)
{
    struct reader_thread *t = arg;

    while (!atomic_load(&t->stop)) {
        const struct bundle_set *s = registry_acquire(t->r);
        const struct bundle *b = bundle_set_find(s, NULL);

        if (b == NULL || strncmp(bundle_name(b), "toy@", 4) != 0)
            abort();
        atomic_fetch_add(&t->reads, 1);
        bundle_set_release(s);
    }
    return NULL;
}

static void readers_always_find_a_default_while_everything_changes(void **state)
{
    struct registry *r = started(fresh_state(), one, NULL, "");
    struct reader_thread t = {.r = r};
    pthread_t threads[2];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, &t), 0);
    for (int i = 0; i < 3; i++) {
        must_load(r, two);
        accepts(registry_set_default(r, "toy@2", &err));
        accepts(configure(r, one, NULL, "", &err));
        accepts(registry_set_default(r, "toy@1", &err));
        accepts(registry_unload(r, "toy@2", &err));
    }
    atomic_store(&t.stop, true);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&t.reads) > 0);
    registry_free(r);
}

/* ---- what stands beside the bundles ------------------------------------------------------- */

/* Something that needs a bundle of this name. */
struct need {
    struct ref ref;
    const char *bundle;
};

static int n_freed;

static void need_free(struct ref *ref)
{
    free(ref);
    n_freed++;
}

static int need_check(void *arg, const struct bundle_set *set, struct err *err)
{
    const char *name = *(const char **)arg;

    return bundle_set_find(set, name) != NULL ? 0
                                              : err_set(err, ERR_CONFLICT, "%s is needed", name);
}

static int need_make(void *arg, const struct bundle_set *set, struct ref **beside, struct err *err)
{
    struct need *n;

    if (need_check(arg, set, err) == -1)
        return -1;
    n = xcalloc(1, sizeof *n);
    ref_init(&n->ref, need_free);
    n->bundle = *(const char **)arg;
    *beside = &n->ref;
    return 0;
}

/* What is needed now, and by the same set whether it is there. */
static const char *needed(struct registry *r)
{
    const struct bundle_set *s = registry_acquire(r);
    const struct need *n = (const struct need *)bundle_set_beside(s);
    const char *name = n == NULL ? "-" : n->bundle;

    assert_true(n == NULL || bundle_set_find(s, name) != NULL);
    bundle_set_release(s);
    return name;
}

static void what_stands_beside_changes_with_the_bundles_or_not_at_all(void **state)
{
    struct registry *r = registry_new(fresh_state(), 0);
    const char *name = "toy@1";
    struct bundle_users users = {need_make, need_check, &name};

    (void)state;
    n_freed = 0;
    registry_set_users(r, &users);
    assert_string_equal(needed(r), "-");
    accepts(configure(r, one, NULL, "", &err));
    assert_string_equal(needed(r), "toy@1");
    must_load(r, two);
    assert_string_equal(needed(r), "toy@1"); /* other changes leave it */
    name = "toy@3";
    refuses(configure(r, one, NULL, "", &err), ERR_CONFLICT, "toy@3 is needed");
    refuses(registry_set_beside(r, need_make, &name, &err), ERR_CONFLICT, "toy@3 is needed");
    assert_string_equal(needed(r), "toy@1");
    name = "toy@2";
    accepts(registry_set_beside(r, need_make, &name, &err));
    assert_string_equal(needed(r), "toy@2");
    refuses(registry_unload(r, "toy@2", &err), ERR_CONFLICT, "toy@2 is needed");
    assert_int_equal(count(r), 2);
    registry_free(r);
    assert_int_equal(n_freed, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_served_at_first),
        cmocka_unit_test(the_only_bundle_is_the_default),
        cmocka_unit_test(of_several_one_must_be_named),
        cmocka_unit_test(configuring_is_all_or_nothing),
        cmocka_unit_test(what_did_not_change_is_kept_not_loaded_again),
        cmocka_unit_test(a_bundle_the_configuration_lost_is_gone),
        cmocka_unit_test(one_name_cannot_mean_two_contents),
        cmocka_unit_test(loading_adds_a_bundle_and_switches_nothing),
        cmocka_unit_test(a_bundle_that_does_not_verify_leaves_what_is_served),
        cmocka_unit_test(a_folder_that_is_not_there_fails_with_its_name),
        cmocka_unit_test(loading_the_same_again_does_nothing),
        cmocka_unit_test(only_the_last_failures_are_remembered),
        cmocka_unit_test(what_cannot_be_kept_is_not_changed),
        cmocka_unit_test(a_change_that_cannot_be_written_is_not_made),
        cmocka_unit_test(memory_is_limited_with_numbers),
        cmocka_unit_test(what_is_too_big_by_its_files_is_not_even_opened),
        cmocka_unit_test(a_default_is_a_name_or_an_alias),
        cmocka_unit_test(an_alias_names_a_bundle_and_looks_like_none),
        cmocka_unit_test(what_is_referenced_cannot_be_unloaded),
        cmocka_unit_test(a_batch_keeps_its_bundle_while_it_is_unloaded),
        cmocka_unit_test(what_clients_changed_survives_a_restart),
        cmocka_unit_test(a_posted_path_is_kept_absolute),
        cmocka_unit_test(a_reload_keeps_what_was_posted),
        cmocka_unit_test(a_state_file_that_cannot_be_true_is_refused),
        cmocka_unit_test(what_stands_beside_changes_with_the_bundles_or_not_at_all),
        cmocka_unit_test(readers_always_find_a_default_while_everything_changes),
    };

    return cmocka_run_group_tests_name("registry", tests, setup, folder_teardown);
}
