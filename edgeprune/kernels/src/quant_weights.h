// Converts the tensors of a quantized linear to what its kernels read; nothing in a file is trusted.
#pragma once

#include "quant.h"
#include "weights.h"

namespace edgeprune {

// The weight of a norm and, if there is one, its bias, of `size` numbers.
class OwnedNorm {
  public:
    // Returns null, or what is wrong with the tensors, which are read in place and must outlive this.
    const char* read(NormKind kind, const char* name, float epsilon, int64_t size,
                     const Tensor& weight, const Tensor& bias);

    const RowNorm& get() const { return norm_; }

  private:
    RowNorm norm_ = {};
    char message_[256];
};

class OwnedQuantWeights {
  public:
    // Returns null, or what is wrong with the tensors. codes and multipliers are read in place and
    // must outlive this. group and multipliers are of codes of 4 bits.
    const char* read(int bits, bool gated, int64_t K, int64_t N, int64_t group, const Tensor& codes,
                     const Tensor& multipliers, const Tensor& scales, const Tensor& bias);

    const QuantWeights& get() const { return weights_; }

  private:
    const float* columns(Buffer& buffer, const Tensor& vector) const;
    const char* column_check() const;

    QuantWeights weights_ = {};
    Buffer scales_, bias_;
    mutable char message_[256];
};

}  // namespace edgeprune
