/* faiss_extra.h - what the C API of Faiss 1.7.3 lacks: reading an index from memory, parameters for
 * one search, and the fields that building sets. Errors are -1 or NULL with a text in `why`. */
#ifndef RECALLD_INDEX_FAISS_EXTRA_H
#define RECALLD_INDEX_FAISS_EXTRA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct FaissIndex_H; /* FaissIndex of the C API */

enum extra_search { EXTRA_PLAIN, EXTRA_HNSW, EXTRA_IVF };

struct FaissIndex_H *extra_read(const void *bytes, size_t len, char *why, size_t why_len);
/* `effort` is efSearch or nprobe; EXTRA_PLAIN ignores it. Writes n * k scores and labels. */
int extra_search(const struct FaissIndex_H *index, enum extra_search kind, int effort, int64_t n,
                 const float *interests, int64_t k, float *scores, int64_t *labels, char *why,
                 size_t why_len);
/* Before training: candidates an HNSW graph looks at when it links a row; and no complaints on
 * stderr about few training rows, for the recall that is measured afterwards tells more. */
void extra_prepare(struct FaissIndex_H *index, int graph_effort);
/* Lists an IVF index visits when a search brings no parameters; nothing for other indexes. */
void extra_set_nprobe(struct FaissIndex_H *index, size_t nprobe);

#ifdef __cplusplus
}
#endif

#endif
