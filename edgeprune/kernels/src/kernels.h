// The function table that each instruction set fills, and the data its functions work on.
//
// y[rows, N] = epilogue(x[rows, K] W[K, N] + bias): W is sparse in blocks of `inputs` consecutive
// inputs by `outputs` consecutive outputs. Work is cut into tiles of rows by groups of 16 columns;
// a tile is packed once and multiplied by any range of groups, on any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeprune {

constexpr int64_t kGroup = 16;      // columns in a group
constexpr int64_t kChunk = 96;      // units of inputs whose packed tile stays in the L1 cache
constexpr int64_t kPanel = 256;     // columns whose partial sums stay in the L2 cache
constexpr int64_t kAlignment = 64;

// A word that may alias bytes.
typedef uint32_t __attribute__((may_alias)) Word;

enum class Format { kInt8Rows, kInt8Columns, kFloatRows, kFloatColumns };  // 4x16 4x1 1x16 1x1
enum class Epilogue { kNone, kGelu, kGeluTanh, kSiluMul, kAdd, kGeluMul, kGeluTanhMul };

constexpr bool is_int8(Format f) { return f == Format::kInt8Rows || f == Format::kInt8Columns; }
// Formats with 16 outputs per block, whose vectors run along the columns; others' run along the rows.
constexpr bool is_wide(Format f) { return f == Format::kInt8Rows || f == Format::kFloatRows; }

// Weights as the kernels read them. Arrays over columns are padded to whole groups.
//
// A "unit" of inputs is 4 for int8 and 1 for float32. Wide formats: block b of group g, for b in
// [starts[g], starts[g + 1]), holds 16 columns of unit indices[b]. The others: entry b of column n in
// chunk c, for b in [starts[c * columns + n], ...[... + 1]), where chunks are kChunk units.
struct Weights {
    Format format;
    int64_t K, N;
    int64_t units;    // ceil(K / inputs)
    int64_t groups;   // ceil(N / 16)
    const uint32_t* starts;
    const uint32_t* indices;
    const void* values;
    const float* scales;   // int8 only
    const int32_t* sums;   // int8 only: the sum of each column's codes
    const float* bias;
};

struct Job {
    const Weights* weights;
    Epilogue epilogue;
    const float* x;         // [rows, K], or null if the codes are given
    const uint8_t* codes;   // [rows, K]
    float x_scale;
    const float* row_scales;  // [rows]: in place of x_scale, or null
    int32_t x_zero_point;
    const float* other;     // [rows, N]: the residual, or the factor of SiLU's result
    float* y;               // [rows, N]
};

// Scratch bytes of a tile; every part begins at a multiple of kAlignment.
struct Scratch {
    size_t packed;    // a packed tile
    size_t staging;   // while packing
    size_t panel;     // while multiplying
};

struct AttentionKernels;
struct QuantKernels;

struct Kernels {
    const char* name;
    bool (*supported)();
    int (*tile_rows)(Format);
    Scratch (*scratch)(const Weights&);
    // Extends [*low, *high] by the values of x.
    void (*range)(const float* x, size_t count, float* low, float* high);
    // Exactly QuantizeLinear: round half to even of x / scale, plus the zero point, in 0...255.
    void (*quantize)(const float* x, size_t count, float scale, int32_t zero_point, uint8_t* codes);
    void (*pack)(const Job&, int64_t row, int rows, void* packed, void* staging);
    void (*multiply)(const Job&, int64_t row, int rows, int64_t first_group, int64_t end_group,
                     const void* packed, void* panel);
    const QuantKernels* quant;  // of quantized linears
    const AttentionKernels* attention;
};

// Null if a set is not of this architecture.
extern const Kernels plain_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx_vnni_kernels, avx512_vnni_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_dot_kernels;
#endif

// Every set of this architecture, best first, terminated by null.
extern const Kernels* const all_kernels[];

// The best set that this processor has, or the one that EDGEPRUNE_KERNELS names; null if the
// processor lacks it.
const Kernels* choose_kernels();

}  // namespace edgeprune
