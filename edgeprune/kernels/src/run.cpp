#include "run.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "buffer.h"

namespace edgeprune {
namespace {

constexpr int64_t kEnoughTasks = 8;             // for the few cores of edge devices
constexpr int64_t kLeastProducts = 1 << 17;     // fewer are not worth a second thread
constexpr int64_t kRangeChunk = 1 << 15;
constexpr int64_t kMostRangeChunks = 64;

// Each thread keeps this between calls.
thread_local Buffer thread_packed, thread_staging, thread_panel;
thread_local Buffer caller_packed;

struct Range {
    const Kernels* kernels;
    const float* x;
    int64_t count, chunk;
    float low[kMostRangeChunks], high[kMostRangeChunks];
};

void range_task(void* data, size_t index) {
    Range& range = *static_cast<Range*>(data);
    const int64_t from = index * range.chunk, count = std::min(range.chunk, range.count - from);
    range.low[index] = range.high[index] = 0;
    range.kernels->range(range.x + from, count, &range.low[index], &range.high[index]);
}

// The scale and zero point of DynamicQuantizeLinear, from the range of x extended to 0.
bool find_scale(const Kernels& kernels, Job& job, int64_t count, const Threads& threads) {
    Range range = {&kernels, job.x, count, kRangeChunk, {}, {}};
    range.chunk = std::max(kRangeChunk, (count + kMostRangeChunks - 1) / kMostRangeChunks);
    const int64_t chunks = (count + range.chunk - 1) / range.chunk;
    if (chunks == 1) range_task(&range, 0);
    else if (!threads.run(threads.context, range_task, chunks, &range)) return false;
    const float low = *std::min_element(range.low, range.low + chunks);
    const float high = *std::max_element(range.high, range.high + chunks);
    job.x_scale = low == high ? 1.0f : (high - low) / 255.0f;
    const float zero = -low / job.x_scale;
    job.x_zero_point = int32_t(std::nearbyint(std::max(0.0f, std::min(255.0f, zero))));
    return true;
}

struct Plan {
    const Kernels* kernels;
    Job job;
    Scratch scratch;
    int64_t rows, tile_rows, tiles, splits;
    char* packed;  // all tiles, already packed, or null
    std::atomic<bool> failed;

    int rows_of(int64_t tile) const { return int(std::min(tile_rows, rows - tile * tile_rows)); }

    bool pack(int64_t tile, void* to) const {
        void* staging = thread_staging.need(scratch.staging);
        if (!staging) return false;
        kernels->pack(job, tile * tile_rows, rows_of(tile), to, staging);
        return true;
    }

    bool multiply(int64_t tile, int64_t split) const {
        const int64_t groups = job.weights->groups;
        void* from = packed ? packed + tile * scratch.packed : thread_packed.need(scratch.packed);
        void* panel = thread_panel.need(scratch.panel);
        if (!from || !panel || (!packed && !pack(tile, from))) return false;
        kernels->multiply(job, tile * tile_rows, rows_of(tile), groups * split / splits,
                          groups * (split + 1) / splits, from, panel);
        return true;
    }
};

void multiply_task(void* data, size_t index) {
    Plan& plan = *static_cast<Plan*>(data);
    if (!plan.multiply(index / plan.splits, index % plan.splits)) plan.failed = true;
}

// The number of column ranges that a tile is cut into, to give several threads work.
int64_t splits_of(const Weights& weights, int64_t tiles, int64_t tile_rows) {
    const int64_t lists = is_wide(weights.format)
                              ? weights.groups
                              : weights.groups * kGroup * ((weights.units + kChunk - 1) / kChunk);
    const int64_t block = is_int8(weights.format) ? 4 : 1;
    const int64_t products =
        weights.starts[lists] * block * (is_wide(weights.format) ? kGroup : 1) * tile_rows;
    const int64_t wanted = (kEnoughTasks + tiles - 1) / tiles;
    return std::max<int64_t>(1, std::min({wanted, products / kLeastProducts, weights.groups}));
}

}  // namespace

bool run(const Kernels& kernels, Job job, int64_t rows, const Threads& threads) {
    const Weights& weights = *job.weights;
    if (is_int8(weights.format) && !job.codes &&
        !find_scale(kernels, job, rows * weights.K, threads))
        return false;
    Plan plan = {&kernels, job, kernels.scratch(weights), rows, kernels.tile_rows(weights.format),
                 0,        1,   nullptr,                  {false}};
    plan.tiles = (rows + plan.tile_rows - 1) / plan.tile_rows;
    if (plan.tiles < kEnoughTasks)
        plan.splits = splits_of(weights, plan.tiles, std::min(rows, plan.tile_rows));
    if (plan.splits > 1) {
        // Tiles that several tasks read are packed once.
        plan.packed = static_cast<char*>(caller_packed.need(plan.tiles * plan.scratch.packed));
        if (!plan.packed) return false;
        for (int64_t tile = 0; tile < plan.tiles; tile++)
            if (!plan.pack(tile, plan.packed + tile * plan.scratch.packed)) return false;
    }
    const size_t tasks = plan.tiles * plan.splits;
    if (tasks == 1) multiply_task(&plan, 0);
    else if (!threads.run(threads.context, multiply_task, tasks, &plan)) return false;
    return !plan.failed;
}

}  // namespace edgeprune
