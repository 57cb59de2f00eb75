#include "models/tail.h"

#include <algorithm>
#include <cstring>

#include "ops/norm.h"
#include "ops/panels.h"
#include "ops/row_loop.h"

namespace bidiffsr {

namespace {

constexpr int kTaps = 9;
constexpr int kRing = 4;  // rows of products that are kept

// To three channels: every tap's product of a pixel at once, then sums over the neighbours. float32
// always: it costs nothing and is what one sees.
class PixelTail final : public Tail {
 public:
  explicit PixelTail(const LoadContext& from)
      : channels_(from.config.channels), norm_(from, "tail_norm", channels_) {
    const float* weight = from.tensors.floats("tail.weight", {kColours, channels_, 3, 3});
    std::copy_n(from.tensors.floats("tail.bias", {kColours}), kColours, bias_);
    panels_ = Panels(kTaps * kColours, channels_, false, [&](int column, int i) {
      return weight[(column % kColours * channels_ + i) * kTaps + column / kColours];
    });
  }

  void operator()(Context& context, const Features& features, const Patches& patches,
                  float* output) const override {
    const Tensor& x = features.x;
    const int height = patches.height, width = patches.width;
    const Norm::Affine norm = norm_.fold(features);
    Scratch scratch;
    const std::size_t normal = scratch.reserve_array<float>(x.width, x.stride);
    const std::size_t size = checked_product(width + 2, panels_.n());
    const std::size_t products = scratch.reserve_array<float>(kRing, size);
    scratch.allocate(context);
    const double macs = static_cast<double>(height) * width * kTaps * kColours * channels_;
    context.run_bands(
        {"tail", channels_, height, width, macs}, height, [&](int first, int last, int worker) {
          float* ring = scratch.floats(worker, products);
          std::memset(ring, 0, sizeof(float) * kRing * size);
          const auto slot = [&](int y) { return ring + static_cast<std::size_t>(y & 3) * size; };
          const auto product = [&](int y) {
            make_products(context.kernel, x, norm, y, scratch.floats(worker, normal), slot(y));
          };
          product(first - 1);
          product(first);
          for (int y = first; y < last; ++y) {
            product(y + 1);
            const float* rows[3] = {slot(y - 1), slot(y), slot(y + 1)};
            for (int c = 0; c < kColours; ++c)
              add_taps(rows, c, width,
                       output + (static_cast<std::ptrdiff_t>(c) * height + y) * width);
          }
        });
  }

 private:
  // Of a row of features, behind a margin of one pixel; zeros for one outside the picture.
  void make_products(const Kernel& kernel, const Tensor& x, const Norm::Affine& norm, int y,
                     float* row, float* to) const {
    to += panels_.n();
    if (y < 0 || y >= x.height) {
      std::memset(to, 0, checked_bytes<float>(x.width, panels_.n()));
      return;
    }
    normalize(kernel, x, y, norm.scale.data(), norm.shift.data(), Silu::kExact, row);
    multiply(kernel, panels_, row, x.stride, x.width, to, panels_.n(), nullptr, false);
  }

  // A row of one colour from the products of the rows above, at and below it.
  void add_taps(const float* const (&rows)[3], int c, int width, float* to) const {
    for (int pixel = 0; pixel < width; ++pixel) {
      float sum = bias_[c];
      for (int tap = 0; tap < kTaps; ++tap)
        sum += rows[tap / 3][(pixel + tap % 3) * panels_.n() + tap * kColours + c];
      to[pixel] = sum;
    }
  }

  int channels_;
  Norm norm_;
  Panels panels_;
  float bias_[kColours];
};

// To squares of pixels: an ordinary convolution, and rounded as such, for no sign comes after it.
class PatchTail final : public Tail {
 public:
  explicit PatchTail(const LoadContext& from)
      : norm_(from, "tail_norm", from.config.channels),
        conv_(load_plain_conv(from, "tail", from.config.channels, from.config.patch_channels(), 3,
                              1)) {}

  void operator()(Context& context, const Features& features, const Patches& patches,
                  float* output) const override {
    const Norm::Affine norm = norm_.fold(features);
    const std::ptrdiff_t stride = padded(conv_->out), row = stride * patches.width;
    Scratch scratch;
    const std::size_t made = scratch.reserve_array<float>(conv_->step(), row);
    row_loop(
        context, {{conv_.get(), {&features.x, 0, norm.scale.data(), norm.shift.data()}}}, scratch,
        [&](std::size_t, int, int worker) {
          return RowsOut{scratch.floats(worker, made),    row,     stride,
                         conv_->bias(context.time_group), nullptr, false};
        },
        [&](int y, int rows, int worker) {
          for (int i = 0; i < rows; ++i)
            patches.write(scratch.floats(worker, made) + i * row, stride, y + i, output);
        },
        "tail");
  }

 private:
  Norm norm_;
  std::unique_ptr<Conv> conv_;
};

}  // namespace

std::unique_ptr<Tail> load_tail(const LoadContext& from) {
  if (from.config.patch > 1) return std::make_unique<PatchTail>(from);
  return std::make_unique<PixelTail>(from);
}

}  // namespace bidiffsr
