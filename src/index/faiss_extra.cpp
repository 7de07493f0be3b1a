// faiss_extra.cpp - the few calls that need Faiss's C++ interface. No exception leaves this file.
#include "faiss_extra.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexPQFastScan.h>
#include <faiss/impl/io.h>
#include <faiss/index_io.h>

namespace
{

// Bytes in memory, read from front to back.
struct Bytes : faiss::IOReader {
    const char *p;
    size_t left;

    Bytes(const void *bytes, size_t len) : p(static_cast<const char *>(bytes)), left(len) {}

    size_t operator()(void *to, size_t size, size_t n) override
    {
        if (size == 0)
            return 0;
        n = std::min(n, left / size);
        if (n > 0)
            std::memcpy(to, p, n * size);
        p += n * size;
        left -= n * size;
        return n;
    }
};

faiss::Index *unwrap(FaissIndex_H *index)
{
    return reinterpret_cast<faiss::Index *>(index);
}

const faiss::Index *unwrap(const FaissIndex_H *index)
{
    return reinterpret_cast<const faiss::Index *>(index);
}

// Runs `body` and puts what it throws into words.
template <class Body> bool guarded(char *why, size_t why_len, Body body)
{
    try {
        body();
        return true;
    } catch (const std::exception &e) {
        std::snprintf(why, why_len, "%s", e.what());
    } catch (...) {
        std::snprintf(why, why_len, "unknown exception");
    }
    return false;
}

} // namespace

FaissIndex_H *extra_read(const void *bytes, size_t len, char *why, size_t why_len)
{
    faiss::Index *index = nullptr;

    guarded(why, why_len, [&] {
        Bytes reader(bytes, len);

        index = faiss::read_index(&reader, 0);
    });
    return reinterpret_cast<FaissIndex_H *>(index);
}

int extra_search(const FaissIndex_H *index, enum extra_search kind, int effort, int64_t n,
                 const float *interests, int64_t k, float *scores, int64_t *labels, char *why,
                 size_t why_len)
{
    bool done = guarded(why, why_len, [&] {
        faiss::SearchParametersHNSW hnsw;
        faiss::SearchParametersIVF ivf;
        const faiss::SearchParameters *chosen = nullptr;

        if (kind == EXTRA_HNSW) {
            hnsw.efSearch = effort;
            chosen = &hnsw;
        } else if (kind == EXTRA_IVF) {
            ivf.nprobe = static_cast<size_t>(effort);
            chosen = &ivf;
        }
        unwrap(index)->search(n, interests, k, scores, labels, chosen);
    });

    return done ? 0 : -1;
}

void extra_prepare(FaissIndex_H *wrapped, int graph_effort)
{
    faiss::Index *index = unwrap(wrapped);

    if (auto *hnsw = dynamic_cast<faiss::IndexHNSW *>(index))
        hnsw->hnsw.efConstruction = graph_effort;
    if (auto *ivf = dynamic_cast<faiss::IndexIVF *>(index))
        ivf->cp.min_points_per_centroid = 1;
    if (auto *pq = dynamic_cast<faiss::IndexIVFPQ *>(index))
        pq->pq.cp.min_points_per_centroid = 1;
    if (auto *pq = dynamic_cast<faiss::IndexIVFPQFastScan *>(index))
        pq->pq.cp.min_points_per_centroid = 1;
    if (auto *pq = dynamic_cast<faiss::IndexPQFastScan *>(index))
        pq->pq.cp.min_points_per_centroid = 1;
}

void extra_set_nprobe(FaissIndex_H *index, size_t nprobe)
{
    if (auto *ivf = dynamic_cast<faiss::IndexIVF *>(unwrap(index)))
        ivf->nprobe = nprobe;
}
