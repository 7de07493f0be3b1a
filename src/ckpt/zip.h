/* zip.h - the entries of a zip file whose contents are stored, not compressed. Private to ckpt/.
 *
 * Sizes come from the central directory: writers that stream leave those of the local headers
 * empty. zip64 is read. An entry's bytes are checked to lie in the file, not to be undamaged. */
#ifndef CKPT_ZIP_H
#define CKPT_ZIP_H

#include "recalld/base.h"

struct zip_entry {
    struct str name; /* a view */
    const uint8_t *data;
    size_t len;
    uint32_t crc; /* of the data; some writers leave it 0 */
    bool stored;  /* otherwise compressed or encrypted: data is NULL */
};

struct zip {
    struct zip_entry *entries; /* sorted by name */
    size_t n;
};

/* -1 with *err set. The bytes are borrowed. */
int zip_open(struct zip *z, const char *name, const uint8_t *bytes, size_t len, struct err *err)
    WARN_UNUSED;
void zip_clear(struct zip *z);
const struct zip_entry *zip_find(const struct zip *z, struct str name); /* or NULL */

#endif
