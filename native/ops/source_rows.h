// Rows of a convolution's input, made as they are asked for.
#pragma once

#include <cstddef>

#include "ops/conv.h"
#include "runtime/tensor.h"

namespace bidiffsr {

// scale x + shift per channel for a row of features of either type, then SiLU where asked.
inline void normalize(const Kernel& kernel, const Tensor& x, int y, const float* scale,
                      const float* shift, Silu silu, float* to) {
  if (x.bfloat16())
    kernel.normalize_row_bf16(x.bfloat16_row(y), to, x.width, x.stride, scale, shift, silu);
  else
    kernel.normalize_row(x.row(y), to, x.width, x.stride, scale, shift, silu);
}

// What a convolution reads: the features themselves, or those normalized and passed through SiLU,
// or a part of the channels.
struct Source {
  const Tensor* features;
  int first_channel = 0;
  const float* scale = nullptr;  // null: as they are
  const float* shift = nullptr;
  bool enlarged = false;  // nearest neighbour, twice the size

  int width() const { return features->width * (enlarged ? 2 : 1); }
  int height() const { return features->height * (enlarged ? 2 : 1); }
};

// As many rows are kept as the convolution sees at once.
class SourceRows {
 public:
  // The source's channels from its first on, as many as `conv` takes; with the margin it wants, in
  // rows of their own.
  SourceRows(const Kernel& kernel, const Source& source, const Conv& conv, std::byte* scratch);
  static std::size_t scratch(const Source& source, const Conv& conv);
  std::ptrdiff_t pixel_stride() const { return stride_; }

  // Null outside the picture.
  const float* row(int y);

 private:
  void copy_row(const float* from, std::ptrdiff_t from_stride, float* to) const;
  float* slot(int y) const { return slots_ + y % kept_ * slot_size_ + stride_; }

  const Kernel& kernel_;
  const Source& source_;
  int channels_, kept_;
  Silu silu_;
  bool copied_;
  std::ptrdiff_t stride_, slot_size_;
  float* slots_ = nullptr;
};

}  // namespace bidiffsr
