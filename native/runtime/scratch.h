// Scratch memory of the threads that work on one layer.
#pragma once

#include <cstddef>

#include "runtime/arena.h"
#include "runtime/checked.h"
#include "runtime/context.h"

namespace bidiffsr {

// The same parts for each worker, in whole cache lines. First every part is reserved, then the
// memory allocated.
class Scratch {
 public:
  // Where the part of so many bytes begins in a worker's scratch.
  std::size_t reserve(std::size_t bytes) {
    const std::size_t part = size_;
    size_ += whole_lines(bytes);
    return part;
  }
  // A part for an array of T with these dimensions.
  template <class T, class... Sizes>
  std::size_t reserve_array(Sizes... sizes) {
    return reserve(checked_bytes<T>(sizes...));
  }
  void allocate(Context& context) {
    block_ = Block<std::byte>(context.arena, checked_product(size_, context.workers()));
  }
  std::byte* bytes(int worker, std::size_t part) const {
    return block_.get() + size_ * static_cast<std::size_t>(worker) + part;
  }
  float* floats(int worker, std::size_t part) const {
    return reinterpret_cast<float*>(bytes(worker, part));
  }

 private:
  std::size_t size_ = 0;
  Block<std::byte> block_;
};

}  // namespace bidiffsr
