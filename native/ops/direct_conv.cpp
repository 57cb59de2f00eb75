#include <algorithm>
#include <cstring>

#include "ops/channel_vectors.h"
#include "ops/panels.h"
#include "ops/plain_conv.h"

namespace bidiffsr {

namespace {

// Rows are rounded as they come. The inputs of an output lie side by side in each of the three rows
// under it, its neighbour's one pixel further, so they are multiplied where they lie.
class DirectConv final : public Conv {
 public:
  DirectConv(const LoadContext& from, const std::string& name, int in_, int out_) {
    in = in_, out = out_;
    const float* weight = from.tensors.floats(name + ".weight", {out, in, 3, 3});
    offset = pad_channels(from.tensors.floats(name + ".bias", {out}), out, 1, 0.0f);
    weights = Panels(out, 9 * padded(in), true, [&](int o, int i) {
      const int channel = i % padded(in), tap = i / padded(in);
      return channel < in ? weight[(static_cast<std::ptrdiff_t>(o) * in + channel) * 9 + tap] : 0;
    });
  }

  bool rounds() const override { return true; }
  const float* bias(int) const override { return offset.data(); }
  std::size_t scratch(int width) const override {
    return whole_lines(checked_product(sizeof(std::uint16_t), kRows, row_size(width))) +
           checked_bytes<float>(kPixels, kColumns);
  }
  std::unique_ptr<ConvRows> open(const Context& context, int width, int height,
                                 std::ptrdiff_t pixel_stride, std::byte* scratch) const override;

  // With a pixel on each side.
  std::size_t row_size(int width) const { return checked_product(width + 2, padded(in)); }

  static constexpr int kSeen = 4, kRows = kSeen + 1;         // and one outside the picture
  static constexpr int kPixels = 64, kColumns = 4 * kPanel;  // multiplied at once

  Panels weights;
  Aligned<float> offset;
};

class DirectRows final : public ConvRows {
 public:
  DirectRows(const DirectConv& conv, const Context& context, int width, int height,
             std::byte* scratch)
      : conv_(conv),
        context_(context),
        width_(width),
        height_(height),
        row_size_(conv.row_size(width)),
        rows_(reinterpret_cast<std::uint16_t*>(scratch)),
        products_(reinterpret_cast<float*>(
            scratch + whole_lines(sizeof(std::uint16_t) * DirectConv::kRows * row_size_))) {
    std::memset(outside(), 0, sizeof(std::uint16_t) * row_size_);
  }

  void push(int y, const float* row) override {
    if (!row) return;
    std::uint16_t* to = slot(y);
    context_.kernel.round_bf16(row - padded(conv_.in), to, row_size_);
    // What lies in the padding may not be multiplied.
    const int stride = padded(conv_.in);
    for (int x = 0; conv_.in < stride && x < width_ + 2; ++x)
      std::fill(to + x * stride + conv_.in, to + (x + 1) * stride, std::uint16_t{0});
  }

  void emit(int y, int rows, const RowsOut& out) override {
    for (int i = 0; i < rows; ++i)
      for (int x = 0; x < width_; x += DirectConv::kPixels)
        for (int column = 0; column < padded(conv_.out); column += DirectConv::kColumns) {
          const int pixels = std::min(DirectConv::kPixels, width_ - x);
          const int columns = std::min(DirectConv::kColumns, padded(conv_.out) - column);
          multiply_at(y + i, x, pixels, column, columns);
          const std::ptrdiff_t at = i * out.row_stride + x * out.pixel_stride + column;
          WinogradOutput job = results_at(out, at, column, conv_.out);
          job.products = products_;
          job.columns = columns;
          job.tiles = job.width = pixels;
          job.rows = 1;
          context_.kernel.direct_output_bf16(job);
        }
  }

 private:
  std::uint16_t* outside() const { return rows_ + DirectConv::kSeen * row_size_; }
  // Rows begin at -1.
  std::uint16_t* slot(int y) const {
    return rows_ + static_cast<std::size_t>(y + 1) % DirectConv::kSeen * row_size_;
  }

  void multiply_at(int y, int x, int pixels, int column, int columns) const {
    Gemm job{};
    job.parts = 3;
    for (int i = 0; i < 3; ++i) {
      const int row = y - 1 + i;
      job.a[i] = (row < 0 || row >= height_ ? outside() : slot(row)) +
                 static_cast<std::ptrdiff_t>(x) * padded(conv_.in);
    }
    job.a_stride = padded(conv_.in);
    job.b = conv_.weights.data(column / kPanel);
    job.c = products_;
    job.c_stride = columns;
    job.m = pixels;
    job.n = columns;
    job.k = 3 * padded(conv_.in);
    context_.kernel.gemm_bf16(job);
  }

  const DirectConv& conv_;
  const Context& context_;
  int width_, height_;
  std::size_t row_size_;
  std::uint16_t* rows_;
  float* products_;
};

std::unique_ptr<ConvRows> DirectConv::open(const Context& context, int width, int height,
                                           std::ptrdiff_t, std::byte* scratch) const {
  return std::make_unique<DirectRows>(*this, context, width, height, scratch);
}

}  // namespace

std::unique_ptr<Conv> load_direct_conv(const LoadContext& from, const std::string& name, int in,
                                       int out) {
  return std::make_unique<DirectConv>(from, name, in, out);
}

}  // namespace bidiffsr
