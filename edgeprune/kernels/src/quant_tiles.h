// The kernels of quantized linears, compiled by the file of each instruction set after tiles.h.
//
// From the simd header: Partial, sums of products of unsigned and signed bytes; add_products(partial,
// codes, x); total(partial). kNarrow says that a Partial has 16 bits: then it takes codes of 4 bits
// and at most kBlock / 4 additions. kQuantRows rows are multiplied at once.
#pragma once

#include "quant.h"
#include "tiles.h"

namespace {

inline int32_t word_of(const int8_t* p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

// The bits of the largest magnitude, which order as the numbers do; a NaN is above infinity.
uint32_t largest_bits(const float* x, int64_t count) {
    int32_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return uint32_t(most);
}

void quantize_row(const QuantJob& job, int64_t row) {
    constexpr uint32_t kInfinity = 0x7f800000;
    const QuantWeights& weights = *job.weights;
    const int64_t K = weights.K, padded = weights.blocks * kBlock;
    const float* x = job.x + row * K;
    int8_t* codes = job.codes + row * padded;
    const uint32_t bits = largest_bits(x, K);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    float scale = largest / 127.0f;
    if (bits >= kInfinity || scale == 0.0f) {
        memset(codes, 0, padded);
        if (bits >= kInfinity) scale = __builtin_nanf("");
    } else {
        quantize(x, K, scale, 128, reinterpret_cast<uint8_t*>(codes));
        for (int64_t k = 0; k < K; k++) codes[k] = int8_t(uint8_t(codes[k]) ^ 0x80);
        memset(codes + K, 0, padded - K);
    }
    job.scales[row] = scale;
    const int32_t zero = 1 << (weights.bits - 1);
    for (int64_t g = 0; g < weights.groups; g++) {
        const int64_t end = (g + 1) * weights.group < padded ? (g + 1) * weights.group : padded;
        int32_t sum = 0;
        for (int64_t k = g * weights.group; k < end; k++) sum += codes[k];
        job.shifts[row * weights.groups + g] = -zero * sum;
    }
}

// The sums of Rows rows and kLanes columns, from column `lane` of a strip on.
template <int Bits, int Rows>
inline __attribute__((always_inline)) void strip_sums(const QuantJob& job, int64_t row, int64_t strip,
                                                      int64_t lane, Int (&sums)[Rows]) {
    const QuantWeights& weights = *job.weights;
    constexpr bool kHalves = Bits == 4 || kNarrow;  // codes are taken apart into halves
    constexpr int kHigh = Bits == 8 ? 16 : 1;       // the worth of a high half
    const int64_t padded = weights.blocks * kBlock, groups = weights.groups;
    const int64_t group_blocks = weights.group / kBlock, step = kNarrow ? 1 : group_blocks;
    const uint8_t* from = weights.codes + strip * weights.blocks * Bits * kVectorBytes + lane * 4;
    const int8_t* multipliers = weights.multipliers + strip * groups * kStrip + lane;
    const int8_t* x = job.codes + row * padded;
    for (int r = 0; r < Rows; r++) sums[r] = splat(0);
    for (int64_t g = 0; g < groups; g++) {
        Int group[Rows];
        for (int r = 0; r < Rows; r++) group[r] = splat(job.shifts[(row + r) * groups + g]);
        const int64_t last = (g + 1) * group_blocks;
        const int64_t end = last < weights.blocks ? last : weights.blocks;
        for (int64_t b = g * group_blocks; b < end;) {
            const int64_t stop = b + step < end ? b + step : end;
            Partial partial[Rows][2];
            for (int r = 0; r < Rows; r++) partial[r][0] = partial[r][1] = no_products();
            for (; b < stop; b++) {
#pragma GCC unroll 8
                for (int v = 0; v < Bits; v++, from += kVectorBytes) {
                    const Int codes = load(reinterpret_cast<const Word*>(from));
                    __builtin_prefetch(from + 4096, 0, 2);
                    const int8_t* at = x + b * kBlock + v * (Bits == 4 ? 8 : 4);
                    if constexpr (kHalves) {
                        const Int low = low_halves(codes), high = high_halves(codes);
                        for (int r = 0; r < Rows; r++) {
                            const int8_t* its = at + r * padded;
                            const Int even = splat(word_of(its));
                            add_products(partial[r][0], low, even);
                            add_products(partial[r][1], high,
                                         Bits == 8 ? even : splat(word_of(its + 4)));
                        }
                    } else {
                        for (int r = 0; r < Rows; r++)
                            add_products(partial[r][v & 1], codes, splat(word_of(at + r * padded)));
                    }
                }
            }
            for (int r = 0; r < Rows; r++) {
                Int high = total(partial[r][1]);
                if (kHalves && kHigh > 1) high = mul(high, splat(kHigh));
                group[r] = add(group[r], add(total(partial[r][0]), high));
            }
        }
        const Int multiplier = widened(multipliers + g * kStrip);
        for (int r = 0; r < Rows; r++) sums[r] = add(sums[r], mul(group[r], multiplier));
    }
}

template <int Bits, int Rows>
void quant_rows(const QuantJob& job, int64_t row, int64_t strip) {
    const QuantWeights& weights = *job.weights;
    const int64_t N = weights.N, column = strip * kStrip, left = N - column;
    alignas(kAlignment) float ragged[Rows * kStrip];
    float* out = left < kStrip ? ragged : job.y + row * N + column;
    const int64_t stride = left < kStrip ? kStrip : N;
    for (int p = 0; p < kParts; p++) {
        Int sums[Rows];
        strip_sums<Bits, Rows>(job, row, strip, p * kLanes, sums);
        const Float scales = load(weights.scales + column + p * kLanes);
        const Float bias = load(weights.bias + column + p * kLanes);
        for (int r = 0; r < Rows; r++) {
            const Float of_row = mul(to_float(sums[r]), splat(job.scales[row + r]));
            store(out + r * stride + p * kLanes, add(mul(of_row, scales), bias));
        }
    }
    if (left < kStrip)
        for (int r = 0; r < Rows; r++)
            memcpy(job.y + (row + r) * N + column, ragged + r * kStrip, left * sizeof(float));
}

template <int Bits, int Rows>
void quant_strip(const QuantJob& job, int64_t row, int64_t rows, int64_t strip) {
    for (; rows >= Rows; row += Rows, rows -= Rows) quant_rows<Bits, Rows>(job, row, strip);
    if constexpr (Rows > 1) quant_strip<Bits, Rows / 2>(job, row, rows, strip);
}

void quant_multiply(const QuantJob& job, int64_t row, int64_t rows, int64_t first_strip,
                    int64_t end_strip) {
    for (int64_t strip = first_strip; strip < end_strip; strip++)
        if (job.weights->bits == 4) quant_strip<4, kQuantRows>(job, row, rows, strip);
        else quant_strip<8, kQuantRows>(job, row, rows, strip);
}

constexpr QuantKernels quant_kernels = {quantize_row, quant_multiply};

}  // namespace
