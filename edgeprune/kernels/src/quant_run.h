// One call of a quantized linear: norm and quantize the rows, multiply in tasks, norm what is whole.
#pragma once

#include "quant.h"
#include "run.h"

namespace edgeprune {

// Fills job.y; the job's codes, sums and scales are set here. False if memory is exhausted or the
// threads failed.
bool run_quant(const QuantKernels&, QuantJob job, int64_t rows, const Threads&);

}  // namespace edgeprune
