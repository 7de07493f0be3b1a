/* sstable.h - the entries of a LevelDB-style table, in the order of their keys. Private to ckpt/.
 */
#ifndef CKPT_SSTABLE_H
#define CKPT_SSTABLE_H

#include "recalld/base.h"

/* Calls `each` for every entry until it returns -1. Key and value are borrowed for the call; the
 * value is a view into the bytes. Checksums are verified, compressed blocks refused. -1 with *err
 * set: file, offset, reason. */
int sstable_read(const char *name, const uint8_t *bytes, size_t len,
                 int (*each)(void *arg, struct str key, struct str value), void *arg,
                 struct err *err) WARN_UNUSED;

/* Variable-length integers of seven bits a byte, lowest first; false at the end or beyond 64 bits.
 */
bool read_varint(struct reader *r, uint64_t *v) WARN_UNUSED;

#endif
