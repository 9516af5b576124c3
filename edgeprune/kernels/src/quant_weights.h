// Converts the tensors of a quantized linear to what its kernels read; nothing in a file is trusted.
#pragma once

#include "quant.h"
#include "weights.h"

namespace edgeprune {

class OwnedQuantWeights {
  public:
    // Returns null, or what is wrong with the tensors. codes and multipliers are read in place and
    // must outlive this.
    const char* read(int bits, int64_t K, int64_t N, int64_t group, const Tensor& codes,
                     const Tensor& multipliers, const Tensor& scales, const Tensor& bias);

    const QuantWeights& get() const { return weights_; }

  private:
    const char* column_check() const;

    QuantWeights weights_ = {};
    Buffer scales_, bias_;
    mutable char message_[256];
};

}  // namespace edgeprune
