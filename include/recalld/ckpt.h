/* ckpt.h - one view over every checkpoint format: named tensors in the bytes of a file.
 *
 * Formats are told apart by content, never by file name. Nothing in a file is executed; every
 * length is checked before it is believed. Formats: safetensors; Paddle's .pdparams; PyTorch's .pt,
 * zip or legacy; TensorFlow's .index with its .data files. A ckpt never changes once open: any
 * thread may read it. */
#ifndef RECALLD_CKPT_H
#define RECALLD_CKPT_H

#include "recalld/base.h"

#define CKPT_MAX_DIMS 8

enum dtype {
    DTYPE_F64,
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_BOOL,
    DTYPE_OTHER /* named in `other`; the values are not read: data NULL, bytes 0 */
};

/* A view: name and data are borrowed from the ckpt. Row-major, little-endian, maybe unaligned. */
struct tensor {
    const char *name;
    enum dtype dtype;
    const char *other;
    int n_dims;
    size_t shape[CKPT_MAX_DIMS];
    size_t count; /* product of shape */
    const uint8_t *data;
    size_t bytes;
};

struct ckpt;

/* A file; or, for TensorFlow, also the name without .index, the folder of a SavedModel, or a folder
 * whose file `checkpoint` names the latest. Mapped, not copied: for tools, see file_map. NULL with
 * *err set (NOT_FOUND, IO, FORMAT, LIMIT, NOMEM). */
struct ckpt *ckpt_open(const char *path, struct err *err) WARN_UNUSED;
/* Bytes are borrowed and must outlive the ckpt; `name` is for messages and is copied. Formats of
 * several files are refused. */
struct ckpt *ckpt_open_mem(const char *name, const void *bytes, size_t len, struct err *err)
    WARN_UNUSED;
void ckpt_free(struct ckpt *c);

const char *ckpt_name(const struct ckpt *c);
const char *ckpt_format(const struct ckpt *c); /* "safetensors" */
/* What a copy of the file should end in, without the dot; NULL for a format of several files. */
const char *ckpt_extension(const struct ckpt *c);
size_t ckpt_count(const struct ckpt *c);
const struct tensor *ckpt_at(const struct ckpt *c, size_t i); /* in the file's order */
const struct tensor *ckpt_find(const struct ckpt *c,
                               const char *name); /* NULL when there is none */
/* A string of the file's own metadata (safetensors __metadata__), or NULL. */
const char *ckpt_meta(const struct ckpt *c, const char *key);
size_t ckpt_meta_count(const struct ckpt *c);
const char *ckpt_meta_key(const struct ckpt *c, size_t i);

const char *dtype_name(enum dtype d); /* as in safetensors */
size_t dtype_size(enum dtype d);      /* 0 for DTYPE_OTHER */

/* The values as float32, rounded from F64; integers and others, and a tensor without values, are
 * ERR_FORMAT. NaN, infinity and what float32 cannot hold are refused, naming file, tensor and
 * position. When it stands in the file's bytes as aligned float32 the result is a view into them
 * and *owned is NULL; otherwise *owned is the copy, which the caller frees with free(). */
const float *tensor_f32(const struct ckpt *c, const struct tensor *t, float **owned,
                        struct err *err) WARN_UNUSED;

/* ---- for tools and tests ---- */

/* Hears how many more bytes have been read. */
typedef void (*ckpt_progress)(void *arg, size_t bytes);
/* Checks the file's own checksums that are too much work for opening it: of the entries of
 * PyTorch's zip files. (TensorFlow's are checked when it is opened, the others have none.) The file
 * is read once, in pieces. `progress` may be NULL. */
int ckpt_verify(const struct ckpt *c, ckpt_progress progress, void *arg, struct err *err)
    WARN_UNUSED;
/* How many bytes that reads. */
size_t ckpt_verify_bytes(const struct ckpt *c);

struct tensor_facts {
    double min, max; /* of the finite values; 0 when there are none */
    size_t finite, non_finite;
    uint64_t xxh3; /* XXH3, 64 bits, of the values as stored: row-major, little-endian */
};
/* Reads a tensor once, in pieces. All zero for DTYPE_OTHER. */
void tensor_measure(const struct ckpt *c, const struct tensor *t, struct tensor_facts *out,
                    ckpt_progress progress, void *arg);

/* A safetensors file. Tensors in the order given, F32 only. */
struct ckpt_writer_tensor {
    const char *name;
    int n_dims;
    size_t shape[CKPT_MAX_DIMS];
    const float *data;
};
void ckpt_encode(struct buf *out, const struct ckpt_writer_tensor *t, size_t n,
                 const char *const *meta /* key, value, ..., NULL; or NULL */);
/* All tensors of floats and the metadata as safetensors, F32, in the order of `c`, after
 * ckpt_verify. NaN and infinity stay: a tensor that nobody uses may hold them. In pieces: it takes
 * little memory. What is at `path` is replaced. */
int ckpt_convert(const struct ckpt *c, const char *path, struct err *err) WARN_UNUSED;
int ckpt_write(const char *path, const struct ckpt_writer_tensor *t, size_t n,
               const char *const *meta, struct err *err) WARN_UNUSED;

#endif
