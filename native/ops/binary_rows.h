// A binarized convolution on its way down a picture.
#pragma once

#include "ops/binary_conv.h"

namespace bidiffsr {

class BinaryRows final : public ConvRows {
 public:
  BinaryRows(const BinaryConv& conv, const Context& context, int width, int height,
             std::ptrdiff_t pixel_stride, std::byte* scratch);
  void push(int y, const float* row) override;
  void emit(int y, int rows, const RowsOut& out) override;
  // The job of output row y: all but where results go and what is added to them.
  BinaryRow prepare(int y);

 private:
  // What the outputs of the rows under the kernel are multiplied by.
  const float* scale_pixels(const BinaryRow& job, int y);
  void take_signs(const float* row, const TimeGroupVectors& threshold, std::uint64_t* bits) const;
  // Input row y to the two planes of its steps.
  void push_two_bits(int y, const float* row);
  // Rows of bits to windows side by side at `window`.
  void lay_windows(BinaryRow& job, std::uint8_t* window) const;

  const BinaryConv& conv_;
  const Context& context_;
  int width_, height_;
  std::ptrdiff_t pixel_stride_;
  std::size_t row_words_;
  std::uint64_t* bits_[BinaryConv::kRing];
  std::uint64_t* outside_;
  // Of two bits: the plane that counts twice, a row to compute with, and the job of that plane.
  std::uint64_t *twice_[BinaryConv::kRing], *third_;
  BinaryRow second_;
  // Rows of magnitudes, the sum of those under the kernel, and what follows from it.
  float *magnitudes_[BinaryConv::kRing], *under_, *pixel_scale_;
  std::uint8_t* window_;
  const float* rows_[BinaryConv::kRing] = {};
};

}  // namespace bidiffsr
