// From the tensors of a file to the weights that kernels read. Nothing in a file is believed: what is
// built here is all that a kernel follows, so that no tensor can make it read outside of one.
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
    // Null, or what is wrong with the tensors, in `message`. scales is null for float32. The values
    // of wide blocks are read in place and must live as long as this.
    //
    // mask [ceil(N / outputs), ceil(units / 8)], bytes: bit u % 8 of byte u / 8 says that the block
    // of unit u is there; values [blocks, outputs, inputs]: the blocks, row by row of the mask.
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
