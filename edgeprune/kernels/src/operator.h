// Shared by the operators: their description, refusals, and reading of tensors.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "ort_abi.h"
#include "weights.h"

namespace edgeprune {

constexpr size_t kMostRank = 16;

struct Operator : OrtCustomOp {
    char name[40];
    int types[16];
    size_t inputs;
    int results[6];
    size_t outputs;

    void takes(int type) { types[inputs++] = type; }
    void gives(int type) { results[outputs++] = type; }
};

inline const Operator& described(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

__attribute__((format(printf, 3, 4))) inline OrtStatus* refuse(const OrtApi* api, const Operator& op,
                                                               const char* format, ...) {
    char reason[300], message[400];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    std::snprintf(message, sizeof message, "edgeprune::%s: %s.", op.name, reason);
    return ort::CreateStatus::in(api)(ort::kInvalidArgument, message);
}

#define TRY(call)                                    \
    do {                                             \
        if (OrtStatus* status_ = (call)) return status_; \
    } while (0)

// Reads a tensor's data, type and at most `most` dimensions.
inline OrtStatus* read_tensor(const OrtApi* api, const Operator& op, const OrtValue* value,
                              const void** data, int* type, size_t* rank, int64_t* dims,
                              size_t most) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    TRY(ort::GetTensorTypeAndShape::in(api)(value, &info));
    OrtStatus* status = ort::GetTensorElementType::in(api)(info, type);
    if (!status) status = ort::GetDimensionsCount::in(api)(info, rank);
    if (!status && *rank > most)
        status = refuse(api, op, "an input has %zu dimensions and may have %zu", *rank, most);
    if (!status) status = ort::GetDimensions::in(api)(info, dims, *rank);
    ort::ReleaseTypeAndShape::in(api)(info);
    TRY(status);
    void* bytes = nullptr;
    TRY(ort::GetTensorMutableData::in(api)(const_cast<OrtValue*>(value), &bytes));
    *data = bytes;
    return nullptr;
}

// Reads an input of a call, of at most four dimensions.
inline OrtStatus* input_tensor(const OrtApi* api, const Operator& op, const OrtKernelContext* context,
                               size_t index, Tensor* tensor) {
    const OrtValue* value = nullptr;
    TRY(ort::GetInput::in(api)(context, index, &value));
    if (!value) return refuse(api, op, "input %zu is missing", index);
    return read_tensor(api, op, value, &tensor->data, &tensor->type, &tensor->rank, tensor->dims, 4);
}

// Reads an initializer.
inline OrtStatus* constant(const OrtApi* api, const Operator& op, const OrtKernelInfo* info,
                           size_t index, const char* what, Tensor* tensor) {
    int is_constant = 0;
    const OrtValue* value = nullptr;
    TRY(ort::GetConstantInput::in(api)(info, index, &is_constant, &value));
    if (!is_constant || !value) return refuse(api, op, "%s must be an initializer", what);
    return read_tensor(api, op, value, &tensor->data, &tensor->type, &tensor->rank, tensor->dims, 4);
}

// The first input of a call, [..., width]: `count` rows.
struct Rows {
    const void* data;
    int64_t count;
    size_t rank;
    int64_t dims[kMostRank];
};

inline OrtStatus* input_rows(const OrtApi* api, const Operator& op, const OrtKernelContext* context,
                             int64_t width, Rows* rows) {
    const OrtValue* value = nullptr;
    int type;
    TRY(ort::GetInput::in(api)(context, 0, &value));
    TRY(read_tensor(api, op, value, &rows->data, &type, &rows->rank, rows->dims, kMostRank));
    if (rows->rank < 1 || rows->dims[rows->rank - 1] != width)
        return refuse(api, op, "x must end with a dimension of %lld", (long long)width);
    rows->count = 1;
    for (size_t i = 0; i + 1 < rows->rank; i++) rows->count *= rows->dims[i];
    return nullptr;
}

// An input that must have the result's shape.
inline OrtStatus* input_of_shape(const OrtApi* api, const Operator& op,
                                 const OrtKernelContext* context, size_t index, const Rows& result,
                                 const float** data) {
    const OrtValue* value = nullptr;
    const void* bytes = nullptr;
    int type;
    size_t rank = 0;
    int64_t dims[kMostRank];
    TRY(ort::GetInput::in(api)(context, index, &value));
    TRY(read_tensor(api, op, value, &bytes, &type, &rank, dims, kMostRank));
    if (rank != result.rank || std::memcmp(dims, result.dims, rank * sizeof *dims) != 0)
        return refuse(api, op, "other must have the result's shape");
    *data = static_cast<const float*>(bytes);
    return nullptr;
}

inline OrtStatus* output_rows(const OrtApi* api, OrtKernelContext* context, const Rows& result,
                              float** data) {
    OrtValue* value = nullptr;
    void* bytes = nullptr;
    TRY(ort::GetOutput::in(api)(context, 0, result.dims, result.rank, &value));
    TRY(ort::GetTensorMutableData::in(api)(value, &bytes));
    *data = static_cast<float*>(bytes);
    return nullptr;
}

// The best instruction set, or a refusal.
inline OrtStatus* chosen(const OrtApi* api, const Operator& op, const Kernels** kernels) {
    *kernels = choose_kernels();
    if (*kernels) return nullptr;
    return refuse(api, op,
                  "EDGEPRUNE_KERNELS names an instruction set that this processor does not have");
}

// The runtime's threads, and their status.
struct Pool {
    const OrtApi* api;
    OrtKernelContext* context;
    OrtStatus* status;
};

inline bool run_on_pool(void* data, void (*task)(void*, size_t), size_t count, void* with) {
    Pool& pool = *static_cast<Pool*>(data);
    pool.status = ort::ParallelFor::in(pool.api)(pool.context, task, count, 0, with);
    return !pool.status;
}

// Fills what is the same for every operator.
inline void complete(Operator& op) {
    constexpr int kRequired = 0, kDefaultMemory = 0;
    op.version = ort::kApiVersion;
    op.GetName = [](const OrtCustomOp* o) { return described(o).name; };
    op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
    op.GetInputType = [](const OrtCustomOp* o, size_t index) { return described(o).types[index]; };
    op.GetInputTypeCount = [](const OrtCustomOp* o) { return described(o).inputs; };
    op.GetOutputType = [](const OrtCustomOp* o, size_t index) { return described(o).results[index]; };
    op.GetOutputTypeCount = [](const OrtCustomOp* o) { return described(o).outputs; };
    op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kRequired; };
    op.GetOutputCharacteristic = op.GetInputCharacteristic;
    op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return kDefaultMemory; };
    op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    op.GetVariadicInputHomogeneity = op.GetVariadicInputMinArity;
    op.GetVariadicOutputMinArity = op.GetVariadicInputMinArity;
    op.GetVariadicOutputHomogeneity = op.GetVariadicInputMinArity;
    op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
    op.GetEndVersion = [](const OrtCustomOp*) { return 0x7fffffff; };
}

// Add the operators of a file to the domain; each points to static memory.
OrtStatus* add_sparse_linears(const OrtApi*, OrtCustomOpDomain*);
OrtStatus* add_quant_linears(const OrtApi*, OrtCustomOpDomain*);
OrtStatus* add_row_attention(const OrtApi*, OrtCustomOpDomain*);

}  // namespace edgeprune
