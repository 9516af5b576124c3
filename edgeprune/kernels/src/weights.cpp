#include "weights.h"

#include <cstdio>
#include <cstring>

#include "ort_abi.h"

namespace edgeprune {
namespace {

struct Shape {
    Format format;
    int type;
    int64_t inputs, outputs;
};
constexpr Shape kShapes[] = {
    {Format::kInt8Rows, ort::kInt8, 4, 16},
    {Format::kInt8Columns, ort::kInt8, 4, 1},
    {Format::kFloatRows, ort::kFloat, 1, 16},
    {Format::kFloatColumns, ort::kFloat, 1, 1},
};

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

const Shape* shape_of(const Tensor& values) {
    for (const Shape& shape : kShapes)
        if (values.rank == 3 && values.type == shape.type && values.dims[1] == shape.outputs &&
            values.dims[2] == shape.inputs)
            return &shape;
    return nullptr;
}

bool is_vector(const Tensor& tensor, int64_t size) {
    return tensor.type == ort::kFloat && tensor.rank == 1 && tensor.dims[0] == size;
}

// Calls visit(row, unit) for every set bit, in order.
template <class Visit>
void each_block(const uint8_t* mask, int64_t rows, int64_t row_bytes, Visit visit) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t place = 0; place < row_bytes; place++)
            for (unsigned left = mask[row * row_bytes + place]; left; left &= left - 1)
                visit(row, place * 8 + __builtin_ctz(left));
}

}  // namespace

const char* OwnedWeights::read(int64_t K, int64_t N, const Tensor& mask, const Tensor& values,
                               const Tensor* scales, const Tensor& bias) {
    if (K < 1 || N < 1 || K >= kMost || N >= kMost) {
        std::snprintf(message_, sizeof message_, "K %lld and N %lld must be from 1 to 2^31 - 1",
                      (long long)K, (long long)N);
        return message_;
    }
    const Shape* shape = shape_of(values);
    if (!shape)
        return "the values must be blocks of int8 [16, 4] or [1, 4], or of float32 [16, 1] or [1, 1]";
    if (is_int8(shape->format) != (scales != nullptr))
        return scales ? "int8 values belong here, not float32" : "float32 values belong here, not int8";
    const int64_t units = divide_up(K, shape->inputs), rows = divide_up(N, shape->outputs);
    const int64_t row_bytes = divide_up(units, 8), blocks = values.dims[0];
    if (mask.type != ort::kUint8 || mask.rank != 2 || mask.dims[0] != rows ||
        mask.dims[1] != row_bytes) {
        std::snprintf(message_, sizeof message_, "the mask must be uint8 [%lld, %lld]",
                      (long long)rows, (long long)row_bytes);
        return message_;
    }
    if (!is_vector(bias, N) || (scales && !is_vector(*scales, N))) {
        std::snprintf(message_, sizeof message_, "%s must be float32 [%lld]",
                      is_vector(bias, N) ? "the scales" : "the bias", (long long)N);
        return message_;
    }
    const uint8_t* bytes = static_cast<const uint8_t*>(mask.data);
    int64_t found = 0, outside = 0;
    each_block(bytes, rows, row_bytes, [&](int64_t, int64_t unit) { found++, outside += unit >= units; });
    if (outside) {
        std::snprintf(message_, sizeof message_, "the mask names %lld blocks beyond input %lld",
                      (long long)outside, (long long)K);
        return message_;
    }
    if (found != blocks || blocks >= kMost) {
        std::snprintf(message_, sizeof message_, "the mask names %lld blocks and there are values for %lld",
                      (long long)found, (long long)blocks);
        return message_;
    }
    const int64_t groups = divide_up(N, kGroup), columns = groups * kGroup;
    weights_ = {shape->format, K, N, units, groups, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    weights_.bias = padded(bias_, bias, columns);
    if (!weights_.bias || (scales && !(weights_.scales = padded(scales_, *scales, columns))))
        return kNoMemory;
    return index(bytes, row_bytes, rows, blocks, values.data);
}

const char* OwnedWeights::index(const uint8_t* mask, int64_t row_bytes, int64_t rows, int64_t blocks,
                                const void* values) {
    // Counts each list's blocks (a list: a group of columns, or a column in a chunk), then fills it.
    const bool wide = is_wide(weights_.format);
    const int64_t columns = weights_.groups * kGroup;
    const int64_t lists = wide ? rows : columns * divide_up(weights_.units, kChunk);
    uint32_t* starts = starts_.items<uint32_t>(lists + 1);
    uint32_t* indices = indices_.items<uint32_t>(blocks);
    Word* words = wide ? nullptr : values_.items<Word>(blocks);
    if (!starts || !indices || (!wide && !words)) return kNoMemory;
    const auto list = [&](int64_t row, int64_t unit) {
        return wide ? row : unit / kChunk * columns + row;
    };
    std::memset(starts, 0, (lists + 1) * sizeof *starts);
    each_block(mask, rows, row_bytes, [&](int64_t row, int64_t unit) {
        if (list(row, unit) + 2 <= lists) starts[list(row, unit) + 2]++;
    });
    for (int64_t i = 2; i <= lists; i++) starts[i] += starts[i - 1];
    // starts[i + 1] is the position of list i's next block, and finally the end of list i.
    const Word* from = static_cast<const Word*>(values);
    each_block(mask, rows, row_bytes, [&](int64_t row, int64_t unit) {
        const uint32_t place = starts[list(row, unit) + 1]++;
        indices[place] = uint32_t(unit);
        if (!wide) std::memcpy(words + place, from, sizeof(Word));
        from += wide ? 0 : 1;
    });
    weights_.starts = starts;
    weights_.indices = indices;
    weights_.values = wide ? values : words;
    if (!is_int8(weights_.format)) return nullptr;
    uint32_t* sums = sums_.items<uint32_t>(columns);
    if (!sums) return kNoMemory;
    std::memset(sums, 0, columns * sizeof *sums);
    const int64_t outputs = wide ? kGroup : 1;
    const int8_t* codes = static_cast<const int8_t*>(values);
    each_block(mask, rows, row_bytes, [&](int64_t row, int64_t) {
        for (int64_t n = 0; n < outputs; n++)
            for (int i = 0; i < 4; i++) sums[row * outputs + n] += uint32_t(int32_t(*codes++));
    });
    weights_.sums = reinterpret_cast<const int32_t*>(sums);
    return nullptr;
}

}  // namespace edgeprune
