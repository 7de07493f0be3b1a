/* codec.h - files as they are, or compressed with gzip or zstd: read alike, and compressed whole.
 */
#ifndef JOURNAL_CODEC_H
#define JOURNAL_CODEC_H

#include <sys/types.h>

#include "recalld/journal.h"

/* A file's text, decompressed where its first bytes say so. One thread at a time. */
struct codec_in;
struct codec_in *codec_in_open(const char *path, struct err *err) WARN_UNUSED;
/* At most `room` > 0 bytes; 0 at the end. What ends in the middle of a compressed stream, or is
 * damaged, is ERR_FORMAT. */
ssize_t codec_in_read(struct codec_in *in, void *to, size_t room, struct err *err) WARN_UNUSED;
uint64_t codec_in_taken(const struct codec_in *in); /* bytes of the file that were read */
void codec_in_free(struct codec_in *in);            /* NULL allowed */

/* Writes `from` compressed to `to`, synced before it has that name. 0 when `*stop` became true
 * meanwhile (nothing is left then), 1 when done, -1 with *err set. */
int codec_pack(const char *from, const char *to, enum journal_compression form,
               const atomic_bool *stop, struct err *err) WARN_UNUSED;

#endif
