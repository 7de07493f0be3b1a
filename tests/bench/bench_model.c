/* bench_model.c - time of one user's interests, by kind of model, history and batch.
 *
 * Rows are drawn anew for every user from a table larger than the caches, as in serving. A figure
 * is the best of several rounds. With a directory as argument, it leaves there what another program
 * needs to compute the same interests and compare itself (report.py): the checkpoint, the rows of
 * the histories and the interests; and prints one line per figure for that program to read. */
#include "recalld/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 64, SLOTS = 50, INTERESTS = 4, HIDDEN = 4 * DIM, ROWS = 200000 };
enum { USERS = 64, ROUNDS = 40 };

static uint64_t state = 1;

static uint32_t random_below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 32) * n >> 32);
}

static float *random_floats(size_t n, float scale)
{
    float *out = mem_try_aligned(n, sizeof *out);

    if (out == NULL)
        abort();
    for (size_t i = 0; i < n; i++)
        out[i] = scale * ((float)random_below(2001) / 1000 - 1);
    return out;
}

static void fail(const struct err *err)
{
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

/* ---- models ---------------------------------------------------------------------------- */

/* Every tensor any of the variants asks for, under its codebase's name. */
static struct buf checkpoint(void)
{
    float *items = random_floats((size_t)ROWS * DIM, 0.2f);
    float *linear = random_floats(DIM * DIM, 0.2f);
    float *bias = random_floats(DIM, 0.1f);
    float *wide = random_floats(DIM * INTERESTS * DIM, 0.2f);
    float *positions = random_floats(SLOTS * INTERESTS * DIM * DIM, 0.2f);
    float *logits = random_floats(INTERESTS * SLOTS, 1);
    float *slots = random_floats(SLOTS * DIM, 0.2f);
    float *hidden = random_floats(DIM * HIDDEN, 0.2f), *c1 = random_floats(HIDDEN, 0.1f);
    float *heads = random_floats(HIDDEN * INTERESTS, 0.2f), *c2 = random_floats(INTERESTS, 0.1f);
    const struct ckpt_writer_tensor t[] = {
        {"mid_embedding_var", 2, {ROWS, DIM}, items},
        {"capsule_network/bilinear/dense/kernel", 2, {DIM, DIM}, linear},
        {"capsule_network/bilinear/dense/bias", 1, {DIM}, bias},
        {"capsule_network/bilinear/weights", 4, {1, SLOTS, INTERESTS * DIM, DIM}, positions},
        {"position_embedding", 3, {1, SLOTS, DIM}, slots},
        {"self_atten/dense/kernel", 2, {DIM, HIDDEN}, hidden},
        {"self_atten/dense/bias", 1, {HIDDEN}, c1},
        {"self_atten/dense_1/kernel", 2, {HIDDEN, INTERESTS}, heads},
        {"self_atten/dense_1/bias", 1, {INTERESTS}, c2},
        {"item_emb.weight", 2, {ROWS, DIM}, items},
        {"capsule.linear.weight", 2, {DIM, INTERESTS * DIM}, wide},
        {"capsual_layer.bilinear_mapping_matrix", 2, {DIM, DIM}, linear},
        {"capsual_layer.relu_layer.weight", 2, {DIM, DIM}, linear},
        {"logits", 2, {INTERESTS, SLOTS}, logits},
    };
    struct buf bytes = BUF_INIT;

    ckpt_encode(&bytes, t, ARRAY_LEN(t), NULL);
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        bool again = false;

        for (size_t j = 0; j < i; j++)
            again |= t[j].data == t[i].data;
        if (!again)
            free((void *)(uintptr_t)t[i].data);
    }
    return bytes;
}

/* `key` = `value` is one option beside the variant's, or NULL. */
static struct model *open_model(const struct ckpt *c, const char *variant, const char *key,
                                const char *value)
{
    struct model_options o;
    struct err err = ERR_INIT;
    struct model *m = NULL;

    if (model_options_variant(&o, variant, &err) == 0 &&
        (key == NULL || model_options_set(&o, key, value, &err) == 0) &&
        (o.kind == MODEL_ATTENTION || model_options_set(&o, "init", "tensor:logits", &err) == 0))
        m = model_open(c, &o, NULL, &err);
    if (m == NULL)
        fail(&err);
    return m;
}

/* ---- time ------------------------------------------------------------------------------- */

static uint32_t rows[USERS][SLOTS];
static float interests[USERS][INTERESTS * DIM];

static void draw_rows(size_t length)
{
    for (size_t i = 0; i < USERS; i++)
        for (size_t r = 0; r < length; r++)
            rows[i][r] = 1 + random_below(ROWS - 1);
}

/* Nanoseconds per user. The last round's users and interests stay. */
static double measure(const struct model *m, size_t length, size_t batch)
{
    struct model_input in[USERS];
    struct model_scratch *s = model_scratch_new();
    uint64_t best = UINT64_MAX;

    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start, took;

        draw_rows(length);
        for (size_t i = 0; i < USERS; i++)
            in[i] = (struct model_input){
                .rows = rows[i], .n_rows = length, .dynamic = -1, .interests = interests[i]};
        start = clock_ns();
        for (size_t i = 0; i + batch <= USERS; i += batch)
            model_interests(m, s, in + i, batch);
        took = clock_ns() - start;
        best = took < best ? took : best;
    }
    model_scratch_free(s);
    return (double)best / (double)(USERS / batch * batch);
}

static void print_table(const struct ckpt *c)
{
    static const struct {
        const char *variant, *key, *value;
        size_t length, batch;
    } cases[] = {
        {"thudm-mind", NULL, NULL, 5, 1},
        {"thudm-mind", NULL, NULL, 20, 1},
        {"thudm-mind", NULL, NULL, 50, 1},
        {"thudm-mind", NULL, NULL, 50, 8},
        {"paddlerec-mind", NULL, NULL, 50, 1},
        {"datawhale-mind", "bilinear", "per_interest", 50, 1},
        {"thudm-comirec-dr", NULL, NULL, 20, 1},
        {"thudm-comirec-dr", NULL, NULL, 50, 1},
        {"thudm-comirec-dr", NULL, NULL, 50, 8},
        {"thudm-comirec-dr", NULL, NULL, 50, 16},
        {"thudm-comirec-sa", NULL, NULL, 50, 1},
    };

    printf("K=%d S=%d d=%d, %d rows\n%-18s %-13s %8s %6s %8s %8s\n", INTERESTS, SLOTS, DIM, ROWS,
           "variant", "option", "history", "batch", "ns/user", "open ms");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t start = clock_ns();
        struct model *m = open_model(c, cases[i].variant, cases[i].key, cases[i].value);
        double open_ms = (double)(clock_ns() - start) / 1e6;

        printf("%-18s %-13s %8zu %6zu %8.0f %8.0f\n", cases[i].variant,
               cases[i].value != NULL ? cases[i].value : "", cases[i].length, cases[i].batch,
               measure(m, cases[i].length, cases[i].batch), open_ms);
        model_free(m);
    }
}

/* ---- for a comparison --------------------------------------------------------------------- */

static void write_file(const char *dir, const char *name, const char *suffix, const void *bytes,
                       size_t len)
{
    char *path = xasprintf("%s/%s.%s", dir, name, suffix);
    struct err err = ERR_INIT;

    if (file_write(path, bytes, len, &err) == -1)
        fail(&err);
    free(path);
}

/* "VARIANT BATCH NANOSECONDS" a line. */
static void print_and_keep(const struct ckpt *c, const char *dir)
{
    static const char *const variants[] = {"thudm-mind", "thudm-comirec-dr", "thudm-comirec-sa"};
    static const size_t batches[] = {16, 8, 1};

    for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
        struct model *m = open_model(c, variants[i], NULL, NULL);

        for (size_t b = 0; b < ARRAY_LEN(batches); b++)
            printf("%s %zu %.0f\n", variants[i], batches[b], measure(m, SLOTS, batches[b]));
        write_file(dir, variants[i], "rows", rows, sizeof rows);
        write_file(dir, variants[i], "interests", interests, sizeof interests);
        model_free(m);
    }
}

int main(int argc, char **argv)
{
    struct buf bytes = checkpoint();
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open_mem("bench", bytes.p, bytes.len, &err);

    if (c == NULL)
        fail(&err);
    if (argc == 2) {
        write_file(argv[1], "model", "safetensors", bytes.p, bytes.len);
        print_and_keep(c, argv[1]);
    } else {
        print_table(c);
    }
    ckpt_free(c);
    buf_clear(&bytes);
    return 0;
}
