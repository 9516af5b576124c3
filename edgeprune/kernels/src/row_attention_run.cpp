#include "row_attention_run.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "buffer.h"

namespace edgeprune {
namespace {

constexpr int64_t kLeastProducts = 1 << 18;  // fewer are not worth a second thread

thread_local Buffer thread_scratch, caller_keys;

struct Plan {
    const AttentionKernels* kernels;
    AttentionJob job;
    int64_t rows, tiles;  // of a sequence's key head
    std::atomic<bool> failed;

    // The past's tokens, then zeros, which the new tokens overwrite.
    void copy(const Past& from, const Cache& to, int64_t sequence, int64_t head, int64_t width) const {
        const int64_t place = sequence * job.key_heads + head, past = job.past[sequence];
        const auto move = [&](const void* old, void* made, int64_t bytes) {
            char* start = static_cast<char*>(made) + place * job.room * bytes;
            if (past)
                std::memcpy(start, static_cast<const char*>(old) + place * job.old_room * bytes,
                            past * bytes);
            std::memset(start + past * bytes, 0, (job.room - past) * bytes);
        };
        move(from.data, to.data, width);
        if (to.scales) move(from.scales, to.scales, sizeof(float));
    }

    void write(int64_t sequence, int64_t head) const {
        const int64_t width = job.head_size * bytes_of(job.type);
        if (job.copies) {
            copy(job.old_keys, job.new_keys, sequence, head, width);
            copy(job.old_values, job.new_values, sequence, head, width);
        }
        if (job.new_keys.data) kernels->write(job, sequence, head);
    }

    void attend(int64_t sequence, int64_t head, int64_t tile) {
        void* scratch = thread_scratch.need(kernels->scratch(job));
        if (!scratch) {
            failed = true;
            return;
        }
        const int64_t first = tile * kAttentionRows;
        kernels->attend(job, sequence, head, first, std::min(kAttentionRows, rows - first), scratch);
    }
};

void write_task(void* data, size_t index) {
    const Plan& plan = *static_cast<const Plan*>(data);
    plan.write(int64_t(index) / plan.job.key_heads, index % plan.job.key_heads);
}

void attend_task(void* data, size_t index) {
    Plan& plan = *static_cast<Plan*>(data);
    const int64_t place = int64_t(index) / plan.tiles;
    plan.attend(place / plan.job.key_heads, place % plan.job.key_heads, index % plan.tiles);
}

void whole_task(void* data, size_t index) {
    write_task(data, index);
    attend_task(data, index);
}

bool run_tasks(const Threads* threads, void (*task)(void*, size_t), int64_t count, Plan& plan) {
    if (threads && count > 1) return threads->run(threads->context, task, count, &plan);
    for (int64_t index = 0; index < count; index++) task(&plan, index);
    return true;
}

}  // namespace

bool run_attention(const AttentionKernels& kernels, AttentionJob job, const Threads& threads) {
    if (!job.new_keys.data && job.turned) {
        job.room = job.tokens;
        const int64_t of_head = job.room * job.head_size;
        job.new_keys.data = caller_keys.items<float>(job.sequences * job.key_heads * of_head);
        if (!job.new_keys.data) return false;
        job.keys = {job.new_keys.data, nullptr, job.key_heads * of_head, job.head_size, of_head};
    }
    Plan plan = {&kernels, job, job.tokens * (job.heads / job.key_heads), 0, {false}};
    plan.tiles = (plan.rows + kAttentionRows - 1) / kAttentionRows;
    int64_t tokens = 0;
    for (int64_t b = 0; b < job.sequences; b++) tokens += job.total[b];
    const int64_t products = 2 * tokens * job.tokens * job.heads * job.head_size;
    const Threads* several = products < kLeastProducts ? nullptr : &threads;
    const int64_t places = job.sequences * job.key_heads;
    if (plan.tiles == 1) return run_tasks(several, whole_task, places, plan) && !plan.failed;
    return run_tasks(several, write_task, places, plan) &&
           run_tasks(several, attend_task, places * plan.tiles, plan) && !plan.failed;
}

}  // namespace edgeprune
