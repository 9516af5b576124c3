#include "quant_run.h"

#include <algorithm>
#include <atomic>

#include "buffer.h"

namespace edgeprune {
namespace {

constexpr int64_t kEnoughTasks = 8;          // for the few cores of edge devices
constexpr int64_t kLeastProducts = 1 << 17;  // fewer are not worth a second thread
constexpr int64_t kLeastInputs = 1 << 15;    // the same, while rows are quantized or normed
constexpr int64_t kTileRows = 128;           // rows whose codes and results stay in the L2 cache

// Each thread keeps this between calls.
thread_local Buffer caller_codes, caller_sums, caller_scales;
thread_local Buffer thread_normed, thread_unpacked;

struct Plan {
    const QuantKernels* kernels;
    QuantJob job;
    int64_t rows, parts;         // while quantizing and norming: ranges of rows
    int64_t splits;              // while multiplying: ranges of strips
    std::atomic<bool> failed;

    template <class Visit>
    void each_row(size_t part, const Visit& visit) const {
        const int64_t end = rows * int64_t(part + 1) / parts;
        for (int64_t row = rows * int64_t(part) / parts; row < end; row++) visit(row);
    }
};

void quantize_task(void* data, size_t part) {
    Plan& plan = *static_cast<Plan*>(data);
    float* normed = nullptr;
    if (plan.job.before.kind != NormKind::kNone) {
        normed = thread_normed.items<float>(plan.job.weights->K);
        if (!normed) {
            plan.failed = true;
            return;
        }
    }
    plan.each_row(part, [&](int64_t row) { plan.kernels->quantize(plan.job, row, normed); });
}

void normalize_task(void* data, size_t part) {
    Plan& plan = *static_cast<Plan*>(data);
    plan.each_row(part, [&](int64_t row) { plan.kernels->normalize(plan.job, row); });
}

void multiply_task(void* data, size_t index) {
    Plan& plan = *static_cast<Plan*>(data);
    const QuantWeights& weights = *plan.job.weights;
    uint8_t* unpacked = nullptr;
    if (weights.bits == 4) {
        const int64_t strip_bytes = weights.blocks * kBlock * kStrip;
        unpacked = thread_unpacked.items<uint8_t>(kPanelStrips * strip_bytes);
        if (!unpacked) {
            plan.failed = true;
            return;
        }
    }
    const int64_t row = int64_t(index) / plan.splits * kTileRows, split = index % plan.splits;
    const int64_t panels = (weights.strips + kPanelStrips - 1) / kPanelStrips;
    const int64_t first = panels * split / plan.splits, end = panels * (split + 1) / plan.splits;
    plan.kernels->multiply(plan.job, row, std::min(kTileRows, plan.rows - row),
                           first * kPanelStrips, std::min(end * kPanelStrips, weights.strips),
                           unpacked);
}

bool run_tasks(const Threads& threads, void (*task)(void*, size_t), int64_t count, Plan& plan) {
    if (count == 1) task(&plan, 0);
    else if (!threads.run(threads.context, task, count, &plan)) return false;
    return !plan.failed;
}

int64_t parts_of(int64_t rows, int64_t width) {
    return std::max<int64_t>(1, std::min({rows, kEnoughTasks, rows * width / kLeastInputs}));
}

}  // namespace

bool run_quant(const QuantKernels& kernels, QuantJob job, int64_t rows, const Threads& threads) {
    const QuantWeights& weights = *job.weights;
    job.rows = rows;
    job.codes = caller_codes.items<int8_t>(rows * weights.blocks * kBlock);
    job.sums = caller_sums.items<int32_t>(rows * (weights.groups + 1));
    job.scales = caller_scales.items<float>(rows);
    if (!job.codes || !job.sums || !job.scales) return false;
    Plan plan = {&kernels, job, rows, parts_of(rows, weights.K), 1, {false}};
    if (!run_tasks(threads, quantize_task, plan.parts, plan)) return false;
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    const int64_t products = std::min(rows, kTileRows) * weights.K * weights.strips * kStrip;
    const int64_t panels = (weights.strips + kPanelStrips - 1) / kPanelStrips;
    const int64_t wanted = (kEnoughTasks + tiles - 1) / tiles;
    plan.splits = std::max<int64_t>(1, std::min({wanted, products / kLeastProducts, panels}));
    if (!run_tasks(threads, multiply_task, tiles * plan.splits, plan)) return false;
    if (job.after.kind == NormKind::kNone) return true;
    plan.parts = parts_of(rows, weights.N);
    return run_tasks(threads, normalize_task, plan.parts, plan);
}

}  // namespace edgeprune
