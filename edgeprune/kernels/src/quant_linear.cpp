// The quantized linears: y = epilogue(norm(x) W + bias) (quant.h).
//
// As with the sparse linears there is an operator type for each function body: a norm, the bits of the
// codes, an epilogue, in this order in its name. kNorms and kEnds are what can be combined.
//
// Inputs: x float32 [..., K]; codes, (multipliers of Int4,) scales, bias, (the norm's weight, (its
// bias)): initializers; (other float32 [..., N]); (the weight and bias of the LayerNorm after it:
// initializers). Attributes: K, N, (group of Int4), (epsilon), (epsilon_after).
#include <new>

#include "operator.h"
#include "quant_run.h"
#include "quant_weights.h"

using namespace edgeprune;

namespace {

struct NormName {
    NormKind kind;
    const char* text;
};
constexpr NormName kNorms[] = {
    {NormKind::kNone, ""}, {NormKind::kRms, "RmsNorm"}, {NormKind::kLayer, "LayerNorm"}};

struct End {
    Epilogue epilogue;
    bool gated, normed;
    const char* text;
};
constexpr End kEnds[] = {
    {Epilogue::kNone, false, false, ""},
    {Epilogue::kGelu, false, false, "Gelu"},
    {Epilogue::kGeluTanh, false, false, "GeluTanh"},
    {Epilogue::kAdd, false, false, "Add"},
    {Epilogue::kAdd, false, true, "AddLayerNorm"},
    {Epilogue::kSiluMul, true, false, "SiluGate"},
    {Epilogue::kGeluMul, true, false, "GeluGate"},
    {Epilogue::kGeluTanhMul, true, false, "GeluTanhGate"},
};

struct QuantLinear : Operator {
    int bits;
    NormKind norm;
    End end;

    bool has_other() const { return end.epilogue == Epilogue::kAdd; }
    size_t other_at() const { return inputs - (end.normed ? 3 : 1); }
};

struct Kernel {
    const OrtApi* api;
    const QuantLinear* op;
    const QuantKernels* kernels;
    OwnedQuantWeights weights;
    OwnedNorm before, after;

    OrtStatus* read(const OrtKernelInfo* info);
    OrtStatus* read_norm(const OrtKernelInfo* info, size_t at, NormKind kind, bool is_after,
                         int64_t size, OwnedNorm& norm) const;
};

OrtStatus* Kernel::read_norm(const OrtKernelInfo* info, size_t at, NormKind kind, bool is_after,
                             int64_t size, OwnedNorm& norm) const {
    if (kind == NormKind::kNone) return nullptr;
    float epsilon = 0;
    TRY(ort::GetAttributeFloat::in(api)(info, is_after ? "epsilon_after" : "epsilon", &epsilon));
    Tensor weight = {}, bias = {};
    TRY(constant(api, *op, info, at, "the norm's weight", &weight));
    if (kind == NormKind::kLayer)
        TRY(constant(api, *op, info, at + 1, "the norm's bias", &bias));
    const char* name = is_after ? "norm after the product" : "norm";
    const char* wrong = norm.read(kind, name, epsilon, size, weight, bias);
    return wrong ? refuse(api, *op, "%s", wrong) : nullptr;
}

OrtStatus* Kernel::read(const OrtKernelInfo* info) {
    int64_t K = 0, N = 0, group = 0;
    TRY(ort::GetAttributeInt::in(api)(info, "K", &K));
    TRY(ort::GetAttributeInt::in(api)(info, "N", &N));
    size_t at = 1;
    Tensor codes = {}, multipliers = {}, scales = {}, bias = {};
    TRY(constant(api, *op, info, at++, "the codes", &codes));
    if (op->bits == 4) {
        TRY(ort::GetAttributeInt::in(api)(info, "group", &group));
        TRY(constant(api, *op, info, at++, "the multipliers", &multipliers));
    }
    TRY(constant(api, *op, info, at++, "the scales", &scales));
    TRY(constant(api, *op, info, at++, "the bias", &bias));
    if (const char* wrong = weights.read(op->bits, op->end.gated, K, N, group, codes, multipliers,
                                         scales, bias))
        return refuse(api, *op, "%s", wrong);
    TRY(read_norm(info, at, op->norm, false, K, before));
    const NormKind kind = op->end.normed ? NormKind::kLayer : NormKind::kNone;
    return read_norm(info, op->inputs - 2, kind, true, N, after);
}

OrtStatus* create(const OrtCustomOp* custom, const OrtApi* api, const OrtKernelInfo* info,
                  void** made) {
    const QuantLinear& op = *static_cast<const QuantLinear*>(custom);
    const Kernels* kernels = nullptr;
    TRY(chosen(api, op, &kernels));
    Kernel* kernel = new (std::nothrow) Kernel{api, &op, kernels->quant, {}, {}, {}};
    if (!kernel) return refuse(api, op, kNoMemory);
    if (OrtStatus* status = kernel->read(info)) {
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
    QuantJob job = {};
    job.weights = &weights;
    job.before = kernel.before.get();
    job.after = kernel.after.get();
    job.epilogue = op.end.epilogue;
    Rows rows;
    TRY(input_rows(api, op, context, weights.K, &rows));
    job.x = static_cast<const float*>(rows.data);
    rows.dims[rows.rank - 1] = weights.N;
    if (op.has_other()) TRY(input_of_shape(api, op, context, op.other_at(), rows, &job.other));
    TRY(output_rows(api, context, rows, &job.y));
    if (rows.count == 0) return nullptr;
    Pool pool = {api, context, nullptr};
    if (run_quant(*kernel.kernels, job, rows.count, {&pool, run_on_pool})) return nullptr;
    return pool.status ? pool.status : refuse(api, op, "there is no memory left");
}

void define(QuantLinear& op, int bits, const NormName& norm, const End& end) {
    op = QuantLinear{};
    op.bits = bits;
    op.norm = norm.kind;
    op.end = end;
    std::snprintf(op.name, sizeof op.name, "%sQuantLinearInt%d%s", norm.text, bits, end.text);
    op.takes(ort::kFloat), op.takes(ort::kUint8);
    if (bits == 4) op.takes(ort::kInt8);
    op.takes(ort::kFloat), op.takes(ort::kFloat);
    if (op.norm != NormKind::kNone) op.takes(ort::kFloat);
    if (op.norm == NormKind::kLayer) op.takes(ort::kFloat);
    if (op.has_other()) op.takes(ort::kFloat);
    if (op.end.normed) op.takes(ort::kFloat), op.takes(ort::kFloat);
    op.gives(ort::kFloat);
    complete(op);
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

}  // namespace

OrtStatus* edgeprune::add_quant_linears(const OrtApi* api, OrtCustomOpDomain* domain) {
    constexpr size_t kNormCount = sizeof kNorms / sizeof *kNorms;
    static QuantLinear operators[2 * kNormCount * (sizeof kEnds / sizeof *kEnds)];
    QuantLinear* op = operators;
    for (int bits : {4, 8})
        for (const NormName& norm : kNorms)
            for (const End& end : kEnds) {
                define(*op, bits, norm, end);
                TRY(ort::CustomOpDomainAdd::in(api)(domain, op++));
            }
    return nullptr;
}
