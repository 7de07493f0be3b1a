/* cmd_bundle.c - recallctl bundle build | verify | show */
#include "recallctl.h"
#include "recalld/bundle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- build ----------------------------------------------------------------------- */

#define AT(field) offsetof(struct bundle_build, field)

/* clang-format off */
static const struct opt build_opts[] = {
    {"weights", OPT_TEXT, AT(weights), 0, 0, "FILE", "the checkpoint, as trained"},
    {"items", OPT_TEXT, AT(items), 0, 0, "FILE", "items.tsv: row, external id, attributes"},
    {"out", OPT_TEXT, AT(out), 0, 0, "DIR", "the bundle to write; replaces a bundle that is there"},
    {"name", OPT_TEXT, AT(name), 0, 0, "NAME", "its name: A-Z a-z 0-9 . _ -"},
    {"version", OPT_TEXT, AT(version), 0, 0, "TEXT", "its version; default: date and time"},
    {"popular", OPT_TEXT, AT(popular), 0, 0, "FILE", "ids for users without behaviour, best first, one a line"},
    {"histories", OPT_TEXT, AT(histories), 0, 0, "FILE", "sample behaviour to measure recall on: `user item item ...`"},
    {"engine", OPT_TEXT, AT(engine), 0, 0, "NAME", "auto, exact or faiss; auto decides by size"},
    {"factory", OPT_TEXT, AT(factory), 0, 0, "TEXT", "the faiss index: HNSW32, IVF1024,Flat, ..."},
    {"shards", OPT_INT, AT(shards), 0, 256, "N", "how many; 0: one per million rows"},
    {"effort", OPT_INT, AT(effort), 0, 1000000, "N", "efSearch or nprobe; 0: the least that reaches the floor"},
    {"recall-floor", OPT_REAL, AT(recall_floor), 0, 1, "X", "refuse an index that finds less; default 0.98"},
    {"threads", OPT_INT, AT(threads), 1, 1024, "N", "default: all cores"},
};
/* clang-format on */

static void build_defaults(void *options)
{
    bundle_build_defaults(options);
}

static void say(void *arg, const char *sentence)
{
    (void)arg;
    progress_wipe();
    puts(sentence);
    fflush(stdout);
}

/* "model.init" "zeros" -> "init", "zeros", ..., NULL; caller frees the list. */
static const char **model_keys(const struct args *a)
{
    const char **keys = xcalloc(2 * a->n_dotted + 1, sizeof *keys);

    for (size_t i = 0; i < a->n_dotted; i++) {
        keys[2 * i] = a->dotted[i].key + strlen("model.");
        keys[2 * i + 1] = a->dotted[i].value;
    }
    return keys;
}

static int build_run(const struct args *a, struct err *err)
{
    struct bundle_build *b = a->options;
    const char **keys;
    int result;

    if (args_need(b->weights, "weights", err) == -1 || args_need(b->items, "items", err) == -1 ||
        args_need(b->out, "out", err) == -1 || args_need(b->name, "name", err) == -1)
        return -1;
    keys = model_keys(a);
    b->model_keys = keys;
    result = bundle_build(b, progress_show, say, NULL, err);
    free(keys);
    if (result == 0)
        printf("built %s\n", b->out);
    return result;
}

const struct command cmd_bundle_build = {
    .name = "bundle build",
    .about = "make a bundle from a checkpoint and its items: index built, measured, verified",
    .opts = build_opts,
    .n_opts = ARRAY_LEN(build_opts),
    .dotted = DOTTED_MODEL,
    .options_size = sizeof(struct bundle_build),
    .defaults = build_defaults,
    .run = build_run,
};

/* ---- verify ---------------------------------------------------------------------- */

struct verify {
    const char *by;
};

static const struct opt verify_opts[] = {
    {"verify", OPT_TEXT, offsetof(struct verify, by), 0, 0, "HOW",
     "hash, the default, or size: files are not hashed"},
};

static int verify_run(const struct args *a, struct err *err)
{
    const struct verify *o = a->options;
    bool by_size = o->by != NULL && strcmp(o->by, "size") == 0;
    struct bundle *b;

    if (o->by != NULL && !by_size && strcmp(o->by, "hash") != 0)
        return err_set(err, ERR_USAGE, "--verify: must be hash or size");
    b = (by_size ? bundle_open_by_size : bundle_open)(a->positional, progress_show, NULL, err);
    progress_wipe();
    if (b == NULL)
        return -1;
    printf("ok%s: %s, %zu items\n", by_size ? " by size" : "", bundle_name(b),
           items_count(bundle_items(b)));
    bundle_release(b);
    return 0;
}

const struct command cmd_bundle_verify = {
    .name = "bundle verify",
    .positional = "DIR",
    .about = "open a bundle as the daemon would: hashes, shapes, rows, pairing, a few searches",
    .opts = verify_opts,
    .n_opts = ARRAY_LEN(verify_opts),
    .options_size = sizeof(struct verify),
    .run = verify_run,
};

/* ---- show ------------------------------------------------------------------------ */

struct show {
    bool json;
};

static const struct opt show_opts[] = {
    {"json", OPT_FLAG, offsetof(struct show, json), 0, 0, NULL, "as JSON"},
};

static void print_bytes(const char *what, size_t bytes)
{
    printf("%-10s %.1f MB\n", what, (double)bytes / 1e6);
}

static void print_index(const struct bundle_facts *f)
{
    printf("%-10s %s", "index", f->engine);
    if (f->factory != NULL)
        printf(" %s", f->factory);
    if (f->effort_name != NULL)
        printf(", %s %d", f->effort_name, f->effort);
    printf(", %zu shard%s, recall %.4g\n", f->shards, f->shards == 1 ? "" : "s", f->recall);
}

static void print_facts(const struct bundle *b)
{
    const struct items *items = bundle_items(b);
    struct bundle_facts f;
    size_t popular;

    bundle_describe(b, &f);
    bundle_popular(b, &popular);
    printf("%-10s %s\n", "bundle", bundle_name(b));
    printf("%-10s %s, %d interests of %d dimensions\n", "model", f.variant, f.interests, f.dim);
    printf("%-10s %zu in %zu rows", "items", f.items, f.rows);
    for (size_t i = 0; i < items_attributes(items); i++)
        printf("%s %s (%zu values)", i == 0 ? "; attributes" : ",", items_attribute_name(items, i),
               items_value_count(items, i));
    printf("\n");
    print_index(&f);
    printf("%-10s %zu ids\n", "popular", popular);
    print_bytes("memory", bundle_memory(b));
    printf("%-10s %s\n", "weights", f.weights_sha256);
    printf("%-10s %s\n", "manifest", f.manifest_sha256);
}

static int show_run(const struct args *a, struct err *err)
{
    const struct show *o = a->options;
    struct bundle *b = bundle_open(a->positional, progress_show, NULL, err);
    struct buf json = BUF_INIT;

    progress_wipe();
    if (b == NULL)
        return -1;
    if (o->json) {
        bundle_describe_json(b, &json);
        printf("{%s}\n", buf_cstr(&json));
        buf_clear(&json);
    } else {
        print_facts(b);
    }
    bundle_release(b);
    return 0;
}

const struct command cmd_bundle_show = {
    .name = "bundle show",
    .positional = "DIR",
    .about = "what a bundle holds, and how much memory it takes",
    .opts = show_opts,
    .n_opts = ARRAY_LEN(show_opts),
    .options_size = sizeof(struct show),
    .run = show_run,
};
