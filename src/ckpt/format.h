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

struct ckpt {
    char *name; /* for messages */
    const struct ckpt_format *format;
    struct mapped file; /* empty when the bytes are borrowed */
    const uint8_t *bytes;
    size_t len;
    /* Filled by the format's load. */
    struct tensor *tensors; /* in the order of their data */
    size_t n_tensors;
    struct ckpt_meta *meta;
    size_t n_meta;
    json_t *strings; /* owns the text that names and metadata point to */
    /* Filled by ckpt.c. */
    const struct tensor **by_name; /* sorted */
};

struct ckpt_format {
    const char *name;
    bool (*is)(const uint8_t *bytes, size_t len);
    /* NULL: recognised, so that the message can say so, and not read yet. */
    int (*load)(struct ckpt *c, struct err *err);
};

int safetensors_load(struct ckpt *c, struct err *err) WARN_UNUSED;

#endif
