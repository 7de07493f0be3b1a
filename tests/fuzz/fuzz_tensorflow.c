/* fuzz_tensorflow.c - a table of variables and the file of their bytes. See ckpt.h for what holds.
 *
 * An input is a table, which ends with its magic number, and the data file behind it. All sums are
 * taken to be right where they are 0, so that a change is not refused for its sum alone: the crc32c
 * here stands in for the library's. */
#include "../../src/ckpt/crc32c.h"
#include "ckpt.h"

#include <stdio.h>
#include <unistd.h>

uint32_t crc32c(uint32_t crc, const void *bytes, size_t len)
{
    (void)crc;
    (void)bytes;
    (void)len;
    return 0;
}

static char *dir; /* of the two files */

static void drop(const char *name)
{
    char *path = path_join(dir, name);

    unlink(path);
    free(path);
}

/* A new file each time: what is cut to nothing and written again may be waited for. */
static void put(const char *name, const void *bytes, size_t len)
{
    char *path = path_join(dir, name);
    FILE *f;

    drop(name);
    f = fopen(path, "wb");
    assert(f != NULL && fwrite(bytes, 1, len, f) == len);
    fclose(f);
    free(path);
}

#define INDEX "f.index"
#define DATA "f.data-00000-of-00001"

static void clean(void)
{
    drop(INDEX);
    drop(DATA);
    rmdir(dir);
    free(dir);
}

static void make_dir(void)
{
    const char *tmp = getenv("TMPDIR");

    dir = path_join(tmp != NULL ? tmp : P_tmpdir, "fuzz_tensorflow.XXXXXX");
    assert(mkdtemp(dir) != NULL);
    atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static const uint8_t magic[8] = {0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb};
    const uint8_t *end = len > 0 ? memmem(bytes, len, magic, sizeof magic) : NULL;
    size_t index = end == NULL ? len : (size_t)(end - bytes) + sizeof magic;
    struct err err = ERR_INIT;
    struct ckpt *c;
    char *path;

    if (dir == NULL)
        make_dir();
    put(INDEX, len > 0 ? bytes : magic, index);
    put(DATA, len > 0 ? bytes + index : magic, len - index);
    path = path_join(dir, INDEX);
    c = ckpt_open(path, &err);
    assert_checkpoint(c, &err, dir);
    ckpt_free(c);
    free(path);
    return 0;
}
