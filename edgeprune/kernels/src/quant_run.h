// One call of a quantized linear: quantize the rows, cut into tasks, multiply.
#pragma once

#include "quant.h"
#include "run.h"

namespace edgeprune {

// Fills job.y; the job's codes, shifts and scales are set here. False if memory is exhausted or the
// threads failed.
bool run_quant(const QuantKernels&, QuantJob job, int64_t rows, const Threads&);

}  // namespace edgeprune
