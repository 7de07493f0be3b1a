/* crc32c.h - the checksum of TensorFlow's and LevelDB's files. Private to ckpt/. */
#ifndef CKPT_CRC32C_H
#define CKPT_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C (Castagnoli, RFC 3720 section 12.1) of the bytes; `crc` is that of the bytes before them,
 * 0 at the start. By the processor's instruction where there is one. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);
uint32_t crc32c_plain(uint32_t crc, const void *bytes, size_t len);

/* As the files store it, so that a checksum of checksums does not degenerate. */
static inline uint32_t crc32c_mask(uint32_t crc)
{
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

#endif
