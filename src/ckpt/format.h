/* format.h - what a checkpoint format has to provide. Private to ckpt/.
 *
 * A new format is one file with a `load` function and one row of the table in ckpt.c. */
#ifndef CKPT_FORMAT_H
#define CKPT_FORMAT_H

#include "recalld/ckpt.h"

#include <jansson.h>

/* Limits every format keeps; they bound what a hostile file can make us allocate. */
#define CKPT_MAX_TENSORS 100000
#define CKPT_MAX_NAME 1024

struct ckpt_meta {
    const char *key, *value;
};

struct owned {
    struct owned *next;
    _Alignas(64) uint8_t bytes[];
};

/* A checksum of the format's own, CRC-32, of bytes that are not read when a file is opened. */
struct ckpt_sum {
    struct str name; /* a view: of the zip entry */
    const uint8_t *bytes;
    size_t len;
    uint32_t crc;
};

struct ckpt {
    char *name; /* for messages */
    const struct ckpt_format *format;
    struct mapped file;   /* empty when the bytes are borrowed */
    struct mapped *parts; /* further files that tensors are in */
    size_t n_parts, parts_len;
    const uint8_t *bytes;
    size_t len;
    /* Filled by the format's load. */
    struct tensor *tensors; /* in the order of their data */
    size_t n_tensors;
    struct ckpt_meta *meta;
    size_t n_meta;
    size_t tensors_room;
    json_t *strings; /* owns the text that names and metadata point to; or `text` does */
    struct arena text;
    struct owned *owned; /* data that is not stored as a view needs it */
    size_t owned_bytes;
    struct ckpt_sum *sums;
    size_t n_sums, sums_room;
    /* Filled by ckpt.c. */
    const struct tensor **by_name; /* sorted */
};

struct ckpt_format {
    const char *name;
    const char *extension; /* NULL: several files */
    bool (*is)(const uint8_t *bytes, size_t len);
    int (*load)(struct ckpt *c, struct err *err); /* NULL: recognised and not read */
    const char *instead;                          /* then: what to do about it */
};

int safetensors_load(struct ckpt *c, struct err *err) WARN_UNUSED;
int paddle_load(struct ckpt *c, struct err *err) WARN_UNUSED;
int torch_load(struct ckpt *c, struct err *err) WARN_UNUSED;
int torch_legacy_load(struct ckpt *c, struct err *err) WARN_UNUSED;
int tensorflow_load(struct ckpt *c, struct err *err) WARN_UNUSED;

/* ---- what a path means (locate.c) ---- */

/* The file to open, to be freed; NULL with *err set. */
char *ckpt_locate(const char *path, struct err *err) WARN_UNUSED;

/* ---- values (values.c) ---- */

/* The `n` values from element `first` on as float32. NaN and infinity stay; a double that float32
 * cannot hold is refused. */
int tensor_block(const struct ckpt *c, const struct tensor *t, size_t first, size_t n, float *out,
                 struct err *err) WARN_UNUSED;
/* Whether tensor_f32 can give its values. */
static inline bool tensor_is_floats(const struct tensor *t)
{
    return t->dtype <= DTYPE_BF16;
}

/* ---- what loaders share (ckpt.c) ---- */

/* Whether it can be a tensor's name: 1 to CKPT_MAX_NAME bytes of text. */
int ckpt_check_name(const struct ckpt *c, struct str name, struct err *err) WARN_UNUSED;
/* The next tensor, with a copy of its name, which is checked. NULL with *err set. Valid until the
 * next call. */
struct tensor *ckpt_add(struct ckpt *c, struct str name, struct err *err) WARN_UNUSED;
/* Sets dtype, shape, count and bytes of a tensor; -1 when the product is too large. A size may be
 * 0: `data` is set all the same, to any address. */
int tensor_set(const struct ckpt *c, struct tensor *t, enum dtype dtype, const uint64_t *shape,
               size_t n_dims, struct err *err) WARN_UNUSED;
/* Memory that lives as long as the ckpt; all of it together stays below twice the file's size and a
 * little, so a file cannot make us allocate what it does not hold. NULL with *err set. */
uint8_t *ckpt_own(struct ckpt *c, size_t bytes, struct err *err) WARN_UNUSED;
/* From data whose element at (i, j, ..) is i * strides[0] + j * strides[1] .. elements behind
 * t->data, all within the file, to a row-major copy. */
int ckpt_gather(struct ckpt *c, struct tensor *t, const uint64_t *strides, struct err *err)
    WARN_UNUSED;
void ckpt_add_sum(struct ckpt *c, const struct ckpt_sum *sum);
/* Of a file that is mapped: these bytes have been read and need not stay in memory. */
void ckpt_forget(const struct ckpt *c, const uint8_t *at, size_t len);
/* So many bytes are read before they are forgotten. */
#define CKPT_BLOCK ((size_t)4 << 20)
/* What a file calls a dtype that is not read, as text that can be shown: the `other` of a tensor.
 */
const char *ckpt_other(struct ckpt *c, struct str name);
/* As strcmp. */
int str_order(struct str a, struct str b);

#endif
