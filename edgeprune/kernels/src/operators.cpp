// The operators of the domain "edgeprune", and their registration in ONNX Runtime.
//
// There is an operator type for each kind of input and each epilogue, because a model-local function
// of the same name replaces it where this library is not installed, and a function has one body:
//
//   SparseLinearFloat       x float32                                 values float32
//   SparseLinearInt8        x float32, quantized here                 values int8, scales
//   SparseLinearInt8Shared  x uint8, its scale, its zero point        values int8, scales
//   SparseLinearInt8Rows    x uint8, a scale for each row, zero point values int8, scales
//
// each plain, and with the suffix Gelu, GeluTanh, SiluMul (silu(product) * other) and Add (+ other).
// Inputs: x (and its scale and zero point), mask, values, (scales,) bias, (other). Attributes: K, N.
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>

#include "ort_abi.h"
#include "run.h"
#include "weights.h"

using namespace edgeprune;

namespace {

enum class Kind { kFloat, kInt8, kInt8Shared, kInt8Rows };

struct Name {
    Kind kind;
    const char* text;
};
constexpr Name kKinds[] = {{Kind::kFloat, "SparseLinearFloat"},
                           {Kind::kInt8, "SparseLinearInt8"},
                           {Kind::kInt8Shared, "SparseLinearInt8Shared"},
                           {Kind::kInt8Rows, "SparseLinearInt8Rows"}};
constexpr const char* kEpilogues[] = {"", "Gelu", "GeluTanh", "SiluMul", "Add"};  // as in Epilogue
constexpr size_t kMostRank = 16;

struct Operator : OrtCustomOp {
    Kind kind;
    Epilogue epilogue;
    char name[40];
    int types[8];
    size_t inputs;

    bool has_other() const {
        return epilogue == Epilogue::kSiluMul || epilogue == Epilogue::kAdd;
    }
    bool has_codes() const { return kind == Kind::kInt8Shared || kind == Kind::kInt8Rows; }
    size_t weights_at() const { return has_codes() ? 3 : 1; }
};

const Operator& self(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

struct Kernel {
    const OrtApi* api;
    const Operator* op;
    const Kernels* kernels;
    OwnedWeights weights;
};

__attribute__((format(printf, 3, 4))) OrtStatus* refuse(const OrtApi* api, const Operator& op,
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
OrtStatus* read_tensor(const OrtApi* api, const Operator& op, const OrtValue* value, const void** data,
                       int* type, size_t* rank, int64_t* dims, size_t most) {
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

OrtStatus* constant(const OrtApi* api, const Operator& op, const OrtKernelInfo* info, size_t index,
                    const char* what, Tensor* tensor) {
    int is_constant = 0;
    const OrtValue* value = nullptr;
    TRY(ort::GetConstantInput::in(api)(info, index, &is_constant, &value));
    if (!is_constant || !value) return refuse(api, op, "%s must be an initializer", what);
    return read_tensor(api, op, value, &tensor->data, &tensor->type, &tensor->rank, tensor->dims, 4);
}

OrtStatus* create(const OrtCustomOp* custom, const OrtApi* api, const OrtKernelInfo* info,
                  void** made) {
    const Operator& op = self(custom);
    const Kernels* kernels = choose_kernels();
    if (!kernels)
        return refuse(api, op,
                      "EDGEPRUNE_KERNELS names an instruction set that this processor does not have");
    int64_t K = 0, N = 0;
    TRY(ort::GetAttributeInt::in(api)(info, "K", &K));
    TRY(ort::GetAttributeInt::in(api)(info, "N", &N));
    size_t at = op.weights_at();
    Tensor mask, values, scales, bias;
    TRY(constant(api, op, info, at++, "the mask", &mask));
    TRY(constant(api, op, info, at++, "the values", &values));
    const bool int8 = op.kind != Kind::kFloat;
    if (int8) TRY(constant(api, op, info, at++, "the scales", &scales));
    TRY(constant(api, op, info, at++, "the bias", &bias));
    Kernel* kernel = new (std::nothrow) Kernel{api, &op, kernels, {}};
    if (!kernel) return refuse(api, op, "there is no memory for the weights");
    if (const char* wrong = kernel->weights.read(K, N, mask, values, int8 ? &scales : nullptr, bias)) {
        OrtStatus* status = refuse(api, op, "%s", wrong);
        delete kernel;
        return status;
    }
    *made = kernel;
    return nullptr;
}

// The runtime's threads, and their status.
struct Pool {
    const OrtApi* api;
    OrtKernelContext* context;
    OrtStatus* status;
};

bool run_on_pool(void* data, void (*task)(void*, size_t), size_t count, void* with) {
    Pool& pool = *static_cast<Pool*>(data);
    pool.status = ort::ParallelFor::in(pool.api)(pool.context, task, count, 0, with);
    return !pool.status;
}

OrtStatus* scalar(const Kernel& kernel, OrtKernelContext* context, size_t index, const void** data) {
    const OrtValue* value = nullptr;
    TRY(ort::GetInput::in(kernel.api)(context, index, &value));
    int type;
    size_t rank;
    int64_t dims[1];
    TRY(read_tensor(kernel.api, *kernel.op, value, data, &type, &rank, dims, 1));
    if (rank == 1 && dims[0] != 1)
        return refuse(kernel.api, *kernel.op, "the scale and the zero point of x must be single numbers");
    return nullptr;
}

// The scales of x, one per row, of shape `dims`.
OrtStatus* row_scales(const Kernel& kernel, OrtKernelContext* context, size_t rank,
                      const int64_t* dims, const float** scales) {
    const OrtValue* value = nullptr;
    TRY(ort::GetInput::in(kernel.api)(context, 1, &value));
    const void* data = nullptr;
    int type;
    size_t found = 0;
    int64_t its[kMostRank];
    TRY(read_tensor(kernel.api, *kernel.op, value, &data, &type, &found, its, kMostRank));
    if (found != rank || std::memcmp(dims, its, rank * sizeof *dims) != 0)
        return refuse(kernel.api, *kernel.op, "there must be a scale of x for each of its rows");
    *scales = static_cast<const float*>(data);
    return nullptr;
}

OrtStatus* compute(void* data, OrtKernelContext* context) {
    Kernel& kernel = *static_cast<Kernel*>(data);
    const OrtApi* api = kernel.api;
    const Operator& op = *kernel.op;
    const Weights& weights = kernel.weights.get();
    const OrtValue* value = nullptr;
    const void* x = nullptr;
    int type;
    size_t rank = 0;
    int64_t dims[kMostRank];
    TRY(ort::GetInput::in(api)(context, 0, &value));
    TRY(read_tensor(api, op, value, &x, &type, &rank, dims, kMostRank));
    if (rank < 1 || dims[rank - 1] != weights.K)
        return refuse(api, op, "x must end with a dimension of %lld", (long long)weights.K);
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < rank; i++) rows *= dims[i];

    Job job = {};
    job.weights = &weights;
    job.epilogue = op.epilogue;
    if (op.has_codes()) {
        const void *scale = nullptr, *zero_point = nullptr;
        if (op.kind == Kind::kInt8Rows) {
            dims[rank - 1] = 1;
            TRY(row_scales(kernel, context, rank, dims, &job.row_scales));
        } else {
            TRY(scalar(kernel, context, 1, &scale));
            job.x_scale = *static_cast<const float*>(scale);
        }
        TRY(scalar(kernel, context, 2, &zero_point));
        job.codes = static_cast<const uint8_t*>(x);
        job.x_zero_point = *static_cast<const uint8_t*>(zero_point);
    } else {
        job.x = static_cast<const float*>(x);
    }
    dims[rank - 1] = weights.N;
    if (op.has_other()) {
        const void* other = nullptr;
        size_t other_rank = 0;
        int64_t other_dims[kMostRank];
        TRY(ort::GetInput::in(api)(context, op.inputs - 1, &value));
        TRY(read_tensor(api, op, value, &other, &type, &other_rank, other_dims, kMostRank));
        if (other_rank != rank || std::memcmp(dims, other_dims, rank * sizeof *dims) != 0)
            return refuse(api, op, "the last input must have the result's shape");
        job.other = static_cast<const float*>(other);
    }
    OrtValue* result = nullptr;
    TRY(ort::GetOutput::in(api)(context, 0, dims, rank, &result));
    void* y = nullptr;
    TRY(ort::GetTensorMutableData::in(api)(result, &y));
    job.y = static_cast<float*>(y);
    if (rows == 0) return nullptr;
    Pool pool = {api, context, nullptr};
    if (run(*kernel.kernels, job, rows, {&pool, run_on_pool})) return nullptr;
    return pool.status ? pool.status : refuse(api, op, "there is no memory left");
}

constexpr int kRequired = 0, kDefaultMemory = 0;

void define(Operator& op, const Name& kind, Epilogue epilogue) {
    op = Operator{};
    op.kind = kind.kind;
    op.epilogue = epilogue;
    std::snprintf(op.name, sizeof op.name, "%s%s", kind.text, kEpilogues[size_t(epilogue)]);
    const auto add = [&](int type) { op.types[op.inputs++] = type; };
    const bool int8 = op.kind != Kind::kFloat;
    add(op.has_codes() ? ort::kUint8 : ort::kFloat);
    if (op.has_codes()) add(ort::kFloat), add(ort::kUint8);
    add(ort::kUint8);
    add(int8 ? ort::kInt8 : ort::kFloat);
    if (int8) add(ort::kFloat);
    add(ort::kFloat);
    if (op.has_other()) add(ort::kFloat);

    op.version = ort::kApiVersion;
    op.GetName = [](const OrtCustomOp* o) { return self(o).name; };
    op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
    op.GetInputType = [](const OrtCustomOp* o, size_t index) { return self(o).types[index]; };
    op.GetInputTypeCount = [](const OrtCustomOp* o) { return self(o).inputs; };
    op.GetOutputType = [](const OrtCustomOp*, size_t) { return int(ort::kFloat); };
    op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t(1); };
    op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kRequired; };
    op.GetOutputCharacteristic = op.GetInputCharacteristic;
    op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return kDefaultMemory; };
    op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    op.GetVariadicInputHomogeneity = op.GetVariadicInputMinArity;
    op.GetVariadicOutputMinArity = op.GetVariadicInputMinArity;
    op.GetVariadicOutputHomogeneity = op.GetVariadicInputMinArity;
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
    op.GetEndVersion = [](const OrtCustomOp*) { return 0x7fffffff; };
}

// The domain is created once and never released: sessions point into it for their lifetime.
OrtStatus* make_domain(const OrtApi* api, OrtCustomOpDomain** made) {
    constexpr size_t kEpilogueCount = sizeof kEpilogues / sizeof *kEpilogues;
    static Operator operators[sizeof kKinds / sizeof *kKinds * kEpilogueCount];
    OrtCustomOpDomain* domain = nullptr;
    TRY(ort::CreateCustomOpDomain::in(api)("edgeprune", &domain));
    Operator* op = operators;
    for (const Name& kind : kKinds)
        for (size_t epilogue = 0; epilogue < kEpilogueCount; epilogue++, op++) {
            define(*op, kind, Epilogue(epilogue));
            TRY(ort::CustomOpDomainAdd::in(api)(domain, op));
        }
    *made = domain;
    return nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
    const OrtApi* api = base->GetApi(ort::kApiVersion);
    if (!api)
        return ort::CreateStatus::in(base->GetApi(1))(
            ort::kFail, "edgeprune's operators need ONNX Runtime 1.17 or newer.");
    static OrtCustomOpDomain* domain = nullptr;
    static OrtStatus* failed = make_domain(api, &domain);
    if (failed || !domain)
        return ort::CreateStatus::in(api)(ort::kFail, "edgeprune's operators could not be made.");
    return ort::AddCustomOpDomain::in(api)(options, domain);
}
