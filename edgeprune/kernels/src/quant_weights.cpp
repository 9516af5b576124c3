#include "quant_weights.h"

#include <cmath>
#include <cstdio>
#include <cstring>

#include "ort_abi.h"

namespace edgeprune {
namespace {

bool has_shape(const Tensor& tensor, int type, int64_t a, int64_t b, int64_t c) {
    return tensor.type == type && tensor.rank == 3 && tensor.dims[0] == a && tensor.dims[1] == b &&
           tensor.dims[2] == c;
}

// Null, or what a vector must be.
const char* vector_fault(const Tensor& tensor, int64_t size) {
    if (tensor.type != ort::kFloat || tensor.rank != 1 || tensor.dims[0] != size)
        return "must be float32";
    const float* numbers = static_cast<const float*>(tensor.data);
    for (int64_t n = 0; n < size; n++)
        if (!std::isfinite(numbers[n])) return "must be finite: float32";
    return nullptr;
}

}  // namespace

const char* OwnedNorm::read(NormKind kind, const char* name, float epsilon, int64_t size,
                            const Tensor& weight, const Tensor& bias) {
    if (!std::isfinite(epsilon) || epsilon < 0) {
        std::snprintf(message_, sizeof message_, "the %s's epsilon must be finite and not below 0",
                      name);
        return message_;
    }
    const bool biased = kind == NormKind::kLayer;
    for (const Tensor* vector : {&weight, &bias}) {
        if (vector == &bias && !biased) continue;
        if (const char* fault = vector_fault(*vector, size)) {
            std::snprintf(message_, sizeof message_, "the %s's %s %s [%lld]", name,
                          vector == &weight ? "weight" : "bias", fault, (long long)size);
            return message_;
        }
    }
    norm_ = {kind, epsilon, static_cast<const float*>(weight.data),
             biased ? static_cast<const float*>(bias.data) : nullptr};
    return nullptr;
}

const char* OwnedQuantWeights::read(int bits, bool gated, int64_t K, int64_t N, int64_t group,
                                    const Tensor& codes, const Tensor& multipliers,
                                    const Tensor& scales, const Tensor& bias) {
    if (K < 1 || N < 1 || K >= kMost || N >= kMost) {
        std::snprintf(message_, sizeof message_, "K %lld and N %lld must be from 1 to 2^31 - 1",
                      (long long)K, (long long)N);
        return message_;
    }
    if (bits == 4 && group != 32 && group != 128) {
        std::snprintf(message_, sizeof message_, "group must be 32 or 128, not %lld",
                      (long long)group);
        return message_;
    }
    const int64_t blocks = (K + kBlock - 1) / kBlock, parts = gated ? 2 : 1;
    const int64_t strips = (N + kStrip - 1) / kStrip * parts;
    if (bits == 8) group = blocks * kBlock;
    const int64_t groups = (K + group - 1) / group;
    if (!has_shape(codes, ort::kUint8, strips, blocks * bits, kVectorBytes)) {
        std::snprintf(message_, sizeof message_, "the codes must be uint8 [%lld, %lld, 64]",
                      (long long)strips, (long long)(blocks * bits));
        return message_;
    }
    if (bits == 4 && !has_shape(multipliers, ort::kInt8, strips, groups, kStrip)) {
        std::snprintf(message_, sizeof message_, "the multipliers must be int8 [%lld, %lld, 16]",
                      (long long)strips, (long long)groups);
        return message_;
    }
    for (const Tensor* vector : {&scales, &bias})
        if (const char* fault = vector_fault(*vector, N * parts)) {
            std::snprintf(message_, sizeof message_, "the %s %s [%lld]",
                          vector == &scales ? "scales" : "bias", fault, (long long)(N * parts));
            return message_;
        }
    weights_ = {bits,   gated,  K,       N,       group,   blocks,
                groups, strips, nullptr, nullptr, nullptr, nullptr};
    weights_.codes = static_cast<const uint8_t*>(codes.data);
    weights_.multipliers = bits == 4 ? static_cast<const int8_t*>(multipliers.data) : nullptr;
    weights_.scales = columns(scales_, scales);
    weights_.bias = columns(bias_, bias);
    if (!weights_.scales || !weights_.bias) return kNoMemory;
    return column_check();
}

// A vector over the columns as the strips have them.
const float* OwnedQuantWeights::columns(Buffer& buffer, const Tensor& vector) const {
    const int64_t size = weights_.strips * kStrip, N = weights_.N;
    if (!weights_.gated) return padded(buffer, vector, size);
    float* to = buffer.items<float>(size);
    if (!to) return nullptr;
    std::memset(to, 0, size * sizeof(float));
    const float* from = static_cast<const float*>(vector.data);
    for (int64_t part = 0; part < 2; part++)
        for (int64_t n = 0; n < N; n++)
            to[(n / kStrip * 2 + part) * kStrip + n % kStrip] = from[part * N + n];
    return to;
}

// Multipliers have 4 bits and a sign, and no column's sum can leave 32 bits.
const char* OwnedQuantWeights::column_check() const {
    const int64_t largest = kLargestCode << (weights_.bits - 1);
    if (weights_.bits == 8) {
        if (weights_.K * largest < kMost) return nullptr;
        std::snprintf(message_, sizeof message_, "sums of %lld inputs can exceed 32 bits",
                      (long long)weights_.K);
        return message_;
    }
    for (int64_t n = 0; n < weights_.strips * kStrip; n++) {
        const int8_t* at = weights_.multipliers + n / kStrip * weights_.groups * kStrip + n % kStrip;
        int64_t sum = 0;
        for (int64_t g = 0; g < weights_.groups; g++, at += kStrip) {
            const int64_t size = *at < 0 ? -int64_t(*at) : *at;
            if (size > kMostMultiplier) {
                std::snprintf(message_, sizeof message_,
                              "the multipliers must be from -15 to 15, and column %lld has %d",
                              (long long)n, int(*at));
                return message_;
            }
            sum += size * weights_.group;
        }
        if (sum * largest >= kMost) {
            std::snprintf(message_, sizeof message_, "sums of column %lld can exceed 32 bits",
                          (long long)n);
            return message_;
        }
    }
    return nullptr;
}

}  // namespace edgeprune
