// One call of attention: write the new keys and values, cut the rows into tasks, attend.
#pragma once

#include "row_attention.h"
#include "run.h"

namespace edgeprune {

// Bytes of a number of a cache.
constexpr int64_t bytes_of(Cached type) {
    return type == Cached::kFloat32 ? 4 : type == Cached::kFloat16 ? 2 : 1;
}

// Fills job.context and the new part of the caches. Keys that are turned but not cached are kept in
// memory of its own. False if memory is exhausted or the threads failed.
bool run_attention(const AttentionKernels&, AttentionJob job, const Threads&);

}  // namespace edgeprune
