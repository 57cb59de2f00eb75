// Convolution blocks: a binarized one with what surrounds it, or a plain one (paper, Fig. 2 and 3).
//
// Both take rows in order and give rows two at a time, so that a band of rows stays in cache from
// the normalization before the convolution to the shortcut after it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "pass.h"

namespace bidiffsr {

template <class T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}  // NOLINT: conversion is the point
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, std::align_val_t{64}); }
  bool operator==(const AlignedAllocator&) const { return true; }
};
template <class T>
using Aligned = std::vector<T, AlignedAllocator<T>>;

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
  std::uint16_t* rounded_output = nullptr;
  const std::uint16_t* rounded_residual = nullptr;
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
  // Whether pushed rows need a zero pixel on their left and kRightMargin on their right.
  bool wants_margin() const { return !binary && kernel == 3; }
  double macs(int pixels_out) const {
    return static_cast<double>(pixels_out) * in * out * kernel * kernel;
  }
  // What is added to each output channel after everything else: beta1, or the plain bias.
  virtual const float* bias(int group) const = 0;
  // Bytes that `open` needs for a row of `width` pixels.
  virtual std::size_t scratch(int width) const = 0;
  // Begins at input row `first`; `pixel_stride` is that of the pushed rows.
  virtual std::unique_ptr<ConvRows> open(const Pass& pass, int width, int height,
                                         std::ptrdiff_t pixel_stride, std::byte* scratch) const = 0;
};

// What the loader of a part has to know.
struct Loading {
  const NetworkConfig& config;
  const Tensors& tensors;
  const Kernel& kernel;  // for whose passes it loads
  bool fast;             // plain convolutions in bfloat16, if the kernel has it, or by larger tiles
  bool bfloat16() const { return fast && kernel.bfloat16; }
};

// Reads the block called `name`.
std::unique_ptr<Conv> load_conv(const Loading& from, const std::string& name, int in, int out,
                                int kernel, int stride, bool binary);
// Reads a plain convolution whose weight and bias have this name before theirs.
std::unique_ptr<Conv> load_plain_conv(const Loading& from, const std::string& name, int in, int out,
                                      int kernel, int stride);

// Integer accumulators of a binarized convolution, [height][width][padded(out)], for tests.
std::vector<std::int32_t> accumulators(const Conv& conv, const Pass& pass, const float* x,
                                       int height, int width);

// Weights of a product with k inputs, in panels (kernels/kernel.h), float32 or bfloat16.
class Panels {
 public:
  Panels() = default;
  // weight(output, input), each below n and k.
  template <class Weight>
  Panels(int n, int k, bool bfloat16, const Weight& weight) : n_(padded(n)), k_(k) {
    if (bfloat16) {
      k_ = round_up(k, 2);
      half_.resize(static_cast<std::size_t>(n_) * static_cast<std::size_t>(k_));
    } else {
      full_.resize(static_cast<std::size_t>(n_) * static_cast<std::size_t>(k_));
    }
    for (int o = 0; o < n; ++o)
      for (int i = 0; i < k; ++i) put(o, i, weight(o, i));
  }
  int n() const { return n_; }
  int k() const { return k_; }
  bool bfloat16() const { return !half_.empty(); }
  // From panel `panel` on.
  const void* data(int panel = 0) const {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(panel) * kPanel * k_;
    return bfloat16() ? static_cast<const void*>(half_.data() + at) : full_.data() + at;
  }

 private:
  void put(int output, int input, float value);

  int n_ = 0, k_ = 0;
  Aligned<float> full_;
  Aligned<std::uint16_t> half_;
};

std::uint16_t to_bfloat16(float value);

// c = a · panels (+ bias): a in the panels' type.
void multiply(const Kernel& kernel, const Panels& panels, const void* a, std::ptrdiff_t a_stride,
              int m, float* c, std::ptrdiff_t c_stride, const float* bias, bool accumulate);

}  // namespace bidiffsr
