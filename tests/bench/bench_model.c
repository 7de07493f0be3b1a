/* bench_model.c - time of one user's interests, by kind of model, history and batch.
 *
 * Rows are drawn anew for every user from a table larger than the caches, as in serving. The figure
 * is the best of several rounds. */
#include "recalld/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 64, SLOTS = 50, INTERESTS = 4, ROWS = 200000, USERS = 64, ROUNDS = 40 };

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

/* Every tensor any of the variants asks for. */
static struct ckpt *checkpoint(struct buf *bytes)
{
    float *items = random_floats((size_t)ROWS * DIM, 0.2f);
    float *linear = random_floats(DIM * DIM, 0.2f);
    float *wide = random_floats(DIM * INTERESTS * DIM, 0.2f);
    float *positions = random_floats(SLOTS * INTERESTS * DIM * DIM, 0.2f);
    float *logits = random_floats(INTERESTS * SLOTS, 1);
    const struct ckpt_writer_tensor t[] = {
        {"mid_embedding_var", 2, {ROWS, DIM}, items},
        {"capsule_network/bilinear/dense/kernel", 2, {DIM, DIM}, linear},
        {"capsule_network/bilinear/weights", 4, {1, SLOTS, INTERESTS * DIM, DIM}, positions},
        {"item_emb.weight", 2, {ROWS, DIM}, items},
        {"capsule.linear.weight", 2, {DIM, INTERESTS * DIM}, wide},
        {"capsual_layer.bilinear_mapping_matrix", 2, {DIM, DIM}, linear},
        {"capsual_layer.relu_layer.weight", 2, {DIM, DIM}, linear},
        {"logits", 2, {INTERESTS, SLOTS}, logits},
    };
    struct err err = ERR_INIT;
    struct ckpt *c;

    ckpt_encode(bytes, t, ARRAY_LEN(t), NULL);
    free(items);
    free(linear);
    free(wide);
    free(positions);
    free(logits);
    c = ckpt_open_mem("bench", bytes->p, bytes->len, &err);
    if (c == NULL)
        fail(&err);
    return c;
}

static struct model *open_model(const struct ckpt *c, const char *variant, const char *bilinear)
{
    struct model_options o;
    struct err err = ERR_INIT;
    struct model *m = NULL;

    if (model_options_variant(&o, variant, &err) == 0 &&
        model_options_set(&o, "bilinear", bilinear, &err) == 0 &&
        model_options_set(&o, "init", "tensor:logits", &err) == 0)
        m = model_open(c, &o, NULL, &err);
    if (m == NULL)
        fail(&err);
    return m;
}

/* Nanoseconds per user. */
static double measure(const struct model *m, size_t length, size_t batch)
{
    static uint32_t rows[USERS][SLOTS];
    static float interests[USERS][INTERESTS * DIM];
    struct model_input in[USERS];
    struct model_scratch *s = model_scratch_new();
    uint64_t best = UINT64_MAX;

    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start, took;

        for (size_t i = 0; i < USERS; i++) {
            for (size_t r = 0; r < length; r++)
                rows[i][r] = 1 + random_below(ROWS - 1);
            in[i] = (struct model_input){
                .rows = rows[i], .n_rows = length, .dynamic = -1, .interests = interests[i]};
        }
        start = clock_ns();
        for (size_t i = 0; i + batch <= USERS; i += batch)
            model_interests(m, s, in + i, batch);
        took = clock_ns() - start;
        best = took < best ? took : best;
    }
    model_scratch_free(s);
    return (double)best / (double)(USERS / batch * batch);
}

int main(void)
{
    static const struct {
        const char *variant, *bilinear;
        size_t length, batch;
    } cases[] = {
        {"thudm-mind", "shared", 5, 1},
        {"thudm-mind", "shared", 20, 1},
        {"thudm-mind", "shared", 50, 1},
        {"thudm-mind", "shared", 50, 8},
        {"paddlerec-mind", "shared", 50, 1},
        {"datawhale-mind", "per_interest", 50, 1},
        {"thudm-comirec-dr", "per_position", 20, 1},
        {"thudm-comirec-dr", "per_position", 50, 1},
        {"thudm-comirec-dr", "per_position", 50, 8},
        {"thudm-comirec-dr", "per_position", 50, 16},
    };
    struct buf bytes = BUF_INIT;
    struct ckpt *c = checkpoint(&bytes);

    printf("K=%d S=%d d=%d, %d rows\n%-20s %-14s %8s %6s %10s %8s\n", INTERESTS, SLOTS, DIM, ROWS,
           "variant", "bilinear", "history", "batch", "ns/user", "open ms");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t start = clock_ns();
        struct model *m = open_model(c, cases[i].variant, cases[i].bilinear);
        double open_ms = (double)(clock_ns() - start) / 1e6;

        printf("%-20s %-14s %8zu %6zu %10.0f %8.0f\n", cases[i].variant, cases[i].bilinear,
               cases[i].length, cases[i].batch, measure(m, cases[i].length, cases[i].batch),
               open_ms);
        model_free(m);
    }
    ckpt_free(c);
    buf_clear(&bytes);
    return 0;
}
