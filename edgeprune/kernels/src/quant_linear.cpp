// QuantLinearInt4 and QuantLinearInt8: y = x W + bias, W in groups with integer multipliers (quant.h).
//
// Inputs: x float32 [..., K]; codes, multipliers, scales, bias: initializers. Attributes: K, N, group.
#include <new>

#include "operator.h"
#include "quant_run.h"
#include "quant_weights.h"

using namespace edgeprune;

namespace {

struct QuantLinear : Operator {
    int bits;
};

struct Kernel {
    const OrtApi* api;
    const QuantLinear* op;
    const QuantKernels* kernels;
    OwnedQuantWeights weights;
};

OrtStatus* create(const OrtCustomOp* custom, const OrtApi* api, const OrtKernelInfo* info,
                  void** made) {
    const QuantLinear& op = *static_cast<const QuantLinear*>(custom);
    const Kernels* kernels = nullptr;
    TRY(chosen(api, op, &kernels));
    int64_t K = 0, N = 0, group = 0;
    TRY(ort::GetAttributeInt::in(api)(info, "K", &K));
    TRY(ort::GetAttributeInt::in(api)(info, "N", &N));
    TRY(ort::GetAttributeInt::in(api)(info, "group", &group));
    Tensor codes, multipliers, scales, bias;
    TRY(constant(api, op, info, 1, "the codes", &codes));
    TRY(constant(api, op, info, 2, "the multipliers", &multipliers));
    TRY(constant(api, op, info, 3, "the scales", &scales));
    TRY(constant(api, op, info, 4, "the bias", &bias));
    Kernel* kernel = new (std::nothrow) Kernel{api, &op, quant_kernels_of(*kernels), {}};
    if (!kernel) return refuse(api, op, "there is no memory for the weights");
    if (const char* wrong =
            kernel->weights.read(op.bits, K, N, group, codes, multipliers, scales, bias)) {
        OrtStatus* status = refuse(api, op, "%s", wrong);
        delete kernel;
        return status;
    }
    *made = kernel;
    return nullptr;
}

OrtStatus* compute(void* data, OrtKernelContext* context) {
    const Kernel& kernel = *static_cast<const Kernel*>(data);
    const OrtApi* api = kernel.api;
    const QuantLinear& op = *kernel.op;
    const QuantWeights& weights = kernel.weights.get();
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
    dims[rank - 1] = weights.N;
    OrtValue* result = nullptr;
    TRY(ort::GetOutput::in(api)(context, 0, dims, rank, &result));
    void* y = nullptr;
    TRY(ort::GetTensorMutableData::in(api)(result, &y));
    if (rows == 0) return nullptr;
    QuantJob job = {};
    job.weights = &weights;
    job.x = static_cast<const float*>(x);
    job.y = static_cast<float*>(y);
    Pool pool = {api, context, nullptr};
    if (run_quant(*kernel.kernels, job, rows, {&pool, run_on_pool})) return nullptr;
    return pool.status ? pool.status : refuse(api, op, "there is no memory left");
}

}  // namespace

OrtStatus* edgeprune::add_quant_linears(const OrtApi* api, OrtCustomOpDomain* domain) {
    static QuantLinear operators[2];
    int bits = 4;
    for (QuantLinear& op : operators) {
        op = QuantLinear{};
        op.bits = bits;
        std::snprintf(op.name, sizeof op.name, "QuantLinearInt%d", bits);
        op.takes(ort::kFloat), op.takes(ort::kUint8), op.takes(ort::kInt8);
        op.takes(ort::kFloat), op.takes(ort::kFloat);
        op.gives(ort::kFloat);
        complete(op);
        op.CreateKernelV2 = create;
        op.KernelComputeV2 = compute;
        op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
        TRY(ort::CustomOpDomainAdd::in(api)(domain, &op));
        bits *= 2;
    }
    return nullptr;
}
