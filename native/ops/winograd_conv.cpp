#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/channel_vectors.h"
#include "ops/panels.h"
#include "ops/plain_conv.h"

namespace bidiffsr {

namespace {

// What of a Winograd convolution depends on its tile.
struct WinogradTile {
  template <class F>
  static WinogradTile of(const WinogradTransforms& transforms, int run) {
    return {F::kOutputs, F::kInputs, run, &F::kG[0], transforms};
  }
  // Larger tiles round more, so only `fast` has them.
  static WinogradTile chosen(const Kernel& kernel, bool fast) {
    if (!fast) return of<WinogradF2>(kernel.winograd2_f32, 64);
    return of<WinogradF4>(kernel.bfloat16 ? kernel.winograd4_bf16 : kernel.winograd4_f32, 24);
  }
  // Element (i, j) of G g Gᵀ.
  float weight(const float* g, int i, int j) const {
    double sum = 0;
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; ++x) sum += G[i][y] * G[j][x] * static_cast<double>(g[3 * y + x]);
    return static_cast<float>(sum);
  }

  int planes() const { return inputs * inputs; }

  int outputs, inputs;  // a side
  int run;  // tiles at once: their planes of inputs and products stay in the second-level cache
  const double (*G)[3];
  WinogradTransforms transforms;
};

class WinogradConv final : public Conv {
 public:
  WinogradConv(const LoadContext& from, const std::string& name, int in_, int out_)
      : fast(from.fast),
        bfloat16(from.bfloat16()),
        tile(WinogradTile::chosen(from.kernel, from.fast)) {
    in = in_, out = out_;
    const float* weight = from.tensors.floats(name + ".weight", {out, in, 3, 3});
    offset = pad_channels(from.tensors.floats(name + ".bias", {out}), out, 1, 0.0f);
    for (int i = 0; i < tile.inputs; ++i)
      for (int j = 0; j < tile.inputs; ++j)
        planes.emplace_back(out, in, bfloat16, [&](int o, int c) {
          return tile.weight(weight + (static_cast<std::ptrdiff_t>(o) * in + c) * 9, i, j);
        });
  }

  int step() const override { return tile.outputs; }
  bool rounds() const override { return fast; }
  const float* bias(int) const override { return offset.data(); }
  std::size_t scratch(int width) const override {
    return input_bytes() + outside_bytes(width) +
           checked_bytes<float>(tile.planes(), tile.run, kColumns);
  }
  std::unique_ptr<ConvRows> open(const Context& context, int width, int height,
                                 std::ptrdiff_t pixel_stride, std::byte* scratch) const override;

  static constexpr int kColumns = 4 * kPanel;
  std::size_t element() const { return bfloat16 ? sizeof(std::uint16_t) : sizeof(float); }
  std::size_t input_bytes() const {
    return whole_lines(checked_product(element(), tile.planes(), tile.run, padded(in)));
  }
  // A row outside the picture.
  std::size_t outside_bytes(int width) const {
    return whole_lines(checked_bytes<float>(1 + width + kRightMargin, padded(in)));
  }

  bool fast, bfloat16;
  WinogradTile tile;
  std::vector<Panels> planes;
  Aligned<float> offset;
};

class WinogradRows final : public ConvRows {
 public:
  WinogradRows(const WinogradConv& conv, const Context& context, int width, int height,
               std::ptrdiff_t pixel_stride, std::byte* scratch)
      : conv_(conv), context_(context), width_(width), height_(height), margin_(pixel_stride) {
    input_ = scratch;
    outside_ = reinterpret_cast<float*>(scratch + conv.input_bytes());
    products_ = reinterpret_cast<float*>(scratch + conv.input_bytes() + conv.outside_bytes(width));
    std::memset(outside_, 0, conv.outside_bytes(width));
  }

  void push(int y, const float* row) override { rows_[slot(y)] = row; }

  void emit(int y, int rows, const RowsOut& out) override {
    const WinogradTile& tile = conv_.tile;
    for (int x = 0; x < width_; x += tile.run * tile.outputs) {
      const int tiles = std::min(tile.run, (width_ - x + tile.outputs - 1) / tile.outputs);
      transform_input(y, rows, x, tiles);
      const int outputs = padded(conv_.out);
      for (int column = 0; column < outputs; column += WinogradConv::kColumns) {
        const int columns = std::min(WinogradConv::kColumns, outputs - column);
        for (int plane = 0; plane < tile.planes(); ++plane) multiply(plane, tiles, column, columns);
        transform_output(rows, x, tiles, column, columns, out);
      }
    }
  }

 private:
  // Rows begin at -1.
  static std::size_t slot(int y) { return static_cast<std::size_t>(y + 1) % kMostSeen; }
  const float* row_at(int y) const {
    return y < 0 || y >= height_ ? outside_ : rows_[slot(y)] - margin_;
  }

  void transform_input(int y, int rows, int x, int tiles) {
    const int channels = padded(conv_.in);
    WinogradInput job{};
    // Rows that no output wanted here sees may not be there yet.
    for (int i = 0; i < conv_.tile.inputs; ++i)
      job.rows[i] =
          i < rows + 2 ? row_at(y - 1 + i) + static_cast<std::ptrdiff_t>(x) * channels : outside_;
    job.channels = channels;
    job.tiles = tiles;
    job.plane = static_cast<std::ptrdiff_t>(tiles) * channels;
    job.output = input_;
    conv_.tile.transforms.input(job);
  }

  void multiply(int plane, int tiles, int column, int columns) {
    const Panels& weights = conv_.planes[static_cast<std::size_t>(plane)];
    const int channels = padded(conv_.in);
    Gemm job{};
    job.parts = 1;
    job.a[0] = input_ + conv_.element() * static_cast<std::size_t>(plane * tiles * channels);
    job.a_stride = channels;
    job.b = weights.data(column / kPanel);
    job.c = products_ + static_cast<std::ptrdiff_t>(plane) * tiles * columns;
    job.c_stride = columns;
    job.m = tiles;
    job.n = columns;
    job.k = weights.k();
    (conv_.bfloat16 ? context_.kernel.gemm_bf16 : context_.kernel.gemm_f32)(job);
  }

  void transform_output(int rows, int x, int tiles, int column, int columns, const RowsOut& out) {
    WinogradOutput job = results_at(out, x * out.pixel_stride + column, column, conv_.out);
    job.products = products_;
    job.plane = static_cast<std::ptrdiff_t>(tiles) * columns;
    job.columns = columns;
    job.tiles = tiles;
    job.width = width_ - x;
    job.rows = rows;
    conv_.tile.transforms.output(job);
  }

  const WinogradConv& conv_;
  const Context& context_;
  int width_, height_;
  std::ptrdiff_t margin_;  // one pixel
  std::byte* input_;
  float* outside_;
  float* products_;
  static constexpr std::size_t kMostSeen = WinogradF4::kInputs;
  const float* rows_[kMostSeen] = {};
};

std::unique_ptr<ConvRows> WinogradConv::open(const Context& context, int width, int height,
                                             std::ptrdiff_t pixel_stride,
                                             std::byte* scratch) const {
  return std::make_unique<WinogradRows>(*this, context, width, height, pixel_stride, scratch);
}

}  // namespace

std::unique_ptr<Conv> load_winograd_conv(const LoadContext& from, const std::string& name, int in,
                                         int out) {
  return std::make_unique<WinogradConv>(from, name, in, out);
}

}  // namespace bidiffsr
