// RowAttention, RowAttentionFloat16 and RowAttentionInt8: attention whose rows do not depend on each
// other (row_attention.h), over a cache of float32, float16 or signed bytes.
//
// Inputs and attributes are those of ONNX Runtime's GroupQueryAttention. B sequences have S new
// tokens, P the room of the past, T = total_sequence_length, H heads, G key heads of D numbers:
//   0 query [B, S, H D]; or query, key and value [B, S, (H + 2 G) D], if 1 and 2 are absent
//   1 key, 2 value [B, S, G D]
//   3 past_key, 4 past_value [B, G, P, D], or absent
//   5 seqlens_k [B]: each sequence's tokens with the new ones, less one; absent: T less one
//   6 total_sequence_length, one number; absent: S, where there is no past
//   7 cos, 8 sin [positions, at most D / 2], if do_rotary is 1
//   9 must be absent: a token's position is its place in the cache
//   10 attention_bias [B or 1, H or 1, S or 1, T] or [B, T], added to the scores
//   11 past_key_scale, 12 past_value_scale [B, G, P], of signed bytes only
// Outputs: 0 context [B, S, H D]; 1 present_key, 2 present_value [B, G, max(P, T), D], which may be
// the memory of the past, and may be absent if there is none; 3, 4 their scales.
// Attributes: num_heads, kv_num_heads; scale (0: 1 / sqrt(D)), softcap (0: none), local_window_size
// (-1: none; tokens that one sees, itself included), do_rotary, causal (1).
//
// If T = S, the sequences begin here, and those that are shorter are padded at their end; otherwise
// every sequence has S new tokens. A padded token's context is zero.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "operator.h"
#include "row_attention_run.h"

using namespace edgeprune;

namespace {

enum Input { kQuery, kKey, kValue, kPastKey, kPastValue, kLengths, kTotal, kCosines, kSines, kPositions,
             kBias, kKeyScales, kValueScales };
enum Output { kContext, kPresentKey, kPresentValue, kPresentKeyScales, kPresentValueScales };

constexpr int64_t kMostHeads = 1 << 16;

struct RowAttention : Operator {
    Cached type;
};

struct Kernel {
    const OrtApi* api;
    const RowAttention* op;
    const AttentionKernels* kernels;
    int64_t heads, key_heads, window, turns, causal;
    float scale, cap;
};

// Leaves *value as it is if the node has no such attribute.
template <class Value>
OrtStatus* attribute(const OrtApi* api, const Operator& op, const OrtKernelInfo* info,
                     const char* name, Value* value) {
    Value given;
    OrtStatus* status;
    if constexpr (sizeof(Value) == sizeof(float))
        status = ort::GetAttributeFloat::in(api)(info, name, &given);
    else
        status = ort::GetAttributeInt::in(api)(info, name, &given);
    if (!status) {
        *value = given;
        return nullptr;
    }
    const bool absent = std::strstr(ort::GetErrorMessage::in(api)(status), "No attribute");
    ort::ReleaseStatus::in(api)(status);
    if (absent) return nullptr;
    return refuse(api, op, "the attribute %s must be %s", name,
                  sizeof(Value) == sizeof(float) ? "a float" : "an integer");
}

OrtStatus* create(const OrtCustomOp* custom, const OrtApi* api, const OrtKernelInfo* info, void** made) {
    const RowAttention& op = *static_cast<const RowAttention*>(custom);
    const Kernels* kernels = nullptr;
    TRY(chosen(api, op, &kernels));
    Kernel read = {api, &op, kernels->attention, 0, 0, -1, 0, 1, 0.0f, 0.0f};
    TRY(attribute(api, op, info, "num_heads", &read.heads));
    TRY(attribute(api, op, info, "kv_num_heads", &read.key_heads));
    TRY(attribute(api, op, info, "local_window_size", &read.window));
    TRY(attribute(api, op, info, "do_rotary", &read.turns));
    TRY(attribute(api, op, info, "causal", &read.causal));
    TRY(attribute(api, op, info, "scale", &read.scale));
    TRY(attribute(api, op, info, "softcap", &read.cap));
    int64_t smooth = 0, interleaved = 0;
    TRY(attribute(api, op, info, "smooth_softmax", &smooth));
    TRY(attribute(api, op, info, "rotary_interleaved", &interleaved));
    if (smooth > 0 || interleaved != 0)
        return refuse(api, op, "smooth_softmax and rotary_interleaved are not supported");
    if (read.key_heads < 1 || read.heads < read.key_heads || read.heads > kMostHeads ||
        read.heads % read.key_heads)
        return refuse(api, op,
                      "num_heads %lld must be a multiple of kv_num_heads %lld, and at most %lld",
                      (long long)read.heads, (long long)read.key_heads, (long long)kMostHeads);
    if (read.window < -1 || read.window == 0)
        return refuse(api, op, "local_window_size must be positive, or -1 for none");
    if (!read.causal && read.window > 0)
        return refuse(api, op, "local_window_size needs causal 1: give the window as attention_bias");
    if (!std::isfinite(read.scale) || !std::isfinite(read.cap) || read.cap < 0)
        return refuse(api, op, "scale and softcap must be finite, and softcap not negative");
    if (!(*made = new (std::nothrow) Kernel(read)))
        return refuse(api, op, "there is no memory for the kernel");
    return nullptr;
}

#define WRONG(...) refuse(kernel.api, *kernel.op, __VA_ARGS__)

// A call's tensors, read and checked one after the other.
struct Call {
    const Kernel& kernel;
    OrtKernelContext* context;
    AttentionJob job;
    Buffer *past, *total;
    int64_t known;     // T
    Tensor inputs[13];
    bool has[13];

    OrtStatus* read() {
        const size_t count = kernel.op->inputs;
        for (size_t i = 0; i < count; i++) {
            const OrtValue* value = nullptr;
            TRY(ort::GetInput::in(kernel.api)(context, i, &value));
            has[i] = value;
            if (value) TRY(input_tensor(kernel.api, *kernel.op, context, i, &inputs[i]));
        }
        TRY(read_rows());
        TRY(read_past());
        TRY(read_lengths());
        TRY(read_tables());
        TRY(read_bias());
        return read_caches();
    }

    bool is(size_t index, size_t rank, int64_t a, int64_t b, int64_t c = -1, int64_t d = -1) const {
        const Tensor& tensor = inputs[index];
        const int64_t wanted[4] = {a, b, c, d};
        if (tensor.rank != rank) return false;
        for (size_t i = 0; i < rank; i++)
            if (tensor.dims[i] != wanted[i]) return false;
        return true;
    }

    OrtStatus* read_rows() {
        const Tensor& query = inputs[kQuery];
        const int64_t heads = kernel.heads, key_heads = kernel.key_heads;
        if (has[kKey] != has[kValue]) return WRONG("key and value are given together, or neither is");
        if (has[kPositions])
            return WRONG("position_ids must be absent: a token's position is its place in the cache");
        const bool packed = !has[kKey];
        const int64_t parts = packed ? heads + 2 * key_heads : heads;
        if (query.rank != 3 || query.dims[2] < parts || query.dims[2] % parts ||
            query.dims[2] / parts > kMostHeadSize)
            return WRONG("query must be [batch, tokens, %lld heads of at most %lld numbers]",
                         (long long)parts, (long long)kMostHeadSize);
        const int64_t size = query.dims[2] / parts, width = size * key_heads;
        job.sequences = query.dims[0], job.tokens = query.dims[1];
        job.heads = heads, job.key_heads = key_heads, job.head_size = size;
        job.query = static_cast<const float*>(query.data), job.query_step = query.dims[2];
        if (packed) {
            job.key = job.query + heads * size, job.value = job.key + width;
            job.key_step = job.query_step;
        } else {
            for (size_t index : {kKey, kValue})
                if (!is(index, 3, job.sequences, job.tokens, width))
                    return WRONG("key and value must be [%lld, %lld, %lld]",
                                 (long long)job.sequences, (long long)job.tokens, (long long)width);
            job.key = static_cast<const float*>(inputs[kKey].data);
            job.value = static_cast<const float*>(inputs[kValue].data);
            job.key_step = width;
        }
        job.causal = kernel.causal, job.window = kernel.window;
        const float scale = kernel.scale == 0.0f ? 1.0f / std::sqrt(float(size)) : kernel.scale;
        constexpr float kLog2E = 1.44269504f;
        job.factor = kernel.cap == 0.0f ? scale * kLog2E : scale / kernel.cap;
        job.cap = kernel.cap * kLog2E;
        return nullptr;
    }

    OrtStatus* read_lengths() {
        const int64_t tokens = job.tokens;
        known = tokens;
        if (has[kTotal]) {
            const Tensor& total = inputs[kTotal];
            int64_t numbers = 1;
            for (size_t i = 0; i < total.rank; i++) numbers *= total.dims[i];
            if (numbers != 1) return WRONG("total_sequence_length must be one number");
            known = *static_cast<const int32_t*>(total.data);
        }
        if (known < tokens)
            return WRONG("total_sequence_length %lld is less than the %lld new tokens",
                         (long long)known, (long long)tokens);
        if (known > tokens && known - tokens > job.old_room)
            return WRONG("total_sequence_length %lld needs a past of %lld tokens", (long long)known,
                         (long long)(known - tokens));
        int64_t* of_past = past->items<int64_t>(job.sequences + 1);
        int64_t* of_all = total->items<int64_t>(job.sequences + 1);
        if (!of_past || !of_all) return WRONG("there is no memory left");
        if (has[kLengths] && !is(kLengths, 1, job.sequences, -1) &&
            !is(kLengths, 2, job.sequences, 1))
            return WRONG("seqlens_k must be [%lld]", (long long)job.sequences);
        const bool begins = known == tokens;
        for (int64_t b = 0; b < job.sequences; b++) {
            const int64_t length =
                has[kLengths] ? int64_t(static_cast<const int32_t*>(inputs[kLengths].data)[b]) + 1
                              : known;
            if (length > known || length < (begins ? 0 : tokens))
                return WRONG("seqlens_k %lld of sequence %lld must be from %lld to %lld",
                             (long long)(length - 1), (long long)b,
                             (long long)((begins ? 0 : tokens) - 1), (long long)(known - 1));
            of_past[b] = begins ? 0 : length - tokens, of_all[b] = length;
        }
        job.past = of_past, job.total = of_all;
        return nullptr;
    }

    OrtStatus* read_tables() {
        if (!kernel.turns) return nullptr;
        if (!has[kCosines] || !has[kSines]) return WRONG("do_rotary 1 needs cos and sin");
        const Tensor& cosines = inputs[kCosines];
        if (cosines.rank != 2 || cosines.dims[1] < 1 || cosines.dims[1] > job.head_size / 2 ||
            cosines.dims[0] < known)
            return WRONG("cos must be [at least %lld positions, 1 to %lld]", (long long)known,
                         (long long)(job.head_size / 2));
        if (!is(kSines, 2, cosines.dims[0], cosines.dims[1]))
            return WRONG("sin must have the shape of cos");
        job.turned = 2 * cosines.dims[1];
        job.cosines = static_cast<const float*>(cosines.data);
        job.sines = static_cast<const float*>(inputs[kSines].data);
        return nullptr;
    }

    OrtStatus* read_bias() {
        if (!has[kBias]) return nullptr;
        Tensor& bias = inputs[kBias];
        if (bias.rank == 2) {
            bias.rank = 4, bias.dims[3] = bias.dims[1];
            bias.dims[1] = bias.dims[2] = 1;
        }
        const int64_t most[3] = {job.sequences, job.heads, job.tokens};
        bool fits = bias.rank == 4 && bias.dims[3] == known;
        for (int i = 0; fits && i < 3; i++) fits = bias.dims[i] == 1 || bias.dims[i] == most[i];
        if (!fits)
            return WRONG("attention_bias must be [%lld or 1, %lld or 1, %lld or 1, %lld]",
                         (long long)most[0], (long long)most[1], (long long)most[2],
                         (long long)known);
        job.bias = static_cast<const float*>(bias.data);
        int64_t step = known;
        job.bias_token = bias.dims[2] == 1 ? 0 : step;
        job.bias_head = bias.dims[1] == 1 ? 0 : step * bias.dims[2];
        job.bias_sequence = bias.dims[0] == 1 ? 0 : step * bias.dims[2] * bias.dims[1];
        return nullptr;
    }

    OrtStatus* read_past() {
        const int64_t sequences = job.sequences, key_heads = job.key_heads, size = job.head_size;
        if (has[kPastKey] != has[kPastValue])
            return WRONG("past_key and past_value are given together, or neither is");
        if (has[kPastKey]) {
            if (!kernel.causal || !has[kTotal])
                return WRONG("a past needs causal 1 and total_sequence_length");
            job.old_room = inputs[kPastKey].rank == 4 ? inputs[kPastKey].dims[2] : -1;
            for (size_t index : {kPastKey, kPastValue})
                if (!is(index, 4, sequences, key_heads, job.old_room, size))
                    return WRONG("past_key and past_value must be [%lld, %lld, room, %lld]",
                                 (long long)sequences, (long long)key_heads, (long long)size);
        }
        if (kernel.op->type == Cached::kInt8)
            for (size_t index : {kKeyScales, kValueScales})
                if (has[index] != has[kPastKey] ||
                    (has[index] && !is(index, 3, sequences, key_heads, job.old_room)))
                    return WRONG("past_key_scale and past_value_scale must be [%lld, %lld, room]",
                                 (long long)sequences, (long long)key_heads);
        return nullptr;
    }

    OrtStatus* read_caches() {
        constexpr Input kPasts[5] = {kQuery, kPastKey, kPastValue, kKeyScales, kValueScales};
        const int64_t size = job.head_size, of_head = (job.room = std::max(job.old_room, known)) * size;
        const int64_t dims[4] = {job.sequences, job.key_heads, job.room, size};
        void* made[5] = {};
        size_t present = 0, shared = 0, outputs = kernel.op->outputs;
        for (size_t i = kPresentKey; i < outputs; i++) {
            OrtValue* value = nullptr;
            TRY(ort::GetOutput::in(kernel.api)(context, i, dims, i <= kPresentValue ? 4 : 3, &value));
            if (!value) continue;
            TRY(ort::GetTensorMutableData::in(kernel.api)(value, &made[i]));
            present++, shared += has[kPasts[i]] && made[i] == inputs[kPasts[i]].data;
        }
        if (present == 0 && !has[kPastKey]) {
            const int64_t step = job.key_step;
            job.keys = {job.key, nullptr, job.tokens * step, step, size};
            job.values = job.keys, job.values.data = job.value;
            return nullptr;
        }
        if (present != outputs - 1)
            return WRONG("the present keys and values are given together, and with a past always");
        if (shared != 0 && shared != present)
            return WRONG("either every present is in its past's memory, or none is");
        const auto floats = [](const void* data) { return static_cast<float*>(const_cast<void*>(data)); };
        const auto past_of = [&](Input values, Input scales) {
            return Past{inputs[values].data, floats(inputs[scales].data)};
        };
        job.type = kernel.op->type;
        job.copies = shared == 0;
        job.old_keys = past_of(kPastKey, kKeyScales), job.old_values = past_of(kPastValue, kValueScales);
        job.new_keys = {made[kPresentKey], floats(made[kPresentKeyScales])};
        job.new_values = {made[kPresentValue], floats(made[kPresentValueScales])};
        job.keys = {made[kPresentKey], job.new_keys.scales, job.key_heads * of_head, size, of_head};
        job.values = job.keys;
        job.values.data = made[kPresentValue], job.values.scales = job.new_values.scales;
        return nullptr;
    }
};

OrtStatus* compute(void* data, OrtKernelContext* context) {
    thread_local Buffer past, total;
    const Kernel& kernel = *static_cast<const Kernel*>(data);
    Call call = {kernel, context, {}, &past, &total, 0, {}, {}};
    TRY(call.read());
    AttentionJob& job = call.job;
    const int64_t dims[3] = {job.sequences, job.tokens, job.heads * job.head_size};
    OrtValue* result = nullptr;
    TRY(ort::GetOutput::in(kernel.api)(context, kContext, dims, 3, &result));
    void* made = nullptr;
    TRY(ort::GetTensorMutableData::in(kernel.api)(result, &made));
    job.context = static_cast<float*>(made);
    if (job.sequences == 0) return nullptr;
    Pool pool = {kernel.api, context, nullptr};
    if (run_attention(*kernel.kernels, job, {&pool, run_on_pool})) return nullptr;
    return pool.status ? pool.status : refuse(kernel.api, *kernel.op, "there is no memory left");
}

}  // namespace

OrtStatus* edgeprune::add_row_attention(const OrtApi* api, OrtCustomOpDomain* domain) {
    static RowAttention operators[3];
    const struct {
        const char* name;
        Cached type;
        int element;
    } kinds[] = {{"RowAttention", Cached::kFloat32, ort::kFloat},
                 {"RowAttentionFloat16", Cached::kFloat16, ort::kFloat16},
                 {"RowAttentionInt8", Cached::kInt8, ort::kInt8}};
    for (size_t i = 0; i < 3; i++) {
        RowAttention& op = operators[i];
        op = RowAttention{};
        op.type = kinds[i].type;
        std::snprintf(op.name, sizeof op.name, "%s", kinds[i].name);
        op.takes(ort::kFloat), op.takes(ort::kFloat), op.takes(ort::kFloat);
        op.takes(kinds[i].element), op.takes(kinds[i].element);
        op.takes(ort::kInt32), op.takes(ort::kInt32);
        op.takes(ort::kFloat), op.takes(ort::kFloat);
        op.takes(ort::kInt64), op.takes(ort::kFloat);
        op.gives(ort::kFloat), op.gives(kinds[i].element), op.gives(kinds[i].element);
        if (op.type == Cached::kInt8) {
            op.takes(ort::kFloat), op.takes(ort::kFloat);
            op.gives(ort::kFloat), op.gives(ort::kFloat);
        }
        complete(op);
        op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) { return int(index != 0); };
        op.GetOutputCharacteristic = op.GetInputCharacteristic;
        op.CreateKernelV2 = create;
        op.KernelComputeV2 = compute;
        op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
        TRY(ort::CustomOpDomainAdd::in(api)(domain, &op));
    }
    return nullptr;
}
