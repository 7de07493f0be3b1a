/* bench_ckpt.c - bytes per second of what is done with a checkpoint: read, hashed, opened, checked,
 * measured, converted.
 *
 * bench_ckpt [MEGABYTES [FOLDER]]: a file of so many (1000), dense, is made in the folder (TMPDIR
 * or /tmp) and removed. It lies in the page cache: a slower disk shows in the first figure alone. A
 * figure is the best of three, with the worst beside it. */
#include "recalld/ckpt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 3, DIM = 64 };

static struct err err = ERR_INIT;

static void check(bool good)
{
    if (good)
        return;
    fprintf(stderr, "bench_ckpt: %s\n", err.text);
    exit(1);
}

/* ---- the file ---------------------------------------------------------------------- */

/* Values that neither a file system nor a processor can guess. */
static void make_file(const char *path, size_t rows)
{
    size_t n = rows * DIM;
    float *v = mem_try_aligned(n, sizeof *v);
    const struct ckpt_writer_tensor t = {"w", 2, {rows, DIM}, v};
    uint64_t state = 1;

    check(v != NULL);
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        v[i] = (float)(int32_t)(state >> 32) * 0x1p-32f;
    }
    check(ckpt_write(path, &t, 1, NULL, &err) == 0);
    free(v);
}

/* ---- steps: each gives how long it took ----------------------------------------------- */

static uint64_t read_it(const char *path)
{
    uint64_t begin = clock_ns(), end;
    struct mapped m;

    check(file_load(&m, path, &err) == 0);
    end = clock_ns();
    file_unmap(&m);
    return end - begin;
}

static uint64_t hash_it(const char *path)
{
    struct mapped m;
    uint64_t begin, end;
    char hex[SHA256_HEX];

    check(file_load(&m, path, &err) == 0);
    begin = clock_ns();
    sha256_hex(m.bytes, m.len, hex);
    end = clock_ns();
    file_unmap(&m);
    return end - begin;
}

/* What a bundle's model does with its table: a view of it, after looking for NaN. */
static uint64_t open_it(const char *path)
{
    struct mapped m;
    struct ckpt *c;
    uint64_t begin, end;
    float *copy;

    check(file_load(&m, path, &err) == 0);
    begin = clock_ns();
    c = ckpt_open_mem(path, m.bytes, m.len, &err);
    check(c != NULL && tensor_f32(c, ckpt_at(c, 0), &copy, &err) != NULL && copy == NULL);
    end = clock_ns();
    ckpt_free(c);
    file_unmap(&m);
    return end - begin;
}

static uint64_t measure_it(const char *path)
{
    uint64_t begin = clock_ns(), end;
    struct ckpt *c = ckpt_open(path, &err);
    struct tensor_facts facts;

    check(c != NULL);
    tensor_measure(c, ckpt_at(c, 0), &facts, NULL, NULL);
    end = clock_ns();
    ckpt_free(c);
    return end - begin;
}

static uint64_t convert_it(const char *path)
{
    char *to = xasprintf("%s.converted", path);
    uint64_t begin = clock_ns(), end;
    struct ckpt *c = ckpt_open(path, &err);

    check(c != NULL && ckpt_convert(c, to, &err) == 0);
    end = clock_ns();
    ckpt_free(c);
    unlink(to);
    free(to);
    return end - begin;
}

static const struct {
    const char *name;
    uint64_t (*run)(const char *path);
} steps[] = {
    {"read into memory", read_it},
    {"SHA-256", hash_it},
    {"opened, values looked at for NaN", open_it},
    {"ckpt show: range and XXH3", measure_it},
    {"ckpt convert, synced to the disk", convert_it},
};

int main(int argc, char **argv)
{
    size_t megabytes = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    size_t rows = megabytes * 1000000 / (DIM * sizeof(float));
    const char *folder = argc > 2 ? argv[2] : getenv("TMPDIR");
    char *path = xasprintf("%s/bench_ckpt.%d", folder != NULL ? folder : "/tmp", (int)getpid());
    double bytes = (double)(rows * DIM * sizeof(float));

    make_file(path, rows);
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        double best = 0, worst = 0;

        for (int round = 0; round < ROUNDS; round++) {
            double rate = bytes / (double)steps[i].run(path);

            best = rate > best ? rate : best;
            worst = round == 0 || rate < worst ? rate : worst;
        }
        printf("%-34s %5.2f GB/s (worst %.2f)\n", steps[i].name, best, worst);
        fflush(stdout);
    }
    unlink(path);
    free(path);
    return 0;
}
