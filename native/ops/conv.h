// Convolution blocks: a binarized one with what surrounds it, or a plain one (paper, Fig. 2 and 3).
//
// Both take rows in order and give rows two at a time, so that a band of rows stays in cache from
// the normalization before the convolution to the shortcut after it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "ops/load_context.h"
#include "runtime/context.h"

namespace bidiffsr {

// Pixels that a Winograd tile may reach past the end of a row.
inline constexpr int kRightMargin = WinogradF4::kOutputs;

// Where rows of results go; `residual` is laid out like `output`.
struct RowsOut {
  float* output;
  std::ptrdiff_t row_stride;
  std::ptrdiff_t pixel_stride;
  const float* bias;      // added per channel
  const float* residual;  // added, may be null
  bool accumulate;        // add to what is there
  // In bfloat16: instead of the above, where not null; only for 3×3 in bfloat16 at stride 1.
  std::uint16_t* bfloat16_output = nullptr;
  const std::uint16_t* bfloat16_residual = nullptr;
  float* sums = nullptr;  // sums and sums of squares of the outputs are added, [2][padded channels]
};

// A convolution on its way down a picture.
class ConvRows {
 public:
  virtual ~ConvRows() = default;
  // The next input row, pixels as far apart as was said at the start; null outside the picture. The
  // row has to stay until the outputs below it are made.
  virtual void push(int y, const float* row) = 0;
  // Output rows y to y + rows - 1, once all inputs they see were pushed.
  virtual void emit(int y, int rows, const RowsOut& out) = 0;
};

class Conv {
 public:
  virtual ~Conv() = default;
  int in = 0, out = 0, kernel = 3, stride = 1;
  bool binary = false;

  // Output rows that are made at once, and the input rows these see.
  virtual int step() const { return stride == 1 ? 2 : 1; }
  int rows_seen() const { return (step() - 1) * stride + kernel; }
  // Whether it fills in the sums of RowsOut.
  bool sums() const { return binary || (kernel == 3 && stride == 1); }
  // Whether it rounds what it reads, or its products, by far more than a rough SiLU does.
  virtual bool rounds() const { return false; }
  // Whether pushed rows need a zero pixel on their left and kRightMargin on their right.
  bool wants_margin() const { return !binary && kernel == 3; }
  double macs(std::int64_t pixels_out) const {
    return static_cast<double>(pixels_out) * in * out * kernel * kernel;
  }
  // What is added to each output channel after everything else: beta1, or the plain bias.
  virtual const float* bias(int time_group) const = 0;
  // Bytes that `open` needs for a row of `width` pixels.
  virtual std::size_t scratch(int width) const = 0;
  // Begins at the first input row; `pixel_stride` is that of the pushed rows.
  virtual std::unique_ptr<ConvRows> open(const Context& context, int width, int height,
                                         std::ptrdiff_t pixel_stride, std::byte* scratch) const = 0;
};

// Reads the block called `name`.
std::unique_ptr<Conv> load_conv(const LoadContext& from, const std::string& name, int in, int out,
                                int kernel, int stride, bool binary);
// Reads a plain convolution whose weight and bias have this name before theirs.
std::unique_ptr<Conv> load_plain_conv(const LoadContext& from, const std::string& name, int in,
                                      int out, int kernel, int stride);

}  // namespace bidiffsr
