// Registers the operators of the domain "edgeprune" in ONNX Runtime.
#include "operator.h"

using namespace edgeprune;

// The domain is created once and never released: sessions point into it for their lifetime.
static OrtStatus* make_domain(const OrtApi* api, OrtCustomOpDomain** made) {
    OrtCustomOpDomain* domain = nullptr;
    TRY(ort::CreateCustomOpDomain::in(api)("edgeprune", &domain));
    TRY(add_sparse_linears(api, domain));
    TRY(add_quant_linears(api, domain));
    TRY(add_row_attention(api, domain));
    *made = domain;
    return nullptr;
}

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
