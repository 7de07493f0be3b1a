/* replay.c - runs a fuzz target over the inputs that are kept for it: what was found once stays
 * found. Needs no clang.
 *
 * fuzz_<what> [FILE or DIRECTORY...], by default tests/fuzz/corpus/<what> and tests/invalid/<what>,
 * from the top of the source tree. Prints one test in TAP; the last path on stderr is where it
 * stopped. */
#include "fuzz.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define INPUT_MAX ((size_t)1 << 20)
#define MEMORY_MAX ((rlim_t)512 << 20) /* more than a small input may make a reader ask for */

static int n_inputs;

/* From a block of exactly its size, so that AddressSanitizer sees a read beyond the end. */
static void run(const void *bytes, size_t len)
{
    uint8_t *copy = xmalloc(len > 0 ? len : 1);

    if (len > 0)
        memcpy(copy, bytes, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static int visit(const char *path, const struct stat *st, int type, struct FTW *unused)
{
    struct buf bytes = BUF_INIT;
    struct err err = ERR_INIT;

    (void)st;
    (void)unused;
    if (type != FTW_F)
        return type == FTW_D ? 0 : -1;
    fprintf(stderr, "%s\n", path);
    if (file_read(path, INPUT_MAX, &bytes, &err) == -1) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    run(bytes.p, bytes.len);
    buf_clear(&bytes);
    n_inputs++;
    return 0;
}

static int replay(const char *path)
{
    return nftw(path, visit, 16, FTW_PHYS);
}

static int replay_kept(const char *what)
{
    char *corpus = path_join("tests/fuzz/corpus", what);
    char *invalid = path_join("tests/invalid", what);
    int result = replay(corpus);

    if (result == 0 && access(invalid, F_OK) == 0)
        result = replay(invalid);
    free(corpus);
    free(invalid);
    return result;
}

/* AddressSanitizer needs far more for itself. */
static void limit_memory(void)
{
#ifndef __SANITIZE_ADDRESS__
    const struct rlimit limit = {MEMORY_MAX, MEMORY_MAX};

    if (setrlimit(RLIMIT_DATA, &limit) == -1)
        perror("setrlimit");
#endif
}

int main(int argc, char **argv)
{
    const char *name = program_invocation_short_name;
    int result = 0;

    puts("1..1");
    fflush(stdout);
    limit_memory();
    run(NULL, 0);
    if (argc == 1)
        result = replay_kept(name + strlen("fuzz_"));
    for (int i = 1; i < argc && result == 0; i++)
        result = replay(argv[i]);
    if (n_inputs == 0)
        result = -1;
    printf("%s 1 - %s holds for %d inputs\n", result == 0 ? "ok" : "not ok", name, n_inputs);
    return result == 0 ? 0 : 1;
}
