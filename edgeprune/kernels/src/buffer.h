// Memory that grows and is kept: nothing is allocated after the largest call.
#pragma once

#include <cstdlib>
#include <utility>

#include "kernels.h"

namespace edgeprune {

class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    // At least `bytes` bytes, or null if memory is exhausted. Growing discards the contents.
    void* need(size_t bytes) {
        if (data_ && bytes <= bytes_) return data_;
        std::free(data_);
        bytes_ = (bytes + kAlignment) / kAlignment * kAlignment;
        data_ = std::aligned_alloc(kAlignment, bytes_);
        return data_;
    }

    template <class Item>
    Item* items(size_t count) {
        return static_cast<Item*>(need(count * sizeof(Item)));
    }

  private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace edgeprune
