/* crc32.h - the checksum of zip files. Private to ckpt/. */
#ifndef CKPT_CRC32_H
#define CKPT_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32 (IEEE 802.3) of the bytes; `crc` is that of the bytes before them, 0 at the start. */
uint32_t crc32_update(uint32_t crc, const void *bytes, size_t len);

#endif
