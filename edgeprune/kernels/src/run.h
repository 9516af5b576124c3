// One call of an operator: quantize, cut into tasks, multiply.
#pragma once

#include "kernels.h"

namespace edgeprune {

// Runs task(data, 0), ..., task(data, count - 1) on the runtime's threads and waits. False on failure.
struct Threads {
    void* context;
    bool (*run)(void* context, void (*task)(void* data, size_t index), size_t count, void* data);
};

// Fills job.y. If job.codes is null and the weights are int8, first quantizes job.x as
// DynamicQuantizeLinear does: one scale and zero point for all rows. False if memory is exhausted or
// the threads failed.
bool run(const Kernels&, Job job, int64_t rows, const Threads&);

}  // namespace edgeprune
