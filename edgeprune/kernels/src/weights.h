// Converts the tensors of a file to the weights that kernels read. Nothing in a file is trusted: a
// kernel follows only what is built here, so no tensor can make it read out of bounds.
#pragma once

#include <cstring>

#include "buffer.h"
#include "kernels.h"

namespace edgeprune {

// A tensor of the file; `dims` has `rank` entries.
struct Tensor {
    const void* data;
    int type;
    size_t rank;
    int64_t dims[4];
};

constexpr int64_t kMost = int64_t(1) << 31;  // of K, N and blocks
constexpr const char* kNoMemory = "there is no memory for the weights";

// A float32 vector, zero-padded; null if memory is exhausted.
inline const float* padded(Buffer& buffer, const Tensor& tensor, int64_t size) {
    float* to = buffer.items<float>(size);
    if (!to) return nullptr;
    std::memset(to, 0, size * sizeof(float));
    std::memcpy(to, tensor.data, tensor.dims[0] * sizeof(float));
    return to;
}

class OwnedWeights {
  public:
    // Returns null, or what is wrong with the tensors, in `message`. scales is null for float32. The
    // values of wide blocks are read in place and must outlive this.
    //
    // mask [ceil(N / outputs), ceil(units / 8)], bytes: bit u % 8 of byte u / 8 says that the block
    // of unit u is stored; values [blocks, outputs, inputs]: the blocks, row by row of the mask.
    const char* read(int64_t K, int64_t N, const Tensor& mask, const Tensor& values,
                     const Tensor* scales, const Tensor& bias);

    const Weights& get() const { return weights_; }

  private:
    const char* index(const uint8_t* mask, int64_t row_bytes, int64_t rows, int64_t blocks,
                      const void* values);

    Weights weights_ = {};
    Buffer starts_, indices_, values_, scales_, sums_, bias_;
    char message_[256];
};

}  // namespace edgeprune
