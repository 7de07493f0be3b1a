/* test_ckpt.c - what a checkpoint reader must give, and what it must refuse.
 *
 * tests/invalid/<format> holds broken files, each beside the message that must refuse it. What the
 * savers of other frameworks write is in test_ckpt_formats.c. */
#include "recalld/ckpt.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- helpers --------------------------------------------------------------------- */

/* A template for mkstemp or mkdtemp; caller frees. */
static char *temporary_name(void)
{
    const char *dir = getenv("TMPDIR");

    return path_join(dir != NULL ? dir : P_tmpdir, "test_ckpt.XXXXXX");
}

/* A file from its header and data. */
static struct buf encode(const char *header, const void *data, size_t len)
{
    struct buf b = BUF_INIT;

    for (int i = 0; i < 8; i++)
        buf_putc(&b, (char)(strlen(header) >> 8 * i & 0xff));
    buf_puts(&b, header);
    buf_put(&b, data, len);
    return b;
}

static struct ckpt *open_buf(const struct buf *b, struct err *err)
{
    return ckpt_open_mem("mem", b->p, b->len, err);
}

/* Opens bytes that must be good. */
static struct ckpt *open_good(const struct buf *b)
{
    struct err err = ERR_INIT;
    struct ckpt *c = open_buf(b, &err);

    assert_string_equal(err.text, "");
    assert_non_null(c);
    return c;
}

static const float two[2] = {1.5f, -2};
static const float six[6] = {1, 2, 3, 4, 5, 6};
static const struct ckpt_writer_tensor pair[] = {
    {"second/name", 2, {2, 3}, six},
    {"a", 1, {2}, two},
};
static const char *const metadata[] = {"variant", "thudm-mind", "note", "x \"y\"", NULL};

static struct buf pair_file(void)
{
    struct buf b = BUF_INIT;

    ckpt_encode(&b, pair, 2, metadata);
    return b;
}

/* ---- reading --------------------------------------------------------------------- */

static void what_was_written_is_read_back(void **state)
{
    char *path = temporary_name();
    struct err err = ERR_INIT;
    const struct tensor *t;
    struct ckpt *c;
    float *owned;

    (void)state;
    close(mkstemp(path));
    assert_int_equal(ckpt_write(path, pair, 2, metadata, &err), 0);
    c = ckpt_open(path, &err);
    assert_non_null(c);
    unlink(path);
    assert_string_equal(ckpt_name(c), path);
    assert_string_equal(ckpt_format(c), "safetensors");
    assert_int_equal(ckpt_count(c), 2);
    t = ckpt_find(c, "second/name");
    assert_non_null(t);
    assert_ptr_equal(t, ckpt_at(c, 0));
    assert_int_equal(t->dtype, DTYPE_F32);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(t->count, 6);
    assert_int_equal(t->bytes, 24);
    assert_memory_equal(tensor_f32(c, t, &owned, &err), six, sizeof six);
    assert_null(owned);
    assert_string_equal(ckpt_at(c, 1)->name, "a");
    assert_memory_equal(tensor_f32(c, ckpt_find(c, "a"), &owned, &err), two, sizeof two);
    ckpt_free(c);
    free(path);
}

static void a_tensor_that_is_not_there_is_not_found(void **state)
{
    struct buf b = pair_file();
    struct ckpt *c = open_good(&b);

    (void)state;
    assert_null(ckpt_find(c, ""));
    assert_null(ckpt_find(c, "b"));
    assert_null(ckpt_find(c, "second/nam"));
    assert_null(ckpt_find(c, "__metadata__"));
    ckpt_free(c);
    buf_clear(&b);
}

static void metadata_are_strings_by_key(void **state)
{
    struct buf b = pair_file();
    struct ckpt *c = open_good(&b);

    (void)state;
    assert_int_equal(ckpt_meta_count(c), 2);
    assert_string_equal(ckpt_meta_key(c, 0), "variant");
    assert_string_equal(ckpt_meta(c, "variant"), "thudm-mind");
    assert_string_equal(ckpt_meta(c, "note"), "x \"y\"");
    assert_null(ckpt_meta(c, "interests"));
    ckpt_free(c);
    buf_clear(&b);
}

static void a_file_without_tensors_or_metadata_is_good(void **state)
{
    struct buf b = encode("{}", NULL, 0);
    struct ckpt *c = open_good(&b);

    (void)state;
    assert_int_equal(ckpt_count(c), 0);
    assert_int_equal(ckpt_meta_count(c), 0);
    assert_null(ckpt_find(c, "a"));
    ckpt_free(c);
    buf_clear(&b);
}

static void tensors_come_in_the_order_of_their_data(void **state)
{
    struct buf b = encode("{\"late\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8]},"
                          "\"early\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}  ",
                          six, 8);
    struct ckpt *c = open_good(&b);

    (void)state;
    assert_string_equal(ckpt_at(c, 0)->name, "early");
    assert_string_equal(ckpt_at(c, 1)->name, "late");
    assert_int_equal(ckpt_at(c, 1)->n_dims, 0);
    assert_int_equal(ckpt_at(c, 1)->count, 1);
    ckpt_free(c);
    buf_clear(&b);
}

/* ---- values ---------------------------------------------------------------------- */

static float *read_copy(const struct buf *b, struct err *err)
{
    struct ckpt *c = open_good(b);
    float *owned;
    const float *values = tensor_f32(c, ckpt_at(c, 0), &owned, err);

    assert_ptr_equal(values, owned);
    ckpt_free(c);
    return owned;
}

static void aligned_floats_are_a_view_and_others_a_copy(void **state)
{
    /* 56 + 8 bytes of header are a multiple of 4, 57 + 8 are not. */
    struct buf aligned =
        encode("{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}  ", two, 8);
    struct buf odd =
        encode("{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   ", two, 8);
    struct err err = ERR_INIT;
    struct ckpt *c = open_good(&aligned);
    float *owned;

    (void)state;
    assert_ptr_equal(tensor_f32(c, ckpt_at(c, 0), &owned, &err), ckpt_at(c, 0)->data);
    assert_null(owned);
    ckpt_free(c);
    owned = read_copy(&odd, &err);
    assert_memory_equal(owned, two, sizeof two);
    free(owned);
    buf_clear(&aligned);
    buf_clear(&odd);
}

/* By the definition, not by bits. */
static double half_value(unsigned half)
{
    int exponent = half >> 10 & 0x1f;
    double fraction = half & 0x3ff;
    double v = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);

    return half & 0x8000 ? -v : v;
}

static void every_finite_half_becomes_the_same_number(void **state)
{
    enum { N = 63488 };
    static uint16_t halves[N];
    struct err err = ERR_INIT;
    struct buf b;
    float *values;
    size_t n = 0;

    (void)state;
    for (unsigned h = 0; h < 0x10000; h++)
        if ((h & 0x7c00) != 0x7c00)
            halves[n++] = (uint16_t)h;
    assert_int_equal(n, N);
    b = encode("{\"t\":{\"dtype\":\"F16\",\"shape\":[63488],\"data_offsets\":[0,126976]}}", halves,
               sizeof halves);
    values = read_copy(&b, &err);
    assert_non_null(values);
    for (size_t i = 0; i < N; i++) {
        assert_true((double)values[i] == half_value(halves[i]));
        assert_int_equal(!!signbit(values[i]), halves[i] >> 15);
    }
    free(values);
    buf_clear(&b);
}

static void bfloat16_is_the_upper_half_of_a_float(void **state)
{
    static const float expected[] = {1, -2.5f, 0x1p-133f, 3.3895314e38f, 0};
    static const uint16_t bits[] = {0x3f80, 0xc020, 0x0001, 0x7f7f, 0};
    struct buf b = encode("{\"t\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[0,10]}}",
                          bits, sizeof bits);
    struct err err = ERR_INIT;
    float *values = read_copy(&b, &err);

    (void)state;
    assert_memory_equal(values, expected, sizeof expected);
    free(values);
    buf_clear(&b);
}

static void nan_and_infinity_are_refused_by_name_and_place(void **state)
{
    enum { ROWS = 300, DIM = 4 };
    static float values[ROWS][DIM];
    const struct ckpt_writer_tensor t = {"w", 2, {ROWS, DIM}, &values[0][0]};
    static const struct {
        size_t row, column;
        float value;
        const char *text;
    } cases[] = {
        {0, 0, NAN, "mem: tensor w holds NaN at element 0 [0,0]"},
        {257, 3, NAN, "mem: tensor w holds NaN at element 1031 [257,3]"},
        {299, 3, INFINITY, "mem: tensor w holds infinity at element 1199 [299,3]"},
        {1, 2, -INFINITY, "mem: tensor w holds infinity at element 6 [1,2]"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct buf b = BUF_INIT;
        struct ckpt *c;
        float *owned;

        values[cases[i].row][cases[i].column] = cases[i].value;
        ckpt_encode(&b, &t, 1, NULL);
        values[cases[i].row][cases[i].column] = 0;
        c = open_good(&b);
        assert_null(tensor_f32(c, ckpt_at(c, 0), &owned, &err));
        assert_null(owned);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_string_equal(err.text, cases[i].text);
        ckpt_free(c);
        buf_clear(&b);
    }
}

static void an_infinite_half_is_refused_too(void **state)
{
    static const uint16_t bits[] = {0x3c00, 0x7c00};
    struct buf b =
        encode("{\"t\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", bits, 4);
    struct err err = ERR_INIT;

    (void)state;
    assert_null(read_copy(&b, &err));
    assert_string_equal(err.text, "mem: tensor t holds infinity at element 1 [1]");
    buf_clear(&b);
}

static void integers_are_readable_but_not_as_floats(void **state)
{
    static const int64_t one = 1;
    struct buf b =
        encode("{\"ids\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", &one, 8);
    struct ckpt *c = open_good(&b);
    struct err err = ERR_INIT;
    float *owned;

    (void)state;
    assert_int_equal(ckpt_at(c, 0)->dtype, DTYPE_I64);
    assert_null(tensor_f32(c, ckpt_at(c, 0), &owned, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.text, "mem: tensor ids holds I64, floats are needed");
    ckpt_free(c);
    buf_clear(&b);
}

static void a_size_of_zero_fails_no_file(void **state)
{
    struct buf b = encode("{\"z\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[0,0]},"
                          "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                          "\"e\":{\"dtype\":\"I64\",\"shape\":[2,0],\"data_offsets\":[8,8]}}",
                          two, 8);
    struct ckpt *c = open_good(&b);
    struct err err = ERR_INIT;
    struct tensor_facts f;
    float *owned;

    (void)state;
    assert_int_equal(ckpt_count(c), 3);
    assert_int_equal(ckpt_find(c, "z")->shape[1], 3);
    assert_int_equal(ckpt_find(c, "z")->count, 0);
    assert_memory_equal(ckpt_find(c, "a")->data, two, sizeof two);
    assert_null(tensor_f32(c, ckpt_find(c, "z"), &owned, &err));
    assert_string_equal(err.text, "mem: tensor z holds no values, a size of it is 0");
    tensor_measure(c, ckpt_find(c, "e"), &f, NULL, NULL);
    assert_int_equal(f.finite + f.non_finite, 0);
    assert_true(f.xxh3 == hash_bytes("", 0));
    ckpt_free(c);
    buf_clear(&b);
}

static void a_dtype_that_is_not_known_is_listed_and_not_read(void **state)
{
    struct buf b = encode("{\"e\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,3],\"data_offsets\":[0,6]},"
                          "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[6,14]}}",
                          "abcdef\0\0\300\77\0\0\0\300", 14);
    struct ckpt *c = open_good(&b);
    const struct tensor *t = ckpt_find(c, "e");
    struct err err = ERR_INIT;
    const float *values;
    float *owned;

    (void)state;
    assert_int_equal(t->dtype, DTYPE_OTHER);
    assert_string_equal(t->other, "F8_E4M3");
    assert_int_equal(t->count, 6);
    assert_null(t->data);
    assert_int_equal(t->bytes, 0);
    assert_null(tensor_f32(c, t, &owned, &err));
    assert_string_equal(err.text, "mem: tensor e holds F8_E4M3, floats are needed");
    values = tensor_f32(c, ckpt_find(c, "a"), &owned, &err);
    assert_memory_equal(values, two, sizeof two);
    free(owned);
    ckpt_free(c);
    buf_clear(&b);
}

/* ---- measuring ------------------------------------------------------------------- */

static struct tensor_facts measure(const char *dtype, const void *data, size_t len, size_t n)
{
    char header[128];
    struct tensor_facts f;
    struct ckpt *c;
    struct buf b;

    snprintf(header, sizeof header,
             "{\"t\":{\"dtype\":\"%s\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}}", dtype, n, len);
    b = encode(header, data, len);
    c = open_good(&b);
    tensor_measure(c, ckpt_at(c, 0), &f, NULL, NULL);
    assert_true(f.xxh3 == hash_bytes(data, len));
    ckpt_free(c);
    buf_clear(&b);
    return f;
}

static void range_and_what_is_not_finite_are_told_of_every_dtype(void **state)
{
    static const float f32[] = {3, NAN, -2.5f, INFINITY, -INFINITY};
    static const double f64[] = {1e300, -1e-300};
    static const float nothing[] = {NAN, NAN};
    static const int64_t i64[] = {-5, 1234567890123};
    static const int8_t i8[] = {-128, 127, 0};
    static const uint8_t u8[] = {200, 3};
    static const uint16_t f16[] = {0x3c00, 0xc000, 0x7c00};
    struct tensor_facts f = measure("F32", f32, sizeof f32, 5);

    (void)state;
    assert_true(f.min == -2.5 && f.max == 3);
    assert_int_equal(f.finite, 2);
    assert_int_equal(f.non_finite, 3);
    f = measure("F64", f64, sizeof f64, 2);
    assert_true(f.min == -1e-300 && f.max == 1e300 && f.non_finite == 0);
    f = measure("F32", nothing, sizeof nothing, 2);
    assert_true(f.min == 0 && f.max == 0 && f.finite == 0 && f.non_finite == 2);
    f = measure("I64", i64, sizeof i64, 2);
    assert_true(f.min == -5 && f.max == 1234567890123.0);
    f = measure("I8", i8, sizeof i8, 3);
    assert_true(f.min == -128 && f.max == 127);
    f = measure("U8", u8, sizeof u8, 2);
    assert_true(f.min == 3 && f.max == 200);
    f = measure("F16", f16, sizeof f16, 3);
    assert_true(f.min == -2 && f.max == 1 && f.non_finite == 1);
}

/* ---- converting ------------------------------------------------------------------ */

/* More than one piece, with a border within the second tensor. */
static void what_is_converted_reads_back_the_same(void **state)
{
    enum { N = 1500000 };
    float *v = xcalloc(N, sizeof *v);
    const struct ckpt_writer_tensor t[] = {{"a", 1, {2}, two}, {"b", 2, {N / 4, 4}, v}};
    char *from = temporary_name(), *to = xasprintf("%s.out", from);
    struct err err = ERR_INIT;
    const float *again;
    struct ckpt *c;
    float *owned;

    (void)state;
    for (size_t i = 0; i < N; i++)
        v[i] = (float)i;
    close(mkstemp(from));
    assert_int_equal(ckpt_write(from, t, 2, metadata, &err), 0);
    c = ckpt_open(from, &err);
    assert_int_equal(ckpt_convert(c, to, &err), 0);
    ckpt_free(c);
    c = ckpt_open(to, &err);
    assert_string_equal(ckpt_meta(c, "note"), "x \"y\"");
    assert_memory_equal(tensor_f32(c, ckpt_find(c, "a"), &owned, &err), two, sizeof two);
    again = tensor_f32(c, ckpt_find(c, "b"), &owned, &err);
    assert_memory_equal(again, v, N * sizeof *v);
    ckpt_free(c);
    unlink(from);
    unlink(to);
    free(from);
    free(to);
    free(v);
}

/* NaN is for whoever uses the tensor to refuse; a number that is lost is not. */
static void what_float32_cannot_hold_is_not_converted(void **state)
{
    static const double values[] = {1, NAN, -INFINITY, 1e39};
    static const char header[] =
        "{\"t\":{\"dtype\":\"F64\",\"shape\":[%d],\"data_offsets\":[0,%d]}}";
    char *to = temporary_name();

    (void)state;
    close(mkstemp(to));
    unlink(to);
    for (int n = 4; n >= 3; n--) {
        char *text = xasprintf(header, n, 8 * n);
        struct buf b = encode(text, values, 8 * (size_t)n);
        struct ckpt *c = open_good(&b);
        struct err err = ERR_INIT;
        struct tensor_facts f;

        assert_int_equal(ckpt_convert(c, to, &err), n == 4 ? -1 : 0);
        ckpt_free(c);
        if (n == 4) {
            assert_string_equal(
                err.text, "mem: tensor t holds 1e+39 at element 3, which float32 cannot hold");
            assert_int_equal(access(to, F_OK), -1);
        } else {
            c = ckpt_open(to, &err);
            tensor_measure(c, ckpt_at(c, 0), &f, NULL, NULL);
            assert_true(f.non_finite == 2 && f.min == 1 && f.max == 1);
            ckpt_free(c);
        }
        buf_clear(&b);
        free(text);
    }
    unlink(to);
    free(to);
}

/* ---- refusing -------------------------------------------------------------------- */

/* What a message says behind the path it begins with, or behind the folder of another file. */
static const char *reason(const struct err *err, const char *path, const char *dir)
{
    if (strncmp(err->text, path, strlen(path)) == 0)
        return err->text + strlen(path) + strlen(": ");
    assert_int_equal(strncmp(err->text, dir, strlen(dir)), 0);
    return err->text + strlen(dir) + strlen("/");
}

/* TensorFlow's files name each other; the others are read from a block of just their size. */
static struct ckpt *open_invalid(const char *path, struct err *err)
{
    struct buf bytes = BUF_INIT;
    struct ckpt *c;
    char *block;

    if (strstr(path, ".index") != NULL)
        return ckpt_open(path, err);
    assert_int_equal(file_read(path, 1 << 20, &bytes, err), 0);
    block = malloc(bytes.len + 1);
    memcpy(block + 1, bytes.len > 0 ? bytes.p : "", bytes.len);
    c = ckpt_open_mem(path, block + 1, bytes.len, err);
    buf_clear(&bytes);
    free(block);
    return c;
}

static void check_invalid(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    char *message = xasprintf("%.*s.txt", (int)(strrchr(path, '.') - path), path);
    struct buf expected = BUF_INIT;
    struct err err = ERR_INIT;

    assert_int_equal(file_read(message, 4096, &expected, &err), 0);
    expected.len--; /* '\n' */
    assert_null(open_invalid(path, &err));
    assert_string_equal(reason(&err, path, dir), buf_cstr(&expected));
    assert_true(err.code == ERR_FORMAT || err.code == ERR_LIMIT || err.code == ERR_NOT_FOUND);
    buf_clear(&expected);
    free(path);
    free(message);
}

static void every_broken_file_is_refused_with_its_message(void **state)
{
    static const struct {
        const char *dir, *end;
        size_t least;
    } folders[] = {
        {"tests/invalid/safetensors", ".safetensors", 37},
        {"tests/invalid/pdparams", ".pdparams", 100},
        {"tests/invalid/torch", ".pt", 80},
        {"tests/invalid/tensorflow", ".index", 60},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        DIR *dir = opendir(folders[i].dir);
        size_t n = 0;

        assert_non_null(dir);
        for (struct dirent *e; (e = readdir(dir)) != NULL;) {
            const char *end = strrchr(e->d_name, '.');

            if (end == NULL || strcmp(end, folders[i].end) != 0)
                continue;
            check_invalid(folders[i].dir, e->d_name);
            n++;
        }
        closedir(dir);
        assert_true(n >= folders[i].least);
    }
}

static void other_formats_are_recognised_and_not_read(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *text;
    } cases[] = {
        {"\x89HDF\r\n\x1a\n", 8,
         "f: recognised as HDF5 (Keras .h5), which is not read: save its weights as safetensors "
         "(docs/models.md has the lines)"},
        {"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\7\0\0\0\x08\5\x12\1\2....", 29,
         "f: recognised as Paddle .pdiparams, which is not read: its names are in another file; "
         "save the training model's state_dict with paddle.save"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;

        assert_null(ckpt_open_mem("f", cases[i].bytes, cases[i].len, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_string_equal(err.text, cases[i].text);
    }
}

/* 640 = 0x280: the length looks like the start of a pickle. */
static void a_header_of_640_bytes_is_no_pickle(void **state)
{
    struct buf header = BUF_INIT, b;
    struct ckpt *c;

    (void)state;
    buf_puts(&header, "{}");
    while (header.len < 640)
        buf_putc(&header, ' ');
    b = encode(buf_cstr(&header), NULL, 0);
    c = open_good(&b);
    ckpt_free(c);
    buf_clear(&header);
    buf_clear(&b);
}

static void a_header_beyond_100_megabytes_is_refused(void **state)
{
    enum { LEN = 100000001 };
    struct err err = ERR_INIT;
    char *bytes = calloc(1, LEN + 8); /* pages of zeros, never touched */
    uint64_t len = LEN;

    (void)state;
    memcpy(bytes, &len, sizeof len);
    bytes[8] = '{';
    assert_null(ckpt_open_mem("big", bytes, LEN + 8, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    assert_string_equal(err.text, "big: the header has 100000001 bytes, the limit is 100000000");
    free(bytes);
}

static void more_than_100000_tensors_are_refused(void **state)
{
    struct err err = ERR_INIT;
    struct buf header = BUF_INIT, b;

    (void)state;
    for (int i = 0; i < 100001; i++)
        buf_printf(&header, "%c\"%d\":0", i == 0 ? '{' : ',', i);
    buf_putc(&header, '}');
    b = encode(buf_cstr(&header), NULL, 0);
    assert_null(open_buf(&b, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    assert_string_equal(err.text, "mem: more than 100000 tensors");
    buf_clear(&header);
    buf_clear(&b);
}

static void a_file_that_is_not_there_says_so(void **state)
{
    struct err err = ERR_INIT;

    (void)state;
    assert_null(ckpt_open("/nonexistent/w.safetensors", &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nonexistent/w.safetensors"));
}

static void every_shorter_file_is_refused(void **state)
{
    struct buf b = pair_file();

    (void)state;
    for (size_t len = 0; len < b.len; len++) {
        struct err err = ERR_INIT;
        char *cut = malloc(len + 1); /* its own block: reading past it is seen */

        memcpy(cut, b.p, len);
        assert_null(ckpt_open_mem("cut", cut, len, &err));
        assert_int_not_equal(err.code, ERR_NONE);
        free(cut);
    }
    buf_clear(&b);
}

/* Whatever a changed file says, it is read inside its bounds or refused with a sentence. */
static void changed_bytes_never_lead_outside_the_file(void **state)
{
    struct buf good = pair_file();
    uint64_t random = 1;

    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct err err = ERR_INIT;
        char *bytes = malloc(good.len);
        struct ckpt *c;

        memcpy(bytes, good.p, good.len);
        for (int i = 0; i <= round % 3; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            bytes[(random >> 33) % good.len] = (char)(random >> 24);
        }
        c = ckpt_open_mem("changed", bytes, good.len, &err);
        assert_int_equal(c == NULL, err.code != ERR_NONE);
        for (size_t i = 0; c != NULL && i < ckpt_count(c); i++) {
            float *owned = NULL;

            err_clear(&err);
            if (tensor_f32(c, ckpt_at(c, i), &owned, &err) == NULL)
                assert_int_not_equal(err.code, ERR_NONE);
            free(owned);
        }
        ckpt_free(c);
        free(bytes);
    }
    buf_clear(&good);
}

static void running_out_of_memory_is_an_error_with_nothing_leaked(void **state)
{
    static const uint16_t halves[2] = {0x3c00, 0};
    struct buf b = encode("{\"__metadata__\":{\"k\":\"v\"},"
                          "\"t\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}",
                          halves, 4);
    struct ckpt *c = NULL;
    float *owned = NULL;
    unsigned n = 0;

    (void)state;
    while (owned == NULL) {
        struct err err = ERR_INIT;

        mem_test_fail_at(++n);
        c = open_buf(&b, &err);
        if (c != NULL && tensor_f32(c, ckpt_at(c, 0), &owned, &err) == NULL)
            ckpt_free(c);
        if (owned == NULL)
            assert_int_equal(err.code, ERR_NOMEM);
    }
    mem_test_fail_at(0);
    assert_true(n >= 4); /* metadata, tensors, names, values */
    assert_true(owned[0] == 1);
    free(owned);
    ckpt_free(c);
    buf_clear(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read_back),
        cmocka_unit_test(a_tensor_that_is_not_there_is_not_found),
        cmocka_unit_test(metadata_are_strings_by_key),
        cmocka_unit_test(a_file_without_tensors_or_metadata_is_good),
        cmocka_unit_test(tensors_come_in_the_order_of_their_data),
        cmocka_unit_test(aligned_floats_are_a_view_and_others_a_copy),
        cmocka_unit_test(every_finite_half_becomes_the_same_number),
        cmocka_unit_test(bfloat16_is_the_upper_half_of_a_float),
        cmocka_unit_test(nan_and_infinity_are_refused_by_name_and_place),
        cmocka_unit_test(an_infinite_half_is_refused_too),
        cmocka_unit_test(integers_are_readable_but_not_as_floats),
        cmocka_unit_test(a_size_of_zero_fails_no_file),
        cmocka_unit_test(a_dtype_that_is_not_known_is_listed_and_not_read),
        cmocka_unit_test(range_and_what_is_not_finite_are_told_of_every_dtype),
        cmocka_unit_test(what_is_converted_reads_back_the_same),
        cmocka_unit_test(what_float32_cannot_hold_is_not_converted),
        cmocka_unit_test(every_broken_file_is_refused_with_its_message),
        cmocka_unit_test(other_formats_are_recognised_and_not_read),
        cmocka_unit_test(a_header_of_640_bytes_is_no_pickle),
        cmocka_unit_test(a_header_beyond_100_megabytes_is_refused),
        cmocka_unit_test(more_than_100000_tensors_are_refused),
        cmocka_unit_test(a_file_that_is_not_there_says_so),
        cmocka_unit_test(every_shorter_file_is_refused),
        cmocka_unit_test(changed_bytes_never_lead_outside_the_file),
        cmocka_unit_test(running_out_of_memory_is_an_error_with_nothing_leaked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
