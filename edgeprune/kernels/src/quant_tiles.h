// The kernels of quantized linears, compiled by the file of each instruction set after tiles.h.
//
// Codes of 8 bits are multiplied in tiles of kQuantRows rows. Codes of 4 bits are multiplied as they
// are for few rows, which reads half the memory; from kUnpackRows rows on, two strips at a time become
// bytes first: code times multiplier is at most 120, so that the sums are the same integers.
//
// From the simd header: Partial, sums of products of codes of 4 bits and signed bytes;
// add_products(partial, codes, x); total(partial). kNarrow says that a Partial has 16 bits: then it
// takes at most kBlock / 4 additions. kQuantRows rows and kDenseStrips strips are multiplied at once.
#pragma once

#include "quant.h"
#include "tiles.h"

namespace {

inline int32_t word_of(const int8_t* p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

// ---- Norms ---------------------------------------------------------------------------------------

constexpr int kSumLanes = 32;  // partial sums of a row, on every instruction set

// The sum of term(x) over a row, in one order.
template <class Term>
inline float row_sum(const float* x, int64_t count, Term term) {
    constexpr int kVectors = kSumLanes / kLanes;
    Float sums[kVectors];
    for (int v = 0; v < kVectors; v++) sums[v] = splat(0.0f);
    int64_t k = 0;
    for (; k + kSumLanes <= count; k += kSumLanes)
        for (int v = 0; v < kVectors; v++)
            sums[v] = add(sums[v], term(load(x + k + v * kLanes)));
    float all[kSumLanes], last[kSumLanes] = {}, terms[kSumLanes];
    memcpy(last, x + k, (count - k) * sizeof(float));
    for (int v = 0; v < kVectors; v++) {
        store(all + v * kLanes, sums[v]);
        store(terms + v * kLanes, term(load(last + v * kLanes)));
    }
    for (int64_t i = 0; i < count - k; i++) all[i] += terms[i];
    for (int width = kSumLanes / 2; width; width /= 2)
        for (int i = 0; i < width; i++) all[i] += all[i + width];
    return all[0];
}

// x and to may be the same.
void norm_row(const RowNorm& norm, const float* x, int64_t count, float* to) {
    float mean = 0.0f;
    if (norm.kind == NormKind::kLayer)
        mean = row_sum(x, count, [](Float value) { return value; }) / float(count);
    const float squares = row_sum(x, count, [=](Float value) {
        const Float from_mean = sub(value, splat(mean));
        return mul(from_mean, from_mean);
    });
    const float factor = 1.0f / __builtin_sqrtf(squares / float(count) + norm.epsilon);
    const float *weight = norm.weight, *bias = norm.bias;
    if (bias)
        for (int64_t k = 0; k < count; k++) to[k] = (x[k] - mean) * factor * weight[k] + bias[k];
    else
        for (int64_t k = 0; k < count; k++) to[k] = x[k] * factor * weight[k];
}

void normalize_row(const QuantJob& job, int64_t row) {
    float* y = job.y + row * job.weights->N;
    norm_row(job.after, y, job.weights->N, y);
}

// ---- Quantization --------------------------------------------------------------------------------

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

// Whether codes are multiplied as bytes, for which only the sum of a whole row is needed.
inline bool as_bytes(const QuantJob& job) {
    return job.weights->bits == 8 || job.rows >= kUnpackRows;
}

int32_t sum_of_codes(const int8_t* codes, int64_t count) {
    constexpr int64_t kStep = 4 * kLanes;
    Int sums = splat(0);
    int64_t k = 0;
    for (; k + kStep <= count; k += kStep) {
        const Int four = load(reinterpret_cast<const Word*>(codes + k));
        sums = dot(sums, splat(0x01010101), make_codes(four));
    }
    int32_t lanes[kLanes], sum = 0;
    store(lanes, sums);
    for (int lane = 0; lane < kLanes; lane++) sum += lanes[lane];
    for (; k < count; k++) sum += codes[k];
    return sum;
}

void quantize_row(const QuantJob& job, int64_t row, float* normed) {
    constexpr uint32_t kInfinity = 0x7f800000;
    const QuantWeights& weights = *job.weights;
    const int64_t K = weights.K, padded = weights.blocks * kBlock;
    const float* x = job.x + row * K;
    if (job.before.kind != NormKind::kNone) {
        norm_row(job.before, x, K, normed);
        x = normed;
    }
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
    int32_t* sums = job.sums + row * (weights.groups + 1);
    sums[0] = sum_of_codes(codes, padded);
    if (as_bytes(job)) return;
    for (int64_t g = 0; g < weights.groups; g++) {
        const int64_t end = (g + 1) * weights.group < padded ? (g + 1) * weights.group : padded;
        int32_t sum = 0;
        for (int64_t k = g * weights.group; k < end; k++) sum += codes[k];
        sums[g + 1] = sum;
    }
}

// ---- Products ------------------------------------------------------------------------------------

inline Float scaled(const QuantJob& job, Int sum, int64_t row, int64_t column) {
    const QuantWeights& weights = *job.weights;
    const Float of_column = mul(to_float(sum), load(weights.scales + column));
    return add(mul(of_column, splat(job.scales[row])), load(weights.bias + column));
}

// The sums of Rows rows and kLanes columns of codes of 4 bits, from column `lane` of a strip on.
template <int Rows>
inline __attribute__((always_inline)) void few_sums(const QuantJob& job, int64_t row, int64_t strip,
                                                    int64_t lane, Int (&sums)[Rows]) {
    constexpr int kVectors = 4, kZero = 8;  // vectors of a block, the code of zero
    const QuantWeights& weights = *job.weights;
    const int64_t padded = weights.blocks * kBlock, groups = weights.groups;
    const int64_t group_blocks = weights.group / kBlock, step = kNarrow ? 1 : group_blocks;
    const uint8_t* from = weights.codes + strip * weights.blocks * kVectors * kVectorBytes + lane * 4;
    const int8_t* multipliers = weights.multipliers + strip * groups * kStrip + lane;
    const int8_t* x = job.codes + row * padded;
    for (int r = 0; r < Rows; r++) sums[r] = splat(0);
    for (int64_t g = 0; g < groups; g++) {
        Int group[Rows];
        for (int r = 0; r < Rows; r++)
            group[r] = splat(-kZero * job.sums[(row + r) * (groups + 1) + g + 1]);
        const int64_t last = (g + 1) * group_blocks;
        const int64_t end = last < weights.blocks ? last : weights.blocks;
        for (int64_t b = g * group_blocks; b < end;) {
            const int64_t stop = b + step < end ? b + step : end;
            Partial partial[Rows][2];
            for (int r = 0; r < Rows; r++) partial[r][0] = partial[r][1] = no_products();
            for (; b < stop; b++) {
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; v++, from += kVectorBytes) {
                    const Int codes = load(reinterpret_cast<const Word*>(from));
                    __builtin_prefetch(from + 4096, 0, 2);
                    const Int low = low_halves(codes), high = high_halves(codes);
                    const int8_t* at = x + b * kBlock + v * 8;
                    for (int r = 0; r < Rows; r++) {
                        const int8_t* its = at + r * padded;
                        add_products(partial[r][0], low, splat(word_of(its)));
                        add_products(partial[r][1], high, splat(word_of(its + 4)));
                    }
                }
            }
            for (int r = 0; r < Rows; r++)
                group[r] = add(group[r], add(total(partial[r][0]), total(partial[r][1])));
        }
        const Int multiplier = widened(multipliers + g * kStrip);
        for (int r = 0; r < Rows; r++) sums[r] = add(sums[r], mul(group[r], multiplier));
    }
}

template <int Rows>
void few(const QuantJob& job, int64_t row, int64_t strip, float* out, int64_t stride) {
    for (int p = 0; p < kParts; p++) {
        Int sums[Rows];
        few_sums<Rows>(job, row, strip, p * kLanes, sums);
        for (int r = 0; r < Rows; r++)
            store(out + r * stride + p * kLanes,
                  scaled(job, sums[r], row + r, strip * kStrip + p * kLanes));
    }
}

// A strip of 4 bits as bytes [blocks * 8, 64], plus 128. A code times the size of its multiplier is at
// most 225, so that one multiplication of 16 bits makes two bytes; a negative multiplier takes 15 - code.
void unpack_strip(const QuantWeights& weights, int64_t strip, uint8_t* bytes) {
    const int64_t vectors = weights.blocks * 4, group_vectors = weights.group / kBlock * 4;
    const uint8_t* from = weights.codes + strip * vectors * kVectorBytes;
    const int8_t* multipliers = weights.multipliers + strip * weights.groups * kStrip;
    for (int64_t g = 0; g < weights.groups; g++)
        for (int p = 0; p < kParts; p++) {
            const Int multiplier = widened(multipliers + g * kStrip + p * kLanes);
            const Int sign = sign_of(multiplier), minus = mul(sign, splat(-1));
            const Int size = add(exclusive_or(multiplier, sign), minus);
            const Int words = mul(size, splat(0x00010001));
            // 128 less 8 times the size, or 7 times.
            const Int less = add(mul(size, splat(8)), mul(size, sign));
            const Int start = mul(add(splat(128), mul(less, splat(-1))), splat(0x01010101));
            const int64_t last = (g + 1) * group_vectors, end = last < vectors ? last : vectors;
            for (int64_t v = g * group_vectors; v < end; v++) {
                const int64_t at = v * kVectorBytes + p * kLanes * 4;
                const Int codes = exclusive_or(load(reinterpret_cast<const Word*>(from + at)), sign);
                int32_t* to = reinterpret_cast<int32_t*>(bytes + at + v * kVectorBytes);
                store(to, add(mul_words(low_halves(codes), words), start));
                store(to + kVectorBytes / 4, add(mul_words(high_halves(codes), words), start));
            }
        }
}

// A tile of results, and what is added to it, are on their way to the cache while the sums are made.
// (Inlined in any case: a call of what only prefetches is left out by GCC.)
template <int Rows, int Strips>
inline __attribute__((always_inline)) void expect_results(const QuantJob& job, int64_t row, int64_t strip) {
    const bool gated = job.weights->gated;
    const int64_t N = job.weights->N, column = (gated ? strip / 2 : strip) * kStrip;
    for (int r = 0; r < Rows; r++)
        for (int s = 0; s < (gated ? 1 : Strips); s++) {
            const int64_t place = (row + r) * N + column + s * kStrip;
            __builtin_prefetch(job.y + place, 1, 3);
            if (job.other) __builtin_prefetch(job.other + place, 0, 3);
        }
}

// The products of Rows rows and Strips strips of bytes. With few of them several units are summed
// separately, because a chain of dependent products would wait for each.
template <int Rows, int Strips>
void dense(const QuantJob& job, int64_t row, int64_t strip, const uint8_t* bytes, float* out,
           int64_t stride) {
    constexpr int kVectors = Strips * kParts;
    constexpr int kChains = Rows * kVectors >= 8 ? 1 : Rows * kVectors >= 4 ? 2 : 4;
    const QuantWeights& weights = *job.weights;
    const int64_t units = weights.blocks * 8, padded = weights.blocks * kBlock;
    const int8_t* x = job.codes + row * padded;
    Int sums[kChains][Rows][kVectors];
    expect_results<Rows, Strips>(job, row, strip);
    for (int r = 0; r < Rows; r++) {
        const int32_t all = job.sums[(row + r) * (weights.groups + 1)];
        for (int v = 0; v < kVectors; v++) {
            sums[0][r][v] = splat(kFlip ? 0 : -128 * all);
            for (int c = 1; c < kChains; c++) sums[c][r][v] = splat(0);
        }
    }
#pragma GCC unroll 4
    for (int64_t u = 0; u < units; u += kChains)
        for (int c = 0; c < kChains; c++) {
            Int codes[kVectors];
            for (int v = 0; v < kVectors; v++) {
                const uint8_t* from = bytes + (v / kParts * units + u + c) * kVectorBytes +
                                      v % kParts * kLanes * 4;
                codes[v] = load(reinterpret_cast<const Word*>(from));
                if (kFlip) codes[v] = exclusive_or(codes[v], splat(int32_t(0x80808080)));
                if (Rows == 1) __builtin_prefetch(from + 4096, 0, 2);
            }
            for (int r = 0; r < Rows; r++) {
                const Codes its = make_codes(splat(word_of(x + r * padded + (u + c) * 4)));
                for (int v = 0; v < kVectors; v++)
                    sums[c][r][v] = dot(sums[c][r][v], codes[v], its);
            }
        }
    for (int r = 0; r < Rows; r++)
        for (int v = 0; v < kVectors; v++) {
            Int sum = sums[0][r][v];
            for (int c = 1; c < kChains; c++) sum = add(sum, sums[c][r][v]);
            store(out + r * stride + v * kLanes,
                  scaled(job, sum, row + r, strip * kStrip + v * kLanes));
        }
}

// ---- Panels --------------------------------------------------------------------------------------

constexpr int64_t kPanelColumns = kPanelStrips * kStrip;

// The epilogue of a panel's products, values [rows, kPanelStrips * 16], and their way to y.
__attribute__((noinline)) void finish_panel(const QuantJob& job, int64_t row, int64_t rows,
                                            int64_t strip, int64_t strips, float* values) {
    const bool gated = job.weights->gated;
    const int64_t N = job.weights->N, groups = gated ? 1 : strips;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t s = 0; s < groups; s++) {
            const int64_t column = (gated ? strip / 2 : strip + s) * kStrip;
            const int64_t left = N - column < kStrip ? N - column : kStrip;
            float* value = values + r * kPanelColumns + s * kStrip;
            float* y = job.y + (row + r) * N + column;
            float beside[kStrip] = {};
            const float* other = gated ? value + kStrip : beside;
            if (job.other) {
                other = job.other + (row + r) * N + column;
                if (left < kStrip) {
                    memcpy(beside, other, left * sizeof(float));
                    other = beside;
                }
            }
            float* to = left < kStrip ? value : y;
            for (int p = 0; p < kParts; p++)
                store(to + p * kLanes,
                      finish(job.epilogue, load(value + p * kLanes), other + p * kLanes));
            if (left < kStrip) memcpy(y, value, left * sizeof(float));
        }
}

// bytes: the panel's strips, or null for codes of 4 bits as they are.
template <int Rows>
void panel_rows(const QuantJob& job, int64_t row, int64_t strip, int64_t strips,
                const uint8_t* bytes) {
    const QuantWeights& weights = *job.weights;
    const bool whole = job.epilogue == Epilogue::kNone && (strip + strips) * kStrip <= weights.N;
    alignas(kAlignment) float values[Rows * kPanelColumns];
    float* out = whole ? job.y + row * weights.N + strip * kStrip : values;
    const int64_t stride = whole ? weights.N : kPanelColumns;
    const int64_t strip_bytes = weights.blocks * 8 * kVectorBytes;
    if (bytes && strips == kDenseStrips) {
        dense<Rows, kDenseStrips>(job, row, strip, bytes, out, stride);
    } else {
        for (int64_t s = 0; s < strips; s++, out += kStrip)
            if (bytes) dense<Rows, 1>(job, row, strip + s, bytes + s * strip_bytes, out, stride);
            else few<Rows>(job, row, strip + s, out, stride);
    }
    if (!whole) finish_panel(job, row, Rows, strip, strips, values);
}

// The next panel's weights, which are fetched a share with every tile of rows.
struct Ahead {
    const uint8_t* from;
    int64_t bytes, share;

    void fetch() {
        const int64_t count = share < bytes ? share : bytes;
        for (int64_t at = 0; at < count; at += kVectorBytes) __builtin_prefetch(from + at, 0, 2);
        from += count, bytes -= count;
    }
};

template <int Rows>
void panel(const QuantJob& job, int64_t row, int64_t rows, int64_t strip, int64_t strips,
           const uint8_t* bytes, Ahead& next) {
    for (; rows >= Rows; row += Rows, rows -= Rows) {
        next.fetch();
        panel_rows<Rows>(job, row, strip, strips, bytes);
    }
    if constexpr (Rows > 1) panel<Rows / 2>(job, row, rows, strip, strips, bytes, next);
}

void quant_multiply(const QuantJob& job, int64_t row, int64_t rows, int64_t first_strip,
                    int64_t end_strip, uint8_t* unpacked) {
    const QuantWeights& weights = *job.weights;
    const int64_t strip_bytes = weights.blocks * 8 * kVectorBytes;
    for (int64_t strip = first_strip; strip < end_strip; strip += kPanelStrips) {
        const int64_t left = end_strip - strip, strips = left < kPanelStrips ? left : kPanelStrips;
        const uint8_t* bytes = nullptr;
        Ahead next = {};
        if (weights.bits == 8) {
            bytes = weights.codes + strip * strip_bytes;
            const int64_t after = (left - strips) * strip_bytes, most = strips * strip_bytes;
            next = {bytes + most, after < most ? after : most, 0};
            next.share = round_up(next.bytes * kQuantRows / rows, kVectorBytes);
        } else if (as_bytes(job)) {
            for (int64_t s = 0; s < strips; s++)
                unpack_strip(weights, strip + s, unpacked + s * strip_bytes);
            bytes = unpacked;
        }
        panel<kQuantRows>(job, row, rows, strip, strips, bytes, next);
    }
}

constexpr QuantKernels quant_kernels = {quantize_row, quant_multiply, normalize_row};

}  // namespace
