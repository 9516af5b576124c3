#include "quant_run.h"

#include <algorithm>

#include "buffer.h"

namespace edgeprune {
namespace {

constexpr int64_t kEnoughTasks = 8;          // for the few cores of edge devices
constexpr int64_t kLeastProducts = 1 << 17;  // fewer are not worth a second thread
constexpr int64_t kLeastInputs = 1 << 15;    // the same, while quantizing
constexpr int64_t kTileRows = 64;            // rows whose codes stay in the L2 cache

thread_local Buffer caller_codes, caller_shifts, caller_scales;

struct Plan {
    const QuantKernels* kernels;
    QuantJob job;
    int64_t rows, parts;             // while quantizing: ranges of rows
    int64_t splits;                  // while multiplying: ranges of strips
};

void quantize_task(void* data, size_t index) {
    const Plan& plan = *static_cast<const Plan*>(data);
    const int64_t end = plan.rows * int64_t(index + 1) / plan.parts;
    for (int64_t row = plan.rows * int64_t(index) / plan.parts; row < end; row++)
        plan.kernels->quantize(plan.job, row);
}

void multiply_task(void* data, size_t index) {
    const Plan& plan = *static_cast<const Plan*>(data);
    const int64_t row = int64_t(index) / plan.splits * kTileRows, split = index % plan.splits;
    const int64_t strips = plan.job.weights->strips;
    plan.kernels->multiply(plan.job, row, std::min(kTileRows, plan.rows - row),
                           strips * split / plan.splits, strips * (split + 1) / plan.splits);
}

bool run_tasks(const Threads& threads, void (*task)(void*, size_t), int64_t count, Plan& plan) {
    if (count > 1) return threads.run(threads.context, task, count, &plan);
    task(&plan, 0);
    return true;
}

}  // namespace

bool run_quant(const QuantKernels& kernels, QuantJob job, int64_t rows, const Threads& threads) {
    const QuantWeights& weights = *job.weights;
    job.codes = caller_codes.items<int8_t>(rows * weights.blocks * kBlock);
    job.shifts = caller_shifts.items<int32_t>(rows * weights.groups);
    job.scales = caller_scales.items<float>(rows);
    if (!job.codes || !job.shifts || !job.scales) return false;
    Plan plan = {&kernels, job, rows, 1, 1};
    const int64_t inputs = rows * weights.K;
    plan.parts = std::max<int64_t>(1, std::min({rows, kEnoughTasks, inputs / kLeastInputs}));
    if (!run_tasks(threads, quantize_task, plan.parts, plan)) return false;
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    const int64_t products = std::min(rows, kTileRows) * weights.K * weights.N;
    const int64_t wanted = (kEnoughTasks + tiles - 1) / tiles;
    plan.splits = std::max<int64_t>(
        1, std::min({wanted, products / kLeastProducts, weights.strips}));
    return run_tasks(threads, multiply_task, tiles * plan.splits, plan);
}

}  // namespace edgeprune
