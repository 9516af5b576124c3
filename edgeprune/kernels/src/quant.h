// Quantized linears: the weights, and the functions that an instruction set fills for them.
//
// y[rows, N] = x[rows, K] W[K, N] + bias, where W = (code - zero) * multiplier * scale: codes of 4 or 8
// bits, zero = 2^(bits - 1), an integer multiplier for a group of inputs of a column, a float scale for
// a column. x becomes signed bytes with a scale for each row. All sums are exact integers: a row's
// result depends neither on the rows beside it nor on the instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeprune {

constexpr int64_t kStrip = 16;           // columns in a strip
constexpr int64_t kBlock = 32;           // inputs in a block; groups are whole blocks
constexpr int64_t kVectorBytes = 64;     // 16 columns by 4 inputs: two of them in 4 bits, one in 8
constexpr int64_t kMostMultiplier = 15;
constexpr int64_t kLargestCode = 128;    // of |x|

// codes [strips, blocks * bits, 64]: byte 4 n + i of a vector is column n and input i of a unit of 4
// inputs; with 4 bits its low half belongs to an even unit and its high half to the next one.
// multipliers [strips, groups, 16]. scales and bias are padded to whole strips.
struct QuantWeights {
    int bits;
    int64_t K, N, group;
    int64_t blocks, groups, strips;
    const uint8_t* codes;
    const int8_t* multipliers;
    const float* scales;
    const float* bias;
};

struct QuantJob {
    const QuantWeights* weights;
    const float* x;    // [rows, K]
    float* y;          // [rows, N]
    int8_t* codes;     // [rows, blocks * kBlock]
    int32_t* shifts;   // [rows, groups]: -zero times the sum of the group's codes of x
    float* scales;     // [rows]
};

struct QuantKernels {
    // Fills a row of the job's codes, shifts and scales: scale = max|x| / 127, codes = round half to
    // even of x / scale. A row with a NaN or an infinity gets the scale NaN, so that its result is NaN.
    void (*quantize)(const QuantJob&, int64_t row);
    // Fills y of some rows and strips: (float(sum) * scale of x) * scale of W + bias, each rounded.
    void (*multiply)(const QuantJob&, int64_t row, int64_t rows, int64_t first_strip,
                     int64_t end_strip);
};

}  // namespace edgeprune
