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
  // Rows of bits to windows side by side.
  void lay_windows(BinaryRow& job);

  const BinaryConv& conv_;
  const Context& context_;
  int width_, height_;
  std::ptrdiff_t pixel_stride_;
  std::size_t row_words_;
  std::uint64_t* bits_[BinaryConv::kRing];
  std::uint64_t* outside_;
  std::uint8_t* window_;
  const float* rows_[BinaryConv::kRing] = {};
};

}  // namespace bidiffsr
