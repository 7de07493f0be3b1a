/* test_ckpt_formats.c - what the frameworks' own savers write, read to the bit; and the same files
 * cut and changed in every place.
 *
 * tests/golden/ckpt holds the files. A value in them follows from its tensor's name and its
 * position: see make.py there. */
#include "../../src/ckpt/crc32.h"
#include "../../src/ckpt/crc32c.h"
#include "recalld/ckpt.h"

#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DIR "tests/golden/ckpt/"

#define NUMPY                                                                                 \
    "w F32 3x5; deep.er F32 2x3x4; h F16 4; d F64 3; i8 I64 3; i4 I32 3; i2 I16 3; i1 I8 3; " \
    "u1 U8 3; flag BOOL 5; one F32; columns F32 3x5; cube F32 2x3x4; complex c8 2"
#define PADDLE                                                                                 \
    "h16 F16 3; b16 BF16 3; count I64 2; item_emb.weight F32 7x4; relu_layer.weight F32 4x4; " \
    "relu_layer.bias F32 4"
#define SLICED "w F32 5x7; v F64 4x4; small F32 5"
#define VIEWS                                                                                     \
    "w F32 3x5; transposed F32 3x5; permuted F32 2x3x4; view F32 4; wiev F32 4; offset F32 2x3; " \
    "step F32 4; expanded F32 1x1; h F16 4; b BF16 4; d F64 3; i8 I64 3; i4 I32 3; i2 I16 3; "    \
    "i1 I8 3; u1 U8 3; flag BOOL 5; one F32; complex ComplexFloatStorage 2"
#define LINEAR "weight F32 2x3; bias F32 2"
#define TF1                                                                                \
    "brain BF16 3; capsule_network/bilinear/dense/kernel F32 4x4; columns F32 2x5x3; "     \
    "double F64 3; half F16 3; long F32 300x1; mid_embedding_var F32 7x4; rows F32 10x3; " \
    "step I64; text TensorFlow type 7 2"
#define GRAPH "_CHECKPOINTABLE_OBJECT_GRAPH TensorFlow type 7; "

static const struct golden {
    const char *path, *format, *tensors;
    const char *prefix; /* of the names that the values follow from, without the one shown */
} goldens[] = {
    {"numpy-p2.pdparams", "Paddle .pdparams", NUMPY, ""},
    {"numpy-p3.pdparams", "Paddle .pdparams", NUMPY, ""},
    {"numpy-p4.pdparams", "Paddle .pdparams", NUMPY, ""},
    {"numpy1-p2.pdparams", "Paddle .pdparams", NUMPY, ""},
    {"numpy1-p3.pdparams", "Paddle .pdparams", NUMPY, ""},
    {"numpy1-p4.pdparams", "Paddle .pdparams", NUMPY, ""},
    {"paddle-p2.pdparams", "Paddle .pdparams", PADDLE, ""},
    {"paddle-p3.pdparams", "Paddle .pdparams", PADDLE, ""},
    {"paddle-p4.pdparams", "Paddle .pdparams", PADDLE, ""},
    {"paddle-nested.pdparams", "Paddle .pdparams", PADDLE, ""},
    {"paddle-sliced-p2.pdparams", "Paddle .pdparams", SLICED, ""},
    {"paddle-sliced-p3.pdparams", "Paddle .pdparams", SLICED, ""},
    {"torch-zip-views.pt", "PyTorch", VIEWS, ""},
    {"torch-zip-prefix.pt", "PyTorch", VIEWS, ""},
    {"torch-zip-module.pt", "PyTorch", LINEAR, ""},
    {"torch-zip-nested.pt", "PyTorch", LINEAR, ""},
    {"torch-legacy-views.pt", "PyTorch, legacy", VIEWS, ""},
    {"torch-legacy-prefix.pt", "PyTorch, legacy", VIEWS, ""},
    {"torch-legacy-module.pt", "PyTorch, legacy", LINEAR, ""},
    {"torch-legacy-nested.pt", "PyTorch, legacy", LINEAR, ""},
    {"tensorflow/model.ckpt-7.index", "TensorFlow", TF1, ""},
    {"tensorflow/model.ckpt-7", "TensorFlow", TF1, ""},
    {"tensorflow", "TensorFlow", TF1, ""},
    {"tensorflow/objects", "TensorFlow", GRAPH "net/kernel F32 4x3; net/layers/0 F32 5", "net/"},
    {"savedmodel", "TensorFlow", GRAPH "kernel F32 4x3; layers/0 F32 5", ""},
};

/* ---- helpers --------------------------------------------------------------------- */

/* "name dtype sizes; ..." */
static struct buf describe(const struct ckpt *c)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < ckpt_count(c); i++) {
        const struct tensor *t = ckpt_at(c, i);

        buf_printf(&b, "%s%s %s", i > 0 ? "; " : "", t->name,
                   t->dtype == DTYPE_OTHER ? t->other : dtype_name(t->dtype));
        for (int d = 0; d < t->n_dims; d++)
            buf_printf(&b, "%c%zu", d > 0 ? 'x' : ' ', t->shape[d]);
    }
    return b;
}

/* Element i by the rule of make.py: 0..250. */
static int expected(const char *name, size_t i)
{
    size_t sum = 0;

    for (; *name != '\0'; name++)
        sum += (unsigned char)*name;
    return (int)((sum + 37 * i) % 251);
}

static int64_t integer_at(const struct tensor *t, size_t i)
{
    size_t size = dtype_size(t->dtype);
    uint64_t v = 0;

    for (size_t b = 0; b < size; b++)
        v |= (uint64_t)t->data[i * size + b] << (8 * b);
    if (t->dtype == DTYPE_U8 || t->dtype == DTYPE_BOOL)
        return (int64_t)v;
    return (int64_t)(v << (64 - 8 * size)) >> (64 - 8 * size);
}

static void check_values(const struct ckpt *c, const struct tensor *t, const char *name)
{
    struct err err = ERR_INIT;
    float *owned;
    const float *v = tensor_f32(c, t, &owned, &err);

    if (t->dtype > DTYPE_BF16)
        assert_null(v);
    if (t->dtype == DTYPE_OTHER) {
        assert_true(t->data == NULL && t->bytes == 0);
        return;
    }
    for (size_t i = 0; i < t->count; i++) {
        int e = expected(name, i);

        if (v != NULL)
            assert_true(v[i] == (float)(e - 125) / 64);
        else if (t->dtype == DTYPE_BOOL)
            assert_int_equal(integer_at(t, i), e % 2);
        else
            assert_int_equal(integer_at(t, i), t->dtype == DTYPE_U8 ? e : e - 125);
    }
    free(owned);
}

/* A name under which files can be made. Caller removes it, by remove_dir, and frees. */
static char *make_dir(void)
{
    const char *tmp = getenv("TMPDIR");
    char *dir = path_join(tmp != NULL ? tmp : P_tmpdir, "test_ckpt_formats.XXXXXX");

    assert_non_null(mkdtemp(dir));
    return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_dir(char *dir)
{
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(dir);
}

/* A new file each time: what is cut to nothing and written again may be waited for. */
static void put_file(const char *dir, const char *name, const void *bytes, size_t len)
{
    char *path = path_join(dir, name);
    FILE *f;

    unlink(path);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    free(path);
}

static struct buf get_file(const char *path)
{
    struct buf b = BUF_INIT;
    struct err err = ERR_INIT;

    assert_int_equal(file_read(path, 1 << 20, &b, &err), 0);
    return b;
}

/* ---- what savers write ------------------------------------------------------------ */

static void every_saver_s_file_is_read_to_the_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
        const struct golden *g = &goldens[i];
        char *path = xasprintf(DIR "%s", g->path);
        struct err err = ERR_INIT;
        struct ckpt *c = ckpt_open(path, &err);
        struct buf text;

        assert_string_equal(err.text, "");
        assert_non_null(c);
        assert_string_equal(ckpt_format(c), g->format);
        text = describe(c);
        assert_string_equal(buf_cstr(&text), g->tensors);
        for (size_t k = 0; k < ckpt_count(c); k++)
            check_values(c, ckpt_at(c, k),
                         ckpt_at(c, k)->name +
                             strlen(g->prefix) *
                                 (strncmp(ckpt_at(c, k)->name, g->prefix, strlen(g->prefix)) == 0));
        buf_clear(&text);
        ckpt_free(c);
        free(path);
    }
}

static void a_file_of_several_is_not_read_from_memory(void **state)
{
    struct buf b = get_file(DIR "savedmodel/variables/variables.index");
    struct err err = ERR_INIT;

    (void)state;
    assert_null(ckpt_open_mem("f", b.p, b.len, &err));
    assert_string_equal(err.text, "f: TensorFlow's tensors are in other files: recallctl ckpt "
                                  "convert makes one file of them");
    buf_clear(&b);
}

static void floats_of_a_zip_are_views_into_it(void **state)
{
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open(DIR "torch-zip-module.pt", &err);
    float *owned;

    (void)state;
    assert_non_null(c);
    assert_ptr_equal(tensor_f32(c, ckpt_find(c, "weight"), &owned, &err),
                     ckpt_find(c, "weight")->data);
    assert_null(owned);
    ckpt_free(c);
}

static void nan_is_refused_whatever_the_format(void **state)
{
    static const char *const paths[] = {"numpy-p4.pdparams", "torch-zip-views.pt",
                                        "torch-legacy-views.pt"};
    static const float nan_value = NAN;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        char *path = xasprintf(DIR "%s", paths[i]);
        struct buf b = get_file(path);
        struct err err = ERR_INIT;
        struct ckpt *c = ckpt_open_mem("f", b.p, b.len, &err);
        const struct tensor *t = c == NULL ? NULL : ckpt_find(c, "w");
        float *owned;

        assert_non_null(t);
        memcpy(b.p + (t->data - (const uint8_t *)b.p) + 28, &nan_value, sizeof nan_value);
        assert_null(tensor_f32(c, t, &owned, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_string_equal(err.text, "f: tensor w holds NaN at element 7 [1,2]");
        ckpt_free(c);
        buf_clear(&b);
        free(path);
    }
}

static void a_double_beyond_float_is_refused(void **state)
{
    static const double large = 1e39;
    struct buf b = get_file(DIR "torch-zip-views.pt");
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open_mem("f", b.p, b.len, &err);
    const struct tensor *t = ckpt_find(c, "d");
    float *owned;

    (void)state;
    memcpy(b.p + (t->data - (const uint8_t *)b.p) + 8, &large, sizeof large);
    assert_null(tensor_f32(c, t, &owned, &err));
    assert_string_equal(err.text, "f: tensor d holds infinity at element 1 [1]");
    ckpt_free(c);
    buf_clear(&b);
}

static void the_checksum_of_zip_files_is_crc_32(void **state)
{
    uint8_t bytes[100];

    (void)state;
    assert_int_equal(crc32_update(0, "123456789", 9), 0xcbf43926); /* the check value of CRC-32 */
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 89);
    for (size_t n = 0; n <= sizeof bytes; n++)
        assert_int_equal(crc32_update(crc32_update(0, bytes, n), bytes + n, sizeof bytes - n),
                         crc32_update(0, bytes, sizeof bytes));
}

static void a_changed_byte_of_a_zip_file_is_seen_when_it_is_verified(void **state)
{
    struct buf b = get_file(DIR "torch-zip-module.pt");
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open_mem("f", b.p, b.len, &err);
    size_t at = (size_t)(ckpt_find(c, "bias")->data - (const uint8_t *)b.p);
    char *expected;

    (void)state;
    assert_true(ckpt_verify_bytes(c) > 24);
    assert_int_equal(ckpt_verify(c, NULL, NULL, &err), 0);
    b.p[at] ^= 1;
    assert_int_equal(ckpt_verify(c, NULL, NULL, &err), -1);
    expected = xasprintf("f: offset %zu: the checksum of entry ", at);
    assert_int_equal(strncmp(err.text, expected, strlen(expected)), 0);
    assert_non_null(strstr(err.text, "/data/1 is wrong: the file is damaged"));
    free(expected);
    ckpt_free(c);
    buf_clear(&b);
}

static void both_ways_to_sum_agree(void **state)
{
    uint8_t bytes[100];

    (void)state;
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283); /* RFC 3720, B.4, has others */
    assert_int_equal(crc32c_plain(0, "123456789", 9), 0xe3069283);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 89);
    for (size_t n = 0; n <= sizeof bytes; n++) {
        assert_int_equal(crc32c(0, bytes, n), crc32c_plain(0, bytes, n));
        assert_int_equal(crc32c(crc32c(0, bytes, n / 3), bytes + n / 3, n - n / 3),
                         crc32c(0, bytes, n));
    }
}

/* ---- what a folder means ----------------------------------------------------------- */

static void expect_refusal(const char *path, const char *reason)
{
    struct err err = ERR_INIT;

    assert_null(ckpt_open(path, &err));
    assert_non_null(strstr(err.text, reason));
}

static void a_folder_that_is_no_checkpoint_says_what_to_do(void **state)
{
    static const char state_file[] = "model_checkpoint_path: \"../gone\"\n";
    char *dir = make_dir();

    (void)state;
    expect_refusal(dir, "a folder with neither variables/variables.index (a SavedModel) nor "
                        "checkpoint");
    put_file(dir, ".metadata", "", 0);
    expect_refusal(dir, "recognised as torch.distributed.checkpoint, which is not read: python3 "
                        "-m torch.distributed.checkpoint.format_utils dcp_to_torch");
    put_file(dir, "checkpoint", state_file, sizeof state_file - 1);
    expect_refusal(dir, "../gone.index: ");
    put_file(dir, "checkpoint", state_file, sizeof state_file - 3);
    expect_refusal(dir, "checkpoint: does not begin with model_checkpoint_path");
    put_file(dir, "checkpoint", "", 0);
    expect_refusal(dir, "checkpoint: does not begin with model_checkpoint_path");
    remove_dir(dir);
}

/* ---- damaged files ----------------------------------------------------------------- */

/* All that can be asked of what was opened stays in bounds. */
static void use(struct ckpt *c, const struct err *why)
{
    assert_int_equal(c == NULL, why->code != ERR_NONE);
    for (size_t i = 0; c != NULL && i < ckpt_count(c); i++) {
        struct err err = ERR_INIT;
        float *owned = NULL;

        if (tensor_f32(c, ckpt_at(c, i), &owned, &err) == NULL)
            assert_int_not_equal(err.code, ERR_NONE);
        free(owned);
        assert_ptr_equal(ckpt_find(c, ckpt_at(c, i)->name), ckpt_at(c, i));
    }
    ckpt_free(c);
}

static bool is_single_file(const struct golden *g)
{
    return strcmp(g->format, "TensorFlow") != 0;
}

static void every_cut_of_a_file_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
        char *path = xasprintf(DIR "%s", goldens[i].path);
        struct buf b = is_single_file(&goldens[i]) ? get_file(path) : (struct buf)BUF_INIT;

        for (size_t len = 0; len < b.len; len++) {
            struct err err = ERR_INIT;
            char *cut = malloc(len + 1); /* its own block: reading past it is seen */

            memcpy(cut + 1, b.p, len);
            assert_null(ckpt_open_mem("cut", cut + 1, len, &err));
            assert_true(err.code == ERR_FORMAT || err.code == ERR_LIMIT);
            free(cut);
        }
        buf_clear(&b);
        free(path);
    }
}

static void every_changed_byte_is_read_in_bounds_or_refused(void **state)
{
    static const uint8_t masks[] = {0x01, 0xc0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
        char *path = xasprintf(DIR "%s", goldens[i].path);
        struct buf b = is_single_file(&goldens[i]) ? get_file(path) : (struct buf)BUF_INIT;
        uint8_t *bytes = malloc(b.len + 1);

        for (size_t at = 0; at < b.len; at++)
            for (size_t k = 0; k < ARRAY_LEN(masks); k++) {
                struct err err = ERR_INIT;

                memcpy(bytes + 1, b.p, b.len);
                bytes[1 + at] ^= masks[k];
                use(ckpt_open_mem("changed", bytes + 1, b.len, &err), &err);
            }
        free(bytes);
        buf_clear(&b);
        free(path);
    }
}

static const char *const shards[] = {"model.ckpt-7.index", "model.ckpt-7.data-00000-of-00002",
                                     "model.ckpt-7.data-00001-of-00002"};

/* Not summed, or not by us: the list of blocks that nobody reads, and strings. The second data file
 * holds one. */
static void damage_to_any_of_tensorflow_s_files_is_seen(void **state)
{
    char *dir = make_dir(), *index = path_join(dir, "model.ckpt-7");
    struct buf b[3];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shards); i++) {
        char *path = xasprintf(DIR "tensorflow/%s", shards[i]);

        b[i] = get_file(path);
        put_file(dir, shards[i], b[i].p, b[i].len);
        free(path);
    }
    for (size_t i = 0; i < ARRAY_LEN(shards); i++) {
        for (size_t at = 0; at < b[i].len; at++) {
            struct err err = ERR_INIT;

            put_file(dir, shards[i], b[i].p, at);
            assert_null(ckpt_open(index, &err));
            err_clear(&err);
            b[i].p[at] ^= 0x41;
            put_file(dir, shards[i], b[i].p, b[i].len);
            b[i].p[at] ^= 0x41;
            if (i == 1)
                assert_null(ckpt_open(index, &err));
            else
                use(ckpt_open(index, &err), &err);
        }
        put_file(dir, shards[i], b[i].p, b[i].len);
    }
    for (size_t i = 0; i < ARRAY_LEN(shards); i++)
        buf_clear(&b[i]);
    free(index);
    remove_dir(dir);
}

static void memory_that_runs_out_is_an_error_with_nothing_leaked(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
        char *path = xasprintf(DIR "%s", goldens[i].path);
        struct ckpt *c = NULL;
        unsigned n = 0;

        while (c == NULL) {
            struct err err = ERR_INIT;

            mem_test_fail_at(++n);
            c = ckpt_open(path, &err);
            mem_test_fail_at(0);
            if (c == NULL)
                assert_int_equal(err.code, ERR_NOMEM);
        }
        ckpt_free(c);
        free(path);
    }
}

/* ---- bounds ------------------------------------------------------------------------ */

static size_t peak_memory(void)
{
    struct rusage use;

    assert_int_equal(getrusage(RUSAGE_SELF, &use), 0);
    return (size_t)use.ru_maxrss * 1024;
}

/* A pickle of `head`, then `unit` again and again. */
static struct buf repeated(const char *head, size_t head_len, const char *unit, size_t unit_len,
                           size_t len)
{
    struct buf b = BUF_INIT;

    buf_put(&b, head, head_len);
    while (b.len < len)
        buf_put(&b, unit, unit_len);
    buf_puts(&b, ".");
    return b;
}

/* A file may cost 40 bytes a byte; what is below that is tested up to a size where it shows. */
static void a_pickle_costs_memory_in_proportion_to_its_size(void **state)
{
    enum { SIZE = 1 << 20 };
#define TEXT(s) s, sizeof s - 1
    static const struct {
        const char *head;
        size_t head_len;
        const char *unit;
        size_t unit_len;
    } cases[] = {
        {TEXT("\x80\x04"), TEXT("]")},
        {TEXT("\x80\x04"), TEXT("N")},
        {TEXT("\x80\x04]"), TEXT("]a")},
        {TEXT("\x80\x04]"), TEXT("Na")},
        {TEXT("\x80\x04]"), TEXT("]\x94"
                                 "a")},
        {TEXT("\x80\x04]q\0"), TEXT("h\0a")},
        {TEXT("\x80\x04](K\1K\2t"), TEXT("\x94")},
        {TEXT("\x80\x04]"), TEXT("(NNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNe")},
        {TEXT("\x80\x04](NNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNtq\0"),
         TEXT("(h\0h\0h\0h\0h\0h\0h\0h\0h\0h\0t")},
        {TEXT("\x80\4ccollections\nOrderedDict\nq\0](K\1K\2\x86q\1h\1h\1h\1h\1h\1h\1h\1h\1h\1h\1e"
              "\x85q\2"),
         TEXT("h\0h\2R")},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf b =
            repeated(cases[i].head, cases[i].head_len, cases[i].unit, cases[i].unit_len, SIZE);
        size_t before = peak_memory();
        struct err err = ERR_INIT;

        assert_null(ckpt_open_mem("f", b.p, b.len, &err));
        assert_true(err.code == ERR_FORMAT || err.code == ERR_LIMIT);
        assert_true(peak_memory() - before < 48 * (size_t)SIZE);
        buf_clear(&b);
    }
}

static void put_le(struct buf *b, uint64_t v, int width)
{
    for (int i = 0; i < width; i++)
        buf_putc(b, (char)(i < 8 ? v >> (8 * i) : 0));
}

/* Writes `bytes` at `at` of a file that is a hole elsewhere. */
static void put_at(int fd, size_t at, const struct buf *b)
{
    assert_int_equal(pwrite(fd, b->p, b->len, (off_t)at), b->len);
}

#define LARGE ((size_t)4400 * 1000 * 1000) /* more than 32 bits hold */

static int make_hole(const char *path, size_t len)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    struct stat st;

    assert_true(fd >= 0);
    if (ftruncate(fd, (off_t)len) != 0 || fstat(fd, &st) != 0 || st.st_blocks > 2048)
        fail_msg("the file system of %s cannot hold a file of %zu bytes that is a hole: set TMPDIR "
                 "to one that can",
                 path, len);
    return fd;
}

static size_t resident_memory(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    size_t size, resident;

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%zu %zu", &size, &resident), 2);
    fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void check_large(const char *path, const char *format)
{
    size_t before = resident_memory();
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open(path, &err);

    assert_string_equal(err.text, "");
    assert_non_null(c);
    assert_string_equal(ckpt_format(c), format);
    assert_int_equal(ckpt_at(c, 0)->bytes, LARGE);
    assert_int_equal(ckpt_at(c, 0)->data[LARGE - 1], 0);
    assert_true(resident_memory() < before + (8 << 20));
    ckpt_free(c);
}

static void four_gigabytes_of_safetensors_are_opened_unread(void **state)
{
    char *dir = make_dir(), *path = path_join(dir, "large");
    struct buf b = BUF_INIT;
    char header[128];
    int fd;

    (void)state;
    snprintf(header, sizeof header,
             "{\"w\":{\"dtype\":\"F32\",\"shape\":[%zu,64],\"data_offsets\":[0,%zu]}}", LARGE / 256,
             LARGE);
    put_le(&b, strlen(header), 8);
    buf_puts(&b, header);
    fd = make_hole(path, b.len + LARGE);
    put_at(fd, 0, &b);
    close(fd);
    check_large(path, "safetensors");
    buf_clear(&b);
    free(path);
    remove_dir(dir);
}

static void put_local(struct buf *b, const char *name)
{
    buf_puts(b, "PK\3\4");
    put_le(b, 45, 2);
    put_le(b, 0, 20);
    put_le(b, strlen(name), 2);
    put_le(b, 0, 2);
    buf_puts(b, name);
}

/* Size and place are in the zip64 field, as of an entry that needs them there. */
static void put_central(struct buf *b, const char *name, size_t at, size_t size)
{
    buf_puts(b, "PK\1\2");
    put_le(b, 45, 4);
    put_le(b, 0, 12);
    put_le(b, UINT64_MAX, 8);
    put_le(b, strlen(name), 2);
    put_le(b, 28, 2);
    put_le(b, 0, 10);
    put_le(b, UINT64_MAX, 4);
    buf_puts(b, name);
    put_le(b, 1, 2);
    put_le(b, 24, 2);
    put_le(b, size, 8);
    put_le(b, size, 8);
    put_le(b, at, 8);
}

static void put_end(struct buf *b, size_t directory, size_t size)
{
    size_t at = directory + size;

    buf_puts(b, "PK\6\6");
    put_le(b, 44, 8);
    put_le(b, 0, 12);
    put_le(b, 2, 8);
    put_le(b, 2, 8);
    put_le(b, size, 8);
    put_le(b, directory, 8);
    buf_puts(b, "PK\6\7");
    put_le(b, 0, 4);
    put_le(b, at, 8);
    put_le(b, 1, 4);
    buf_puts(b, "PK\5\6");
    put_le(b, 0, 4);
    put_le(b, UINT64_MAX, 4);
    put_le(b, UINT64_MAX, 8);
    put_le(b, 0, 2);
}

/* {"w": a matrix of 64 columns that is all of storage 0} */
static void put_pickle(struct buf *b)
{
    static const char head[] = "\x80\2}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(("
                               "X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuJ";

    buf_put(b, head, sizeof head - 1);
    put_le(b, LARGE / 4, 4);
    buf_put(b, "tQK\0J", 5);
    put_le(b, LARGE / 256, 4);
    buf_puts(b, "K@\x86K@K\1\x86\x89}tRs.");
}

static void four_gigabytes_of_torch_are_opened_unread(void **state)
{
    char *dir = make_dir(), *path = path_join(dir, "large");
    struct buf front = BUF_INIT, back = BUF_INIT;
    size_t pickle, data, size;
    int fd;

    (void)state;
    put_local(&front, "a/data.pkl");
    pickle = front.len;
    put_pickle(&front);
    data = front.len;
    put_local(&front, "a/data/0");
    put_central(&back, "a/data.pkl", 0, data - pickle);
    put_central(&back, "a/data/0", data, LARGE);
    size = back.len;
    put_end(&back, front.len + LARGE, size);
    fd = make_hole(path, front.len + LARGE + back.len);
    put_at(fd, 0, &front);
    put_at(fd, front.len + LARGE, &back);
    close(fd);
    check_large(path, "PyTorch");
    buf_clear(&front);
    buf_clear(&back);
    free(path);
    remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pickle_costs_memory_in_proportion_to_its_size),
        cmocka_unit_test(every_saver_s_file_is_read_to_the_bit),
        cmocka_unit_test(a_file_of_several_is_not_read_from_memory),
        cmocka_unit_test(floats_of_a_zip_are_views_into_it),
        cmocka_unit_test(nan_is_refused_whatever_the_format),
        cmocka_unit_test(a_double_beyond_float_is_refused),
        cmocka_unit_test(both_ways_to_sum_agree),
        cmocka_unit_test(the_checksum_of_zip_files_is_crc_32),
        cmocka_unit_test(a_changed_byte_of_a_zip_file_is_seen_when_it_is_verified),
        cmocka_unit_test(a_folder_that_is_no_checkpoint_says_what_to_do),
        cmocka_unit_test(every_cut_of_a_file_is_refused),
        cmocka_unit_test(every_changed_byte_is_read_in_bounds_or_refused),
        cmocka_unit_test(damage_to_any_of_tensorflow_s_files_is_seen),
        cmocka_unit_test(memory_that_runs_out_is_an_error_with_nothing_leaked),
        cmocka_unit_test(four_gigabytes_of_safetensors_are_opened_unread),
        cmocka_unit_test(four_gigabytes_of_torch_are_opened_unread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
