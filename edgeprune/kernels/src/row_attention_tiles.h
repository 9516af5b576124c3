// The kernels of attention, compiled by the file of each instruction set after tiles.h.
//
// From the simd header: kTileRows rows by kTileVectors vectors are summed at once; highest(v) is the
// largest lane; load_half(p) and store_half(p, v) convert float16. Sums over keys have kGroup lanes,
// so that every set adds in the same order.
#pragma once

#include <type_traits>

#include "row_attention.h"
#include "tiles.h"

namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kLowest = -3.402823466e38f;
constexpr int kNear = 2;  // of prefetched memory: the L2 cache
constexpr float kMinusInfinity = -__builtin_inff();

struct Half {
    uint16_t bits;
};

inline Float as_float(const float* p) { return load(p); }
inline Float as_float(const Half* p) { return load_half(&p->bits); }
inline Float as_float(const int8_t* p) { return to_float(widened(p)); }

// kLanes numbers, or the first `count` and zeros.
template <class Number>
inline Float as_float(const Number* p, int64_t count) {
    if (count >= kLanes) return as_float(p);
    alignas(kAlignment) Number few[kLanes] = {};
    memcpy(few, p, count * sizeof(Number));
    return as_float(few);
}

inline void store_part(float* p, Float v, int64_t count) {
    if (count >= kLanes) return store(p, v);
    alignas(kAlignment) float few[kLanes];
    store(few, v);
    memcpy(p, few, count * sizeof(float));
}

// ---- New tokens ---------------------------------------------------------------------------------

// Turns pairs of numbers, one from each half of the first job.turned, by the token's angles.
void turn(const AttentionJob& job, const float* x, int64_t position, float* to) {
    const int64_t half = job.turned / 2;
    const float *cosines = job.cosines + position * half, *sines = job.sines + position * half;
    for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t count = half - i;
        const Float a = as_float(x + i, count), b = as_float(x + half + i, count);
        const Float c = as_float(cosines + i, count), s = as_float(sines + i, count);
        store_part(to + i, sub(mul(a, c), mul(b, s)), count);
        store_part(to + half + i, add(mul(b, c), mul(a, s)), count);
    }
    memcpy(to + job.turned, x + job.turned, (job.head_size - job.turned) * sizeof(float));
}

void put(const float* x, int64_t count, float* to, float*) { memcpy(to, x, count * sizeof(float)); }

void put(const float* x, int64_t count, Half* to, float*) {
    for (int64_t i = 0; i < count; i += kLanes) {
        Half few[kLanes];
        store_half(&few->bits, as_float(x + i, count - i));
        memcpy(to + i, few, (count - i < kLanes ? count - i : kLanes) * sizeof(Half));
    }
}

// scale = max|x| / 127; a NaN or an infinity makes the scale NaN, and so all that reads the token.
void put(const float* x, int64_t count, int8_t* to, float* scale) {
    float most = 0.0f, finite = 0.0f;
    for (int64_t i = 0; i < count; i++) {
        const float size = x[i] < 0.0f ? -x[i] : x[i];
        most = size > most ? size : most;
        finite += x[i] * 0.0f;
    }
    *scale = most / 127.0f + finite;
    if (!(*scale > 0.0f)) {
        memset(to, 0, count);
        return;
    }
    quantize(x, count, *scale, 128, reinterpret_cast<uint8_t*>(to));
    for (int64_t i = 0; i < count; i++) to[i] = int8_t(uint8_t(to[i]) ^ 0x80);
}

template <class Number>
void write_tokens(const AttentionJob& job, int64_t sequence, int64_t head) {
    const int64_t size = job.head_size, past = job.past[sequence], count = job.total[sequence] - past;
    const int64_t first = (sequence * job.key_heads + head) * job.room + past;
    const int64_t from = sequence * job.tokens * job.key_step + head * size;
    alignas(kAlignment) float turned[kMostHeadSize];
    for (int64_t t = 0; t < count; t++) {
        const int64_t place = first + t;
        const auto put_token = [&](const Cache& cache, const float* x) {
            put(x, size, static_cast<Number*>(cache.data) + place * size,
                cache.scales ? cache.scales + place : nullptr);
        };
        const float* key = job.key + from + t * job.key_step;
        if (job.turned) turn(job, key, past + t, turned), key = turned;
        put_token(job.new_keys, key);
        if (job.new_values.data) put_token(job.new_values, job.value + from + t * job.key_step);
    }
}

void write_new(const AttentionJob& job, int64_t sequence, int64_t head) {
    switch (job.type) {
        case Cached::kFloat32: return write_tokens<float>(job, sequence, head);
        case Cached::kFloat16: return write_tokens<Half>(job, sequence, head);
        case Cached::kInt8: return write_tokens<int8_t>(job, sequence, head);
    }
}

// ---- Products -----------------------------------------------------------------------------------

// c[Rows, Vectors lanes] = (c or, if Fresh, 0) + a[Rows, count] b[count, Vectors lanes]; b's rows are
// times `scales`, unless that is null.
template <bool Fresh, int Rows, int Vectors, class Number>
inline void products(const float* a, int64_t a_step, const Number* b, int64_t b_step,
                     const float* scales, int64_t count, float* c, int64_t c_step) {
    Float sums[Rows][Vectors];
    for (int i = 0; i < Rows; i++)
        for (int v = 0; v < Vectors; v++)
            sums[i][v] = Fresh ? splat(0.0f) : load(c + i * c_step + v * kLanes);
    for (int64_t k = 0; k < count; k++, b += b_step) {
        Float with[Vectors];
        for (int v = 0; v < Vectors; v++) {
            with[v] = as_float(b + v * kLanes);
            if (scales) with[v] = mul(with[v], splat(scales[k]));
            if (!Fresh) __builtin_prefetch(b + v * kLanes + kKeys * b_step, 0, kNear);
        }
        for (int i = 0; i < Rows; i++) {
            const Float value = splat(a[i * a_step + k]);
            for (int v = 0; v < Vectors; v++) sums[i][v] = fma(value, with[v], sums[i][v]);
        }
    }
    for (int i = 0; i < Rows; i++)
        for (int v = 0; v < Vectors; v++) store(c + i * c_step + v * kLanes, sums[i][v]);
}

// The same for `columns` columns, a multiple of kLanes.
template <bool Fresh, int Rows, int Vectors = kTileVectors, class Number>
inline void multiply_into(const float* a, int64_t a_step, const Number* b, int64_t b_step,
                          const float* scales, int64_t count, float* c, int64_t c_step,
                          int64_t columns) {
    constexpr int64_t kStep = Vectors * kLanes;
    for (; columns >= kStep; columns -= kStep, b += kStep, c += kStep)
        products<Fresh, Rows, Vectors>(a, a_step, b, b_step, scales, count, c, c_step);
    if constexpr (Vectors > 1)
        multiply_into<Fresh, Rows, Vectors / 2>(a, a_step, b, b_step, scales, count, c, c_step,
                                                columns);
}

// ---- Rows ---------------------------------------------------------------------------------------

// The rows of a task, in scratch memory.
struct AttentionRows {
    const AttentionJob* job;
    int64_t size, width;     // of a head, and that in whole vectors
    float* queries;          // [rows, size], turned and scaled
    float* weights;          // [rows, kKeys]: scores, then their powers
    float* contexts;         // [rows, width]
    float* sums;             // [rows, kGroup]
    float* most;             // [rows]: the highest score yet
    const float** biases;    // [rows]
    int64_t *first, *end;    // [rows]: the keys that a row sees
    float* keys;             // a block's keys [size, kKeys]
    float* copied;           // a block's values [kKeys, width], unless they are read in place
    int64_t start, count;    // the block's keys
};

constexpr int64_t kAttentionParts = 10;

size_t attention_scratch(const AttentionJob& job) {
    const int64_t width = round_up(job.head_size, kLanes);
    const int64_t of_row = job.head_size + kKeys + width + kGroup + 1;
    const int64_t floats = kAttentionRows * of_row + kKeys * (job.head_size + width);
    return floats * sizeof(float) + 3 * kAttentionRows * sizeof(int64_t) + kAttentionParts * kAlignment;
}

AttentionRows lay_out(const AttentionJob& job, void* scratch) {
    AttentionRows rows = {};
    char* place = static_cast<char*>(scratch);
    const auto take = [&](auto*& part, int64_t items) {
        part = reinterpret_cast<decltype(+part)>(place);
        place += round_up(items * sizeof(*part), kAlignment);
    };
    rows.job = &job;
    rows.size = job.head_size, rows.width = round_up(job.head_size, kLanes);
    take(rows.queries, kAttentionRows * rows.size);
    take(rows.weights, kAttentionRows * kKeys);
    take(rows.contexts, kAttentionRows * rows.width);
    take(rows.sums, kAttentionRows * kGroup);
    take(rows.most, kAttentionRows);
    take(rows.biases, kAttentionRows);
    take(rows.first, kAttentionRows);
    take(rows.end, kAttentionRows);
    take(rows.keys, kKeys * rows.size);
    take(rows.copied, kKeys * rows.width);
    return rows;
}

void begin_row(const AttentionRows& rows, int64_t row, int64_t sequence, int64_t token, int64_t head) {
    const AttentionJob& job = *rows.job;
    const int64_t position = job.past[sequence] + token, total = job.total[sequence];
    const float* from = job.query + (sequence * job.tokens + token) * job.query_step + head * rows.size;
    float* query = rows.queries + row * rows.size;
    // Tokens beyond the sequence's own are padding, and see nothing.
    const bool real = position < total;
    rows.end[row] = !real ? 0 : job.causal ? position + 1 : total;
    rows.first[row] = real && job.window > 0 && position >= job.window ? position + 1 - job.window : 0;
    if (real && job.turned) turn(job, from, position, query), from = query;
    for (int64_t d = 0; d < rows.size; d += kLanes)
        store_part(query + d, mul(as_float(from + d, rows.size - d), splat(job.factor)), rows.size - d);
    if (job.bias)
        rows.biases[row] = job.bias + sequence * job.bias_sequence + head * job.bias_head +
                           token * job.bias_token;
    rows.most[row] = kLowest;
    memset(rows.sums + row * kGroup, 0, kGroup * sizeof(float));
    memset(rows.contexts + row * rows.width, 0, rows.width * sizeof(float));
}

void finish_row(const AttentionRows& rows, int64_t row, float* to) {
    const float* sums = rows.sums + row * kGroup;
    float sum = 0.0f;
    for (int64_t lane = 0; lane < kGroup; lane++) sum += sums[lane];
    const Float factor = splat(sum == 0.0f ? 0.0f : 1.0f / sum);
    const float* context = rows.contexts + row * rows.width;
    for (int64_t d = 0; d < rows.size; d += kLanes)
        store_part(to + d, mul(load(context + d), factor), rows.size - d);
}

// ---- Blocks of keys -----------------------------------------------------------------------------

// A block of a head's keys or values.
template <class Number>
struct Block {
    const Number* data;
    int64_t step;
    const float* scales;
    int64_t last;  // token
};

template <class Number>
Block<Number> block_of(const AttentionRows& rows, const Source& source, int64_t sequence, int64_t head) {
    const AttentionJob& job = *rows.job;
    const int64_t scales = (sequence * job.key_heads + head) * job.room + rows.start;
    return {static_cast<const Number*>(source.data) + sequence * source.sequence +
                head * source.head + rows.start * source.token,
            source.token, source.scales ? source.scales + scales : nullptr, rows.count - 1};
}

// Numbers [first, first + kLanes) of keys [key, key + kLanes), a vector for each number; the last key
// stands for those beyond it. The next block is on its way meanwhile.
template <class Number>
inline void turn_keys(const Block<Number>& keys, int64_t key, int64_t first, int64_t count,
                      Float (&turned)[kLanes]) {
    for (int i = 0; i < kLanes; i++) {
        const int64_t at = key + i < keys.last ? key + i : keys.last;
        const Number* from = keys.data + at * keys.step + first;
        __builtin_prefetch(from + kKeys * keys.step, 0, kNear);
        turned[i] = as_float(from, count);
        if (keys.scales) turned[i] = mul(turned[i], splat(keys.scales[at]));
    }
    transpose(turned);
}

// A block's keys, turned into [size, kKeys].
template <class Number>
void read_keys(const AttentionRows& rows, const Block<Number>& keys) {
    for (int64_t k = 0; k <= keys.last; k += kLanes)
        for (int64_t d = 0; d < rows.size; d += kLanes) {
            const int64_t left = rows.size - d, count = left < kLanes ? left : kLanes;
            Float turned[kLanes];
            turn_keys(keys, k, d, left, turned);
            for (int64_t i = 0; i < count; i++) store(rows.keys + (d + i) * kKeys + k, turned[i]);
        }
}

// The scores of so few rows that turned keys are not worth keeping.
template <int Rows, class Number>
void score_few(const AttentionRows& rows, int64_t row, const Block<Number>& keys) {
    const float* query = rows.queries + row * rows.size;
    for (int64_t k = 0; k <= keys.last; k += kLanes) {
        Float sums[Rows];
        for (int r = 0; r < Rows; r++) sums[r] = splat(0.0f);
        for (int64_t d = 0; d < rows.size; d += kLanes) {
            const int64_t left = rows.size - d;
            Float turned[kLanes];
            turn_keys(keys, k, d, left, turned);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; i++)
                if (i < left)
                    for (int r = 0; r < Rows; r++)
                        sums[r] = fma(splat(query[r * rows.size + d + i]), turned[i], sums[r]);
        }
        for (int r = 0; r < Rows; r++) store(rows.weights + (row + r) * kKeys + k, sums[r]);
    }
}

// A block's values as they are, if they are whole vectors of floats, or copied.
template <class Number>
Block<float> read_values(const AttentionRows& rows, const Block<Number>& values) {
    if constexpr (std::is_same<Number, float>::value)
        if (rows.size == rows.width) return values;
    for (int64_t k = 0; k <= values.last; k++)
        for (int64_t d = 0; d < rows.size; d += kLanes) {
            const Number* from = values.data + k * values.step + d;
            __builtin_prefetch(from + kKeys * values.step, 0, kNear);
            Float value = as_float(from, rows.size - d);
            if (values.scales) value = mul(value, splat(values.scales[k]));
            store(rows.copied + k * rows.width + d, value);
        }
    return {rows.copied, rows.width, nullptr, values.last};
}

// tanh x = 1 - 2 / (1 + e^(2 x)).
inline Float hyperbolic_tangent(Float x) {
    const Float power = power2(mul(x, splat(2.0f * kLog2E)));
    return sub(splat(1.0f), div(splat(2.0f), add(splat(1.0f), power)));
}

// 2^x for x <= 0, and exactly 0 from 2^-126 down.
inline Float weight_of(Float x) { return sub(power2(x), splat(1.17549435e-38f)); }

// Scores of a row become powers of two, and what it has summed is rescaled. The row sees keys [first,
// end) of the block; `columns` is at least `end` and whole vectors.
void weigh(const AttentionRows& rows, int64_t row, int64_t first, int64_t end, int64_t columns) {
    const AttentionJob& job = *rows.job;
    float* weights = rows.weights + row * kKeys;
    if (job.cap != 0.0f)
        for (int64_t k = 0; k < columns; k += kLanes)
            store(weights + k, mul(hyperbolic_tangent(load(weights + k)), splat(job.cap)));
    if (job.bias) {
        const float* bias = rows.biases[row] + rows.start;
        for (int64_t k = 0; k < end; k += kLanes) {
            const Float score =
                fma(as_float(bias + k, end - k), splat(kLog2E), load(weights + k));
            // A row that sees nothing but masked keys weighs them alike.
            store(weights + k, maximum(splat(kLowest), score));
        }
    }
    for (int64_t k = 0; k < first; k++) weights[k] = kMinusInfinity;
    for (int64_t k = end; k < columns; k++) weights[k] = kMinusInfinity;
    Float most = load(weights);
    for (int64_t k = kLanes; k < columns; k += kLanes) most = maximum(most, load(weights + k));
    const float before = rows.most[row], block = highest(most), now = block > before ? block : before;
    float* sums = rows.sums + row * kGroup;
    Float totals[kParts];
    for (int p = 0; p < kParts; p++) totals[p] = load(sums + p * kLanes);
    if (now != before) {
        const Float factor = weight_of(splat(before - now));
        for (int p = 0; p < kParts; p++) totals[p] = mul(totals[p], factor);
        float* context = rows.contexts + row * rows.width;
        for (int64_t d = 0; d < rows.width; d += kLanes)
            store(context + d, mul(load(context + d), factor));
        rows.most[row] = now;
    }
    for (int64_t k = 0; k < columns; k += kGroup)
        for (int p = 0; p < kParts; p++) {
            const Float weight = weight_of(sub(load(weights + k + p * kLanes), splat(now)));
            store(weights + k + p * kLanes, weight);
            totals[p] = add(totals[p], weight);
        }
    for (int p = 0; p < kParts; p++) store(sums + p * kLanes, totals[p]);
}

// Adds values [first, end) of the block.
template <int Rows, class Number>
inline void add_values(const AttentionRows& rows, int64_t row, int64_t first, int64_t end,
                       const Block<Number>& values) {
    if (first < end)
        multiply_into<false, Rows>(rows.weights + row * kKeys + first, kKeys,
                                   values.data + first * values.step, values.step,
                                   values.scales ? values.scales + first : nullptr, end - first,
                                   rows.contexts + row * rows.width, rows.width, rows.width);
}

// Adds a block to rows; their scores are there already if `scored`.
template <int Rows, class Number>
void attend_rows(const AttentionRows& rows, int64_t row, bool scored, const Block<Number>& values) {
    int64_t first[Rows], end[Rows], start = 0, stop = rows.count, all = 0;
    for (int i = 0; i < Rows; i++) {
        const int64_t from = rows.first[row + i] - rows.start, to = rows.end[row + i] - rows.start;
        first[i] = from > 0 ? from : 0, end[i] = to < rows.count ? to : rows.count;
        start = first[i] > start ? first[i] : start, stop = end[i] < stop ? end[i] : stop;
        all = end[i] > all ? end[i] : all;
    }
    const int64_t columns = round_up(all, kGroup);
    if (!scored)
        multiply_into<true, Rows>(rows.queries + row * rows.size, rows.size, rows.keys, kKeys,
                                  nullptr, rows.size, rows.weights + row * kKeys, kKeys, columns);
    for (int i = 0; i < Rows; i++) weigh(rows, row + i, first[i], end[i], columns);
    // A value that a row does not see is not even multiplied by zero: it may not be finite.
    if (start > stop) start = stop = kKeys;
    for (int i = 0; i < Rows; i++)
        add_values<1>(rows, row + i, first[i], end[i] < start ? end[i] : start, values);
    add_values<Rows>(rows, row, start, stop, values);
    for (int i = 0; i < Rows; i++) add_values<1>(rows, row + i, stop, end[i], values);
}

template <int Rows = kTileRows>
void attend_many(const AttentionRows& rows, int64_t row, int64_t end, const Block<float>& values) {
    for (; end - row >= Rows; row += Rows) attend_rows<Rows>(rows, row, false, values);
    if constexpr (Rows > 1) attend_many<Rows - 1>(rows, row, end, values);
}

template <class Number, int Rows = kTileRows>
void attend_few(const AttentionRows& rows, int64_t row, int64_t count, const Block<Number>& keys,
                const Block<Number>& values) {
    if (count == Rows) {
        score_few<Rows>(rows, row, keys);
        if (rows.size == rows.width) attend_rows<Rows>(rows, row, true, values);
        else attend_rows<Rows>(rows, row, true, read_values(rows, values));
    } else if constexpr (Rows > 1) {
        attend_few<Number, Rows - 1>(rows, row, count, keys, values);
    }
}

template <class Number>
void attend_blocks(AttentionRows& rows, int64_t sequence, int64_t head, int64_t count) {
    const int64_t total = rows.job->total[sequence];
    int64_t low = 0, high = count;  // the rows that see something of a block: their ranges ascend
    while (high > 0 && rows.end[high - 1] == 0) high--;
    if (high == 0) return;
    for (rows.start = rows.first[0] / kKeys * kKeys; rows.start < rows.end[high - 1];
         rows.start += kKeys) {
        rows.count = total - rows.start < kKeys ? total - rows.start : kKeys;
        while (low < high && rows.end[low] <= rows.start) low++;
        int64_t stop = low;
        while (stop < high && rows.first[stop] < rows.start + rows.count) stop++;
        const Block<Number> keys = block_of<Number>(rows, rows.job->keys, sequence, head);
        const Block<Number> values = block_of<Number>(rows, rows.job->values, sequence, head);
        if (stop - low <= kTileRows) {
            attend_few(rows, low, stop - low, keys, values);
        } else {
            read_keys(rows, keys);
            attend_many(rows, low, stop, read_values(rows, values));
        }
    }
}

void attend(const AttentionJob& job, int64_t sequence, int64_t head, int64_t first, int64_t count,
            void* scratch) {
    AttentionRows rows = lay_out(job, scratch);
    const int64_t group = job.heads / job.key_heads;
    for (int64_t row = 0; row < count; row++)
        begin_row(rows, row, sequence, (first + row) / group, head * group + (first + row) % group);
    switch (job.type) {
        case Cached::kFloat32: attend_blocks<float>(rows, sequence, head, count); break;
        case Cached::kFloat16: attend_blocks<Half>(rows, sequence, head, count); break;
        case Cached::kInt8: attend_blocks<int8_t>(rows, sequence, head, count); break;
    }
    for (int64_t row = 0; row < count; row++) {
        const int64_t token = (first + row) / group, its = head * group + (first + row) % group;
        float* to = job.context + ((sequence * job.tokens + token) * job.heads + its) * job.head_size;
        finish_row(rows, row, to);
    }
}

constexpr AttentionKernels attention_kernels = {write_new, attention_scratch, attend};

}  // namespace
