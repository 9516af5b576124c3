// The sparse linears.
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
#include <cstring>
#include <new>

#include "operator.h"
#include "run.h"

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

struct SparseLinear : Operator {
    Kind kind;
    Epilogue epilogue;

    bool has_other() const {
        return epilogue == Epilogue::kSiluMul || epilogue == Epilogue::kAdd;
    }
    bool has_codes() const { return kind == Kind::kInt8Shared || kind == Kind::kInt8Rows; }
    size_t weights_at() const { return has_codes() ? 3 : 1; }
};

const SparseLinear& self(const OrtCustomOp* op) {
    return *static_cast<const SparseLinear*>(op);
}

struct Kernel {
    const OrtApi* api;
    const SparseLinear* op;
    const Kernels* kernels;
    OwnedWeights weights;
};

OrtStatus* create(const OrtCustomOp* custom, const OrtApi* api, const OrtKernelInfo* info,
                  void** made) {
    const SparseLinear& op = self(custom);
    const Kernels* kernels = nullptr;
    TRY(chosen(api, op, &kernels));
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
    const SparseLinear& op = *kernel.op;
    const Weights& weights = kernel.weights.get();
    Rows rows;
    TRY(input_rows(api, op, context, weights.K, &rows));
    int64_t* dims = rows.dims;
    const size_t rank = rows.rank;
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
        job.codes = static_cast<const uint8_t*>(rows.data);
        job.x_zero_point = *static_cast<const uint8_t*>(zero_point);
    } else {
        job.x = static_cast<const float*>(rows.data);
    }
    dims[rank - 1] = weights.N;
    if (op.has_other()) TRY(input_of_shape(api, op, context, op.inputs - 1, rows, &job.other));
    TRY(output_rows(api, context, rows, &job.y));
    if (rows.count == 0) return nullptr;
    Pool pool = {api, context, nullptr};
    if (run(*kernel.kernels, job, rows.count, {&pool, run_on_pool})) return nullptr;
    return pool.status ? pool.status : refuse(api, op, "there is no memory left");
}

void define(SparseLinear& op, const Name& kind, Epilogue epilogue) {
    op = SparseLinear{};
    op.kind = kind.kind;
    op.epilogue = epilogue;
    std::snprintf(op.name, sizeof op.name, "%s%s", kind.text, kEpilogues[size_t(epilogue)]);
    const bool int8 = op.kind != Kind::kFloat;
    op.takes(op.has_codes() ? ort::kUint8 : ort::kFloat);
    if (op.has_codes()) op.takes(ort::kFloat), op.takes(ort::kUint8);
    op.takes(ort::kUint8);
    op.takes(int8 ? ort::kInt8 : ort::kFloat);
    if (int8) op.takes(ort::kFloat);
    op.takes(ort::kFloat);
    if (op.has_other()) op.takes(ort::kFloat);

    op.gives(ort::kFloat);
    complete(op);
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

}  // namespace

OrtStatus* edgeprune::add_sparse_linears(const OrtApi* api, OrtCustomOpDomain* domain) {
    constexpr size_t kEpilogueCount = sizeof kEpilogues / sizeof *kEpilogues;
    static SparseLinear operators[sizeof kKinds / sizeof *kKinds * kEpilogueCount];
    SparseLinear* op = operators;
    for (const Name& kind : kKinds)
        for (size_t epilogue = 0; epilogue < kEpilogueCount; epilogue++, op++) {
            define(*op, kind, Epilogue(epilogue));
            TRY(ort::CustomOpDomainAdd::in(api)(domain, op));
        }
    return nullptr;
}
