// Feature maps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/checked.h"
#include "runtime/context.h"

namespace bidiffsr {

// Features of one sample, (height, width, channels), float32 or, where only products in bfloat16
// will read them, bfloat16; what lies between `channels` and `stride` is undefined.
struct Tensor {
  Tensor(Context& context, int height, int width, int channels, bool in_bfloat16)
      : height(height), width(width), channels(channels), stride(padded(channels)) {
    const std::size_t size = checked_product(height, width, stride);
    if (in_bfloat16)
      halves = Block<std::uint16_t>(context.arena, size);
    else
      floats = Block<float>(context.arena, size);
  }

  int height, width, channels, stride;
  Block<float> floats;          // or
  Block<std::uint16_t> halves;  // bfloat16

  bool bfloat16() const { return static_cast<bool>(halves); }
  std::ptrdiff_t row_stride() const { return static_cast<std::ptrdiff_t>(width) * stride; }
  float* row(int y) const { return floats.get() + y * row_stride(); }
  std::uint16_t* bfloat16_row(int y) const { return halves.get() + y * row_stride(); }
};

}  // namespace bidiffsr
