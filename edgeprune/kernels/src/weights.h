// Converts the tensors of a file to the weights that kernels read. Nothing in a file is trusted: a
// kernel follows only what is built here, so no tensor can make it read out of bounds.
#pragma once

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
