// Quantized linears: the weights, and the functions that an instruction set fills for them.
//
// y[rows, N] = epilogue(norm(x[rows, K]) W + bias), where W = (code - zero) * multiplier * scale: codes
// of 4 or 8 bits, zero = 2^(bits - 1), for codes of 4 bits an integer multiplier for a group of inputs of
// a column, a float scale for a column. x becomes signed bytes with a scale for each row. All sums of
// products are exact integers, and every float operation of a row has one order: a row's result does not
// depend on the rows beside it, and up to the activations not on the instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace edgeprune {

constexpr int64_t kStrip = 16;           // columns in a strip
constexpr int64_t kBlock = 32;           // inputs in a block; groups are whole blocks
constexpr int64_t kVectorBytes = 64;     // 16 columns by 4 inputs: two of them in 4 bits, one in 8
constexpr int64_t kPanelStrips = 2;      // strips that are multiplied at once
constexpr int64_t kMostMultiplier = 15;
constexpr int64_t kLargestCode = 128;    // of |x|

// codes [strips, blocks * bits, 64]: byte 4 n + i of a vector is column n and input i of a unit of 4
// inputs; with 4 bits its low half belongs to an even unit and its high half to the next one.
// multipliers [strips, groups, 16], with 4 bits. scales and bias are padded to whole strips.
//
// A gated linear has N columns of gates and N of values, their strips in turns.
struct QuantWeights {
    int bits;
    bool gated;
    int64_t K, N, group;
    int64_t blocks, groups, strips;
    const uint8_t* codes;
    const int8_t* multipliers;
    const float* scales;
    const float* bias;
};

enum class NormKind { kNone, kRms, kLayer };

// weight * x / sqrt(mean(x^2) + epsilon); a LayerNorm subtracts the mean before and adds bias.
struct RowNorm {
    NormKind kind;
    float epsilon;
    const float* weight;
    const float* bias;
};

struct QuantJob {
    const QuantWeights* weights;
    RowNorm before, after;  // of x, and of y when it is whole
    Epilogue epilogue;      // of a gated linear one that multiplies
    int64_t rows;
    const float* x;         // [rows, K]
    const float* other;     // [rows, N]: the residual
    float* y;               // [rows, N]
    int8_t* codes;          // [rows, blocks * kBlock]
    int32_t* sums;          // [rows, groups + 1]: of all codes of x, and of each group's
    float* scales;          // [rows]
};

struct QuantKernels {
    // Fills a row of the job's codes, sums and scales: scale = max|x| / 127, codes = round half to even
    // of x / scale, after the norm. A row with a NaN or an infinity gets the scale NaN, so that its
    // result is NaN. normed [K] is scratch.
    void (*quantize)(const QuantJob&, int64_t row, float* normed);
    // Fills y of some rows and strips, an even number of strips but at the end:
    // (float(sum) * scale of W) * scale of x + bias, each rounded, and the epilogue. unpacked is
    // scratch for kPanelStrips strips of bytes.
    void (*multiply)(const QuantJob&, int64_t row, int64_t rows, int64_t first_strip,
                     int64_t end_strip, uint8_t* unpacked);
    // The norm of a row of y.
    void (*normalize)(const QuantJob&, int64_t row);
};

}  // namespace edgeprune
