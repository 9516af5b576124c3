// The kernels, written once over the vectors that a simd_*.h declares, and compiled by the file of
// each instruction set with its own flags.
//
// Everything has internal linkage and nothing of the standard library is instantiated: the linker
// keeps one copy of an inline function, and must not keep the AVX-512 copy for every set.
//
// From the simd header: kLanes, the vectors Float, Int and Codes (weights made ready for dot), and
// load, store, splat, fma and the like. dot(sums, x, w) adds the products of four unsigned codes of x
// and four signed codes of w in each 32-bit lane, exactly. kFlip turns packed codes into what dot
// takes as x (0x80 if both must be signed; the zero point then shifts by the same amount).
#pragma once

#include <cstring>

#include "kernels.h"

namespace {

using namespace edgeprune;

constexpr int kParts = kGroup / kLanes;  // vectors per group of columns
constexpr int kWideRows = kLanes;        // rows of a packed tile, wide formats
constexpr int kTallVectors = 4;          // vectors of rows in a packed tile, the other formats
static_assert(kParts * kLanes == kGroup, "vectors fill a group");

constexpr int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// ---- Epilogues ----------------------------------------------------------------------------------

// 2^x for x in [-126, 126]: the fraction by a polynomial with a relative error of at most 1.2e-7.
inline Float power2(Float x) {
    x = maximum(splat(-126.0f), minimum(splat(126.0f), x));  // in this order a NaN stays one
    const Int whole = round_to_int(x);
    const Float rest = sub(x, to_float(whole));
    Float sum = splat(0.00132995042f);
    sum = fma(sum, rest, splat(0.00967072104f));
    sum = fma(sum, rest, splat(0.0555056617f));
    sum = fma(sum, rest, splat(0.240222673f));
    sum = fma(sum, rest, splat(0.69314718f));
    sum = fma(sum, rest, splat(1.0f));
    return times_power_of_two(sum, whole);
}

// by * sigmoid(x); `scale` is -log2(e), or that times a factor of x.
inline Float sigmoid_times(Float by, Float x, float scale = -1.44269504f) {
    return mul(by, reciprocal(add(splat(1.0f), power2(mul(x, splat(scale))))));
}

// x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, with erfc from Abramowitz and Stegun 7.1.26,
// whose error is at most 1.5e-7; its coefficients are halved here, and e^(-x^2 / 2) is a power of 2.
inline Float gelu(Float x) {
    const Float size = maximum(x, sub(splat(0.0f), x));
    const Float t = reciprocal(fma(size, splat(0.3275911f * 0.70710678f), splat(1.0f)));
    Float sum = splat(0.5f * 1.061405429f);
    sum = fma(sum, t, splat(0.5f * -1.453152027f));
    sum = fma(sum, t, splat(0.5f * 1.421413741f));
    sum = fma(sum, t, splat(0.5f * -0.284496736f));
    sum = fma(sum, t, splat(0.5f * 0.254829592f));
    const Float decay = power2(mul(mul(x, x), splat(-0.72134752f)));
    return sub(maximum(x, splat(0.0f)), mul(mul(size, t), mul(sum, decay)));
}

// x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
inline Float gelu_tanh(Float x) {
    const Float curve = fma(mul(x, x), splat(0.044715f), splat(1.0f));
    return sigmoid_times(x, mul(x, curve), -1.44269504f * 1.59576912f);
}

inline Float finish(Epilogue epilogue, Float value, const float* other) {
    switch (epilogue) {
        case Epilogue::kGelu: return gelu(value);
        case Epilogue::kGeluTanh: return gelu_tanh(value);
        case Epilogue::kSiluMul: return sigmoid_times(mul(value, load(other)), value);
        case Epilogue::kGeluMul: return mul(gelu(value), load(other));
        case Epilogue::kGeluTanhMul: return mul(gelu_tanh(value), load(other));
        case Epilogue::kAdd: return add(value, load(other));
        case Epilogue::kNone: break;
    }
    return value;
}

// Applies the epilogue to a group of columns in place, while it is still in the L1 cache.
void finish_group(Epilogue epilogue, float* out, int64_t stride, const float* other,
                  int64_t other_stride, int rows) {
    for (int i = 0; i < rows; i++)
        for (int p = 0; p < kParts; p++) {
            float* place = out + i * stride + p * kLanes;
            const float* beside = other ? other + i * other_stride + p * kLanes : nullptr;
            store(place, finish(epilogue, load(place), beside));
        }
}

// ---- Quantization -------------------------------------------------------------------------------

void range(const float* x, size_t count, float* low, float* high) {
    Float lows[4], highs[4];
    for (int u = 0; u < 4; u++) lows[u] = splat(*low), highs[u] = splat(*high);
    size_t i = 0;
    for (; i + 4 * kLanes <= count; i += 4 * kLanes)
        for (int u = 0; u < 4; u++) {
            const Float value = load(x + i + u * kLanes);
            lows[u] = minimum(lows[u], value), highs[u] = maximum(highs[u], value);
        }
    alignas(kAlignment) float few[2][kLanes];
    store(few[0], minimum(minimum(lows[0], lows[1]), minimum(lows[2], lows[3])));
    store(few[1], maximum(maximum(highs[0], highs[1]), maximum(highs[2], highs[3])));
    for (int lane = 0; lane < kLanes; lane++) {
        if (few[0][lane] < *low) *low = few[0][lane];
        if (few[1][lane] > *high) *high = few[1][lane];
    }
    for (; i < count; i++) {
        if (x[i] < *low) *low = x[i];
        if (x[i] > *high) *high = x[i];
    }
}

// Division is slow, and multiplying by 1 / scale rounds differently only next to a half: only vectors
// with such a value are divided. Adding 1.5 * 2^23 rounds to whole numbers and leaves them in the
// lowest bits.
void quantize(const float* x, size_t count, float scale, int32_t zero_point, uint8_t* codes) {
    constexpr float kRound = 12582912.0f;
    constexpr int32_t kRoundBits = 0x4b400000;
    constexpr size_t kStep = 4 * kLanes;
    // The bound holds while |x / scale| is at most 255 and 1 / scale is a normal number.
    const bool normal = scale > 1e-30f && scale < 1e30f;
    const Float divisor = splat(scale), inverse = splat(normal ? 1.0f / scale : 0.0f);
    const Float round = splat(kRound);
    const Int shift = splat(zero_point), bits = splat(zero_point - kRoundBits);
    const auto divided = [&](const float* from, Int (&whole)[4]) {
        for (int u = 0; u < 4; u++)
            whole[u] = add(round_to_int(div(load(from + u * kLanes), divisor)), shift);
    };
    size_t i = 0;
    if (normal)
        for (; i + kStep <= count; i += kStep) {
            Int whole[4];
            Float away = splat(0.0f);
            for (int u = 0; u < 4; u++) {
                const Float value = load(x + i + u * kLanes), rounded = fma(value, inverse, round);
                away = larger(away, fma(value, inverse, sub(round, rounded)));
                whole[u] = add(bits_of(rounded), bits);
            }
            if (any_above(away, 0.4999f)) divided(x + i, whole);
            store_bytes(codes + i, whole);
        }
    for (; i < count; i += kStep) {
        const size_t left = count - i < kStep ? count - i : kStep;
        float values[kStep] = {};
        uint8_t bytes[kStep];
        Int whole[4];
        memcpy(values, x + i, left * sizeof(float));
        divided(values, whole);
        store_bytes(bytes, whole);
        memcpy(codes + i, bytes, left);
    }
}

// ---- Packing ------------------------------------------------------------------------------------

// Rows of 32-bit words [rows, words] to [words, stride], in squares of kLanes; words and rows here
// are multiples of kLanes.
void interleave(const float* rows, int64_t words, int count, float* packed, int64_t stride) {
    for (int i = 0; i < count; i += kLanes)
        for (int64_t k = 0; k < words; k += kLanes) {
            Float square[kLanes];
            for (int j = 0; j < kLanes; j++) square[j] = load(rows + (i + j) * words + k);
            transpose(square);
            for (int j = 0; j < kLanes; j++) store(packed + (k + j) * stride + i, square[j]);
        }
}

int vectors_of(int rows) { return rows <= kLanes ? 1 : rows <= 2 * kLanes ? 2 : kTallVectors; }

// The number of rows that a tile is packed for; its words are [units, this].
int packed_rows(Format format, int rows) {
    if (is_wide(format)) return rows == 1 ? 1 : kWideRows;
    return vectors_of(rows) * kLanes;
}

int tile_rows(Format format) { return is_wide(format) ? kWideRows : kTallVectors * kLanes; }

Scratch scratch(const Weights& weights) {
    const size_t words = round_up(weights.units, kLanes);
    const size_t rows = tile_rows(weights.format), word = sizeof(Word);
    const size_t panel = is_wide(weights.format) ? 0 : kPanel * rows * word;
    return {words * rows * word, words * rows * word, panel};
}

void pack(const Job& job, int64_t row, int rows, void* packed, void* staging) {
    const Weights& weights = *job.weights;
    const int64_t K = weights.K, words = round_up(weights.units, kLanes);
    const int stride = packed_rows(weights.format, rows);
    const size_t row_bytes = words * sizeof(Word);
    uint8_t* to = static_cast<uint8_t*>(stride == 1 ? packed : staging);
    for (int i = 0; i < rows; i++, to += row_bytes) {
        size_t used = K * sizeof(float);
        if (!is_int8(weights.format)) {
            memcpy(to, job.x + (row + i) * K, used);
        } else {
            used = K;
            if (job.codes) memcpy(to, job.codes + (row + i) * K, K);
            else quantize(job.x + (row + i) * K, K, job.x_scale, job.x_zero_point, to);
            if (kFlip)
                for (int64_t k = 0; k < K; k++) to[k] ^= kFlip;
        }
        // Padding must be the same on every processor, whatever its weight.
        memset(to + used, is_int8(weights.format) ? kFlip : 0, row_bytes - used);
    }
    if (stride == 1) return;
    memset(to, 0, (stride - rows) * row_bytes);
    interleave(static_cast<float*>(staging), words, stride, static_cast<float*>(packed), stride);
}

// ---- Wide blocks: 16 columns, a vector (or kParts of them) along the columns ---------------------

inline Int start_sums(const Job& job, int64_t column) {
    return mul(splat(int32_t(kFlip) - job.x_zero_point), load(job.weights->sums + column));
}

// Sums Rows rows of a tile for one group of columns. With few rows, several blocks are summed
// separately, because a chain of dependent products would wait for each.
template <int Rows, int Stride>
void wide_int8(const Job& job, const Word* x, int64_t row, int64_t group, int rows, float* out,
               int64_t ld) {
    constexpr int kChains = Rows * kParts >= 8 ? 1 : Rows * kParts >= 4 ? 2 : 4;
    const Weights& weights = *job.weights;
    Int sums[kChains][Rows][kParts];
    for (int p = 0; p < kParts; p++) {
        const Int start = start_sums(job, group * kGroup + p * kLanes);
        for (int i = 0; i < Rows; i++) {
            sums[0][i][p] = start;
            for (int c = 1; c < kChains; c++) sums[c][i][p] = splat(0);
        }
    }
    uint32_t b = weights.starts[group];
    const uint32_t end = weights.starts[group + 1];
    const int8_t* values = static_cast<const int8_t*>(weights.values) + size_t(b) * 4 * kGroup;
    const uint32_t* indices = weights.indices;
    for (; b + kChains <= end; b += kChains, values += kChains * 4 * kGroup)
        for (int c = 0; c < kChains; c++)
            multiply_rows<Rows>(sums[c], x + size_t(indices[b + c]) * Stride,
                                values + c * 4 * kGroup);
    for (; b < end; b++, values += 4 * kGroup)
        multiply_rows<Rows>(sums[0], x + size_t(indices[b]) * Stride, values);
    for (int c = 1; c < kChains; c++)
        for (int i = 0; i < Rows; i++)
            for (int p = 0; p < kParts; p++) sums[0][i][p] = add(sums[0][i][p], sums[c][i][p]);
    // Full tiles with one scale, nearly all of a call, are written without a branch per row.
    const float* row_scales = job.row_scales ? job.row_scales + row : nullptr;
    for (int p = 0; p < kParts; p++) {
        const int64_t column = group * kGroup + p * kLanes;
        const Float scales = load(weights.scales + column), bias = load(weights.bias + column);
        const Float scale = mul(splat(job.x_scale), scales);
        float* to = out + p * kLanes;
        if (rows == Rows && !row_scales) {
            for (int i = 0; i < Rows; i++)
                store(to + i * ld, fma(to_float(sums[0][i][p]), scale, bias));
            continue;
        }
        for (int i = 0; i < Rows; i++) {
            if (i >= rows) break;
            const Float its = row_scales ? mul(splat(row_scales[i]), scales) : scale;
            store(to + i * ld, fma(to_float(sums[0][i][p]), its, bias));
        }
    }
}

template <int Rows, int Stride>
void wide_float(const Job& job, const float* x, int64_t group, int rows, float* out, int64_t ld) {
    constexpr int kChains = Rows * kParts >= 8 ? 1 : Rows * kParts >= 4 ? 2 : 4;
    const Weights& weights = *job.weights;
    Float sums[kChains][Rows][kParts];
    for (int p = 0; p < kParts; p++) {
        const Float bias = load(weights.bias + group * kGroup + p * kLanes);
        for (int i = 0; i < Rows; i++) {
            sums[0][i][p] = bias;
            for (int c = 1; c < kChains; c++) sums[c][i][p] = splat(0.0f);
        }
    }
    uint32_t b = weights.starts[group];
    const uint32_t end = weights.starts[group + 1];
    const float* values = static_cast<const float*>(weights.values) + size_t(b) * kGroup;
    const uint32_t* indices = weights.indices;
    for (; b + kChains <= end; b += kChains, values += kChains * kGroup)
        for (int c = 0; c < kChains; c++)
            multiply_rows<Rows>(sums[c], x + size_t(indices[b + c]) * Stride, values + c * kGroup);
    for (; b < end; b++, values += kGroup)
        multiply_rows<Rows>(sums[0], x + size_t(indices[b]) * Stride, values);
    for (int p = 0; p < kParts; p++)
        for (int i = 0; i < Rows; i++) {
            for (int c = 1; c < kChains; c++) sums[0][i][p] = add(sums[0][i][p], sums[c][i][p]);
            if (i < rows) store(out + i * ld + p * kLanes, sums[0][i][p]);
        }
}

template <int Rows, int Stride>
inline void wide(const Job& job, const void* packed, int64_t row, int offset, int64_t group,
                 int rows, float* out, int64_t ld) {
    out += offset * ld;
    if (is_int8(job.weights->format))
        wide_int8<Rows, Stride>(job, static_cast<const Word*>(packed) + offset, row + offset, group,
                                rows, out, ld);
    else
        wide_float<Rows, Stride>(job, static_cast<const float*>(packed) + offset, group, rows, out,
                                 ld);
}

void wide_group(const Job& job, const void* packed, int64_t row, int64_t group, int rows, float* out,
                int64_t ld) {
    if (rows == 1) return wide<1, 1>(job, packed, row, 0, group, 1, out, ld);
    for (int done = 0; done < rows; done += kMostRows) {
        const int left = rows - done < kMostRows ? rows - done : kMostRows;
        if (left <= 2) {
            wide<2, kWideRows>(job, packed, row, done, group, left, out, ld);
            continue;
        }
        if constexpr (kMostRows > 4) {
            if (left <= 4) {
                wide<4, kWideRows>(job, packed, row, done, group, left, out, ld);
                continue;
            }
            if (left <= 8) {
                wide<8, kWideRows>(job, packed, row, done, group, left, out, ld);
                continue;
            }
        }
        wide<kMostRows, kWideRows>(job, packed, row, done, group, left, out, ld);
    }
}

// ---- Narrow blocks: one column, vectors along the rows --------------------------------------------

inline Int times(Int sums, const Word* x, Codes w) { return dot(sums, load(x), w); }
inline Float times(Float sums, const float* x, Float w) { return fma(load(x), w, sums); }
inline Codes narrow_weight(const Word* value) { return make_codes(splat(int32_t(*value))); }
inline Float narrow_weight(const float* value) { return splat(*value); }
inline Int zero_of(Int) { return splat(0); }
inline Float zero_of(Float) { return splat(0.0f); }

// Partial sums of columns [first, end) over one chunk of inputs: panel[column][row].
template <int Vectors, class Vector, class Item, class Sum>
void narrow_chunk(const Weights& weights, const Item* x, int64_t chunk, int64_t first, int64_t end,
                  Sum* panel) {
    constexpr int kRows = Vectors * kLanes, kChains = Vectors >= 4 ? 2 : Vectors == 2 ? 3 : 4;
    const uint32_t* starts = weights.starts + chunk * weights.groups * kGroup;
    const Item* values = static_cast<const Item*>(weights.values);
    const uint32_t* indices = weights.indices;
    for (int64_t n = first; n < end; n++, panel += kRows) {
        Vector sums[kChains][Vectors];
        for (int v = 0; v < Vectors; v++) {
            sums[0][v] = chunk ? load(panel + v * kLanes) : zero_of(Vector());
            for (int c = 1; c < kChains; c++) sums[c][v] = zero_of(Vector());
        }
        uint32_t b = starts[n];
        const uint32_t stop = starts[n + 1];
        for (; b + kChains <= stop; b += kChains)
            for (int c = 0; c < kChains; c++) {
                const auto w = narrow_weight(values + b + c);
                const Item* at = x + size_t(indices[b + c]) * kRows;
                for (int v = 0; v < Vectors; v++)
                    sums[c][v] = times(sums[c][v], at + v * kLanes, w);
            }
        for (; b < stop; b++) {
            const auto w = narrow_weight(values + b);
            const Item* at = x + size_t(indices[b]) * kRows;
            for (int v = 0; v < Vectors; v++) sums[0][v] = times(sums[0][v], at + v * kLanes, w);
        }
        for (int v = 0; v < Vectors; v++) {
            for (int c = 1; c < kChains; c++) sums[0][v] = add(sums[0][v], sums[c][v]);
            store(panel + v * kLanes, sums[0][v]);
        }
    }
}

inline Float scaled(const Job& job, const int32_t* sums, int64_t column, Float x_scales) {
    const Weights& weights = *job.weights;
    const uint32_t shift = uint32_t(int32_t(kFlip) - job.x_zero_point);
    const Int whole = add(load(sums), splat(int32_t(shift * uint32_t(weights.sums[column]))));
    const Float scales = mul(x_scales, splat(weights.scales[column]));
    return fma(to_float(whole), scales, splat(weights.bias[column]));
}

inline Float scaled(const Job& job, const float* sums, int64_t column, Float) {
    return add(load(sums), splat(job.weights->bias[column]));
}

// The scales of x for a vector of rows, of which `count` exist.
inline Float scales_of(const Job& job, int64_t row, int count) {
    if (!job.row_scales) return splat(job.x_scale);
    float scales[kLanes] = {};
    memcpy(scales, job.row_scales + row, (count < kLanes ? count : kLanes) * sizeof(float));
    return load(scales);
}

// Writes a group of columns of the panel, [16][packed rows], to rows of the result.
template <int Vectors, class Sum>
void narrow_group(const Job& job, const Sum* panel, int64_t row, int64_t group, int rows, float* out,
                  int64_t ld) {
    for (int p = 0; p < kParts; p++)
        for (int v = 0; v < Vectors && v * kLanes < rows; v++) {
            const Float x_scales = scales_of(job, row + v * kLanes, rows - v * kLanes);
            Float square[kLanes];
            for (int j = 0; j < kLanes; j++) {
                const Sum* sums = panel + ((p * kLanes + j) * Vectors + v) * kLanes;
                square[j] = scaled(job, sums, group * kGroup + p * kLanes + j, x_scales);
            }
            transpose(square);
            for (int j = 0; j < kLanes && v * kLanes + j < rows; j++)
                store(out + (v * kLanes + j) * ld + p * kLanes, square[j]);
        }
}

// ---- Tiles ----------------------------------------------------------------------------------------

// Lets `compute(out, stride)` write the last group, of fewer than 16 columns, through a buffer.
template <class Compute>
__attribute__((noinline)) void write_ragged(const Job& job, float* out, const float* other, int rows,
                                            int64_t columns, const Compute& compute) {
    constexpr int kRows = kTallVectors * kLanes > kWideRows ? kTallVectors * kLanes : kWideRows;
    alignas(kAlignment) float whole[kRows * kGroup], beside[kRows * kGroup];
    const int64_t N = job.weights->N;
    if (other)
        for (int i = 0; i < rows; i++) {
            memset(beside + i * kGroup, 0, kGroup * sizeof(float));
            memcpy(beside + i * kGroup, other + i * N, columns * sizeof(float));
        }
    compute(whole, kGroup);
    if (job.epilogue != Epilogue::kNone)
        finish_group(job.epilogue, whole, kGroup, other ? beside : nullptr, kGroup, rows);
    for (int i = 0; i < rows; i++) memcpy(out + i * N, whole + i * kGroup, columns * sizeof(float));
}

// Lets `compute(out, stride)` write a group of 16 columns, then finishes it. Inlined, because a call
// has thousands of groups and some take no longer than a function call.
template <class Compute>
inline __attribute__((always_inline)) void write_group(const Job& job, int64_t row, int rows,
                                                       int64_t group, const Compute& compute) {
    const int64_t N = job.weights->N, column = group * kGroup, left = N - column;
    float* out = job.y + row * N + column;
    const float* other = job.other ? job.other + row * N + column : nullptr;
    if (left < kGroup) return write_ragged(job, out, other, rows, left, compute);
    compute(out, N);
    if (job.epilogue != Epilogue::kNone) finish_group(job.epilogue, out, N, other, N, rows);
}

template <int Vectors, class Vector, class Item, class Sum>
void narrow_tile(const Job& job, int64_t row, int rows, int64_t first_group, int64_t end_group,
                 const Item* packed, Sum* panel) {
    const Weights& weights = *job.weights;
    constexpr int64_t kRows = Vectors * kLanes, kStep = kPanel / kGroup;
    for (int64_t from = first_group; from < end_group; from += kStep) {
        const int64_t to = from + kStep < end_group ? from + kStep : end_group;
        for (int64_t chunk = 0; chunk * kChunk < weights.units; chunk++)
            narrow_chunk<Vectors, Vector>(weights, packed, chunk, from * kGroup, to * kGroup, panel);
        for (int64_t group = from; group < to; group++) {
            const Sum* sums = panel + (group - from) * kGroup * kRows;
            write_group(job, row, rows, group, [&](float* out, int64_t ld) {
                narrow_group<Vectors>(job, sums, row, group, rows, out, ld);
            });
        }
    }
}

template <int Vectors>
void narrow(const Job& job, int64_t row, int rows, int64_t first_group, int64_t end_group,
            const void* packed, void* panel) {
    if (is_int8(job.weights->format))
        narrow_tile<Vectors, Int>(job, row, rows, first_group, end_group,
                                  static_cast<const Word*>(packed), static_cast<int32_t*>(panel));
    else
        narrow_tile<Vectors, Float>(job, row, rows, first_group, end_group,
                                    static_cast<const float*>(packed), static_cast<float*>(panel));
}

void multiply(const Job& job, int64_t row, int rows, int64_t first_group, int64_t end_group,
              const void* packed, void* panel) {
    if (!is_wide(job.weights->format)) {
        switch (vectors_of(rows)) {
            case 1: return narrow<1>(job, row, rows, first_group, end_group, packed, panel);
            case 2: return narrow<2>(job, row, rows, first_group, end_group, packed, panel);
            default:
                return narrow<kTallVectors>(job, row, rows, first_group, end_group, packed, panel);
        }
    }
    for (int64_t group = first_group; group < end_group; group++)
        write_group(job, row, rows, group, [&](float* out, int64_t ld) {
            wide_group(job, packed, row, group, rows, out, ld);
        });
}

}  // namespace

#define EDGEPRUNE_KERNELS(variable, name, supported, quant, attention)                   \
    namespace edgeprune {                                                                \
    const Kernels variable = {name,  supported, tile_rows, scratch, range,               \
                              quantize, pack,   multiply,  quant,   attention};          \
    }
