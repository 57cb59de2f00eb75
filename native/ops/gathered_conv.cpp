#include <algorithm>
#include <cstring>

#include "ops/channel_vectors.h"
#include "ops/panels.h"
#include "ops/plain_conv.h"

namespace bidiffsr {

namespace {

class GatheredConv final : public Conv {
 public:
  GatheredConv(const LoadContext& from, const std::string& name, int in_, int out_, int kernel_,
               int stride_) {
    in = in_, out = out_, kernel = kernel_, stride = stride_;
    const float* weight = from.tensors.floats(name + ".weight", {out, in, kernel, kernel});
    offset = pad_channels(from.tensors.floats(name + ".bias", {out}), out, 1, 0.0f);
    const int taps = kernel * kernel;  // outermost, as they are gathered
    weights = Panels(out, taps * in, from.bfloat16(), [&](int o, int column) {
      return weight[(static_cast<std::ptrdiff_t>(o) * in + column % in) * taps + column / in];
    });
  }

  const float* bias(int) const override { return offset.data(); }
  std::size_t scratch(int width) const override {
    return input_bytes(width) + outside_bytes(width);
  }
  std::unique_ptr<ConvRows> open(const Context& context, int width, int height,
                                 std::ptrdiff_t pixel_stride, std::byte* scratch) const override;

  // Gathered rows in float32, then in bfloat16.
  std::size_t input_bytes(int width) const {
    return whole_lines(checked_product(width, kernel * kernel * in + kPanel,
                                       sizeof(float) + sizeof(std::uint16_t)));
  }
  // A row outside the picture.
  std::size_t outside_bytes(int width) const {
    return whole_lines(checked_bytes<float>(1 + width + kRightMargin, padded(in)));
  }

  Panels weights;
  Aligned<float> offset;
};

class GatheredRows final : public ConvRows {
 public:
  GatheredRows(const GatheredConv& conv, const Context& context, int width, int height,
               std::ptrdiff_t pixel_stride, std::byte* scratch)
      : conv_(conv),
        context_(context),
        width_(width),
        height_(height),
        pixel_stride_(pixel_stride),
        gathered_(reinterpret_cast<float*>(scratch)),
        outside_(reinterpret_cast<float*>(scratch + conv.input_bytes(width))) {
    std::memset(outside_, 0, conv.outside_bytes(width));
  }

  void push(int y, const float* row) override { rows_[slot(y)] = row; }

  void emit(int y, int rows, const RowsOut& out) override {
    for (int i = 0; i < rows; ++i) emit_row(y + i, i * out.row_stride, out);
  }

 private:
  // Rows begin at -1.
  static std::size_t slot(int y) { return static_cast<std::size_t>(y + 1) % kMostSeen; }
  const float* row_at(int y) const {
    // A row begins with its left margin only where the convolution looks there.
    const std::ptrdiff_t margin = conv_.wants_margin() ? pixel_stride_ : 0;
    return y < 0 || y >= height_ ? outside_ : rows_[slot(y)] - margin;
  }

  // The inputs of each output of row y, one output's after another's, `wide` floats apart.
  void gather(int y, int outputs, std::ptrdiff_t wide) {
    const int taps = conv_.kernel, in = conv_.in;
    for (int x = 0; x < outputs; ++x) {
      float* to = gathered_ + x * wide;
      to[wide - 1] = 0;  // the odd one out, which bfloat16 pairs need
      for (int row = 0; row < taps; ++row) {
        const float* from = row_at(y * conv_.stride + row - taps / 2);
        for (int column = 0; column < taps; ++column, to += in)
          std::copy_n(from + (x * conv_.stride + column) * pixel_stride_, in, to);
      }
    }
  }

  void emit_row(int y, std::ptrdiff_t at, const RowsOut& out) {
    const int outputs = width_ / conv_.stride;
    const std::ptrdiff_t wide = round_up(conv_.kernel * conv_.kernel * conv_.in, 2);
    gather(y, outputs, wide);
    const void* a = gathered_;
    if (conv_.weights.bfloat16()) {
      const std::size_t count = static_cast<std::size_t>(outputs * wide);
      auto* rounded = reinterpret_cast<std::uint16_t*>(gathered_ + count);
      context_.kernel.round_bf16(gathered_, rounded, count);
      a = rounded;
    }
    float* output = out.output + at;
    multiply(context_.kernel, conv_.weights, a, wide, outputs, output, out.pixel_stride, out.bias,
             out.accumulate);
    if (!out.residual) return;
    const float* residual = out.residual + at;
    for (int x = 0; x < outputs; ++x)
      for (int c = 0; c < conv_.out; ++c)
        output[x * out.pixel_stride + c] += residual[x * out.pixel_stride + c];
  }

  const GatheredConv& conv_;
  const Context& context_;
  int width_, height_;
  std::ptrdiff_t pixel_stride_;
  float* gathered_;
  float* outside_;
  static constexpr std::size_t kMostSeen = 4;  // of kernel 3 at stride 2, or kernel 1: fewer
  const float* rows_[kMostSeen] = {};
};

std::unique_ptr<ConvRows> GatheredConv::open(const Context& context, int width, int height,
                                             std::ptrdiff_t pixel_stride,
                                             std::byte* scratch) const {
  return std::make_unique<GatheredRows>(*this, context, width, height, pixel_stride, scratch);
}

}  // namespace

std::unique_ptr<Conv> load_gathered_conv(const LoadContext& from, const std::string& name, int in,
                                         int out, int kernel, int stride) {
  return std::make_unique<GatheredConv>(from, name, in, out, kernel, stride);
}

}  // namespace bidiffsr
