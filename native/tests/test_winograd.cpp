// Winograd's transforms of each kernel around plain products, against the convolution itself.
#include <array>

#include "check.h"
#include "kernel_helpers.h"
#include "kernels/kernel.h"
#include "ops/panels.h"

namespace bidiffsr::tests {
namespace {

struct Picture {
  Picture(Random& random, int width_, int channels_)
      : width(width_), channels(channels_), values(random.floats(size(6, width + 6, channels))) {}
  // Pixel x of row y, both from -1 on.
  double at(int y, int x, int c) const {
    return static_cast<double>(values[size(((y + 1) * (width + 6) + x + 1) * channels + c)]);
  }
  const float* row(int y) const { return values.data() + size(y, width + 6, channels); }
  int width, channels;
  std::vector<float> values;
};

// The transform of weights: for each point x the row [1, x, x²] / Π (x - other points), and the
// last for infinity.
std::vector<std::array<double, 3>> weight_transform(const std::vector<double>& points) {
  std::vector<std::array<double, 3>> rows;
  for (const double x : points) {
    double product = 1;
    for (const double other : points) product *= x == other ? 1 : x - other;
    rows.push_back({1 / product, x / product, x * x / product});
  }
  rows.push_back({0, 0, 1});
  return rows;
}

// One run of tiles: a picture, weights, and what is added to the outputs.
struct WinogradCase {
  WinogradCase(Random& random, const std::vector<std::array<double, 3>>& g, int width, int rows,
               int channels)
      : g(g),
        inputs(static_cast<int>(g.size())),
        outputs(inputs - 2),
        tiles((width + outputs - 1) / outputs),
        width(width),
        rows(rows),
        channels(channels),
        picture(random, width, channels),
        weights(random.floats(size(kColumns, channels, 9))),
        bias(random.floats(size(kColumns))),
        residual(random.floats(size(outputs, row_stride()))),
        before(random.floats(size(outputs, row_stride()))) {}

  static constexpr int kColumns = 5 * kPanel, kPixelStride = kColumns + 16;
  int planes() const { return inputs * inputs; }
  int row_stride() const { return width * kPixelStride; }
  double weight(int o, int c, int tap) const {
    return static_cast<double>(weights[size((o * channels + c) * 9 + tap)]);
  }
  // Element `plane` of G g Gᵀ.
  double transformed_weight(int o, int c, int plane) const {
    double u = 0;
    for (int tap = 0; tap < 9; ++tap)
      u += g[size(plane / inputs)][size(tap / 3)] * g[size(plane % inputs)][size(tap % 3)] *
           weight(o, c, tap);
    return u;
  }
  // The convolution itself.
  double sum_at(int o, int y, int x) const {
    double sum = 0;
    for (int c = 0; c < channels; ++c)
      for (int tap = 0; tap < 9; ++tap)
        sum += weight(o, c, tap) * picture.at(y + tap / 3 - 1, x + tap % 3 - 1, c);
    return sum;
  }

  const std::vector<std::array<double, 3>>& g;
  int inputs, outputs, tiles, width, rows, channels;
  Picture picture;
  std::vector<float> weights, bias, residual, before;
};

// The input's transform, then products that are plain loops, in `Element`s.
template <class Element, class Value>
std::vector<float> products_of(const WinogradTransforms& transforms, const WinogradCase& each,
                               const Value& value) {
  const int tiles = each.tiles, channels = each.channels;
  std::vector<Element> input(size(each.planes(), tiles, channels));
  WinogradInput in{};
  for (int i = 0; i < each.inputs; ++i) in.rows[i] = each.picture.row(i);
  in.channels = channels;
  in.tiles = tiles;
  in.plane = tiles * channels;
  in.output = input.data();
  transforms.input(in);
  std::vector<float> products(size(each.planes(), tiles, WinogradCase::kColumns));
  for (int plane = 0; plane < each.planes(); ++plane)
    for (int o = 0; o < WinogradCase::kColumns; ++o)
      for (int c = 0; c < channels; ++c) {
        const double u = each.transformed_weight(o, c, plane);
        for (int tile = 0; tile < tiles; ++tile) {
          const int at = plane * tiles + tile;
          products[size(at * WinogradCase::kColumns + o)] +=
              static_cast<float>(u * value(input[size(at * channels + c)]));
        }
      }
  return products;
}

// The output's transform against the convolution, sums included.
void check_winograd_output(const WinogradTransforms& transforms, const WinogradCase& each,
                           const std::vector<float>& products, double tolerance, bool with_residual,
                           bool accumulate) {
  constexpr int kColumns = WinogradCase::kColumns, kPixelStride = WinogradCase::kPixelStride;
  std::vector<float> output = each.before, sums(size(2 * kColumns), 1.0f);
  WinogradOutput job{};
  job.products = products.data();
  job.plane = each.tiles * kColumns;
  job.columns = kColumns;
  job.tiles = each.tiles;
  job.width = each.width;
  job.rows = each.rows;
  job.bias = each.bias.data();
  job.residual = with_residual ? each.residual.data() : nullptr;
  job.output = output.data();
  job.row_stride = each.row_stride();
  job.pixel_stride = kPixelStride;
  job.accumulate = accumulate;
  job.sums = sums.data();
  job.squares = sums.data() + kColumns;
  transforms.output(job);
  std::vector<double> sum(sums.size(), 1.0);
  for (int i = 0; i < each.outputs * each.row_stride(); ++i) {
    const int y = i / each.row_stride(), x = i % each.row_stride() / kPixelStride;
    const int o = i % kPixelStride;
    const double found = static_cast<double>(output[size(i)]);
    double wanted = static_cast<double>(each.before[size(i)]);
    if (y < each.rows && o < kColumns) {
      wanted = (accumulate ? wanted : 0) + static_cast<double>(each.bias[size(o)]);
      if (with_residual) wanted += static_cast<double>(each.residual[size(i)]);
      wanted += each.sum_at(o, y, x);
      sum[size(o)] += found;
      sum[size(kColumns + o)] += found * found;
    }
    CHECK_THAT(near(found, wanted, tolerance, 9 * each.channels),
               text("width", each.width) + text("x", x) + text("y", y) + text("wanted", wanted) +
                   text("found", found));
  }
  for (std::size_t i = 0; i < sum.size(); ++i)
    CHECK(
        near(static_cast<double>(sums[i]), sum[i], 1e-6, sum[size(kColumns) + i % size(kColumns)]));
}

// Both transforms around the products.
template <class Element, class Value>
void check_winograd(const WinogradTransforms& transforms, Random& random, const Value& value,
                    double tolerance, const std::vector<std::array<double, 3>>& g, int width,
                    int rows, int channels) {
  const WinogradCase each(random, g, width, rows, channels);
  const std::vector<float> products = products_of<Element>(transforms, each, value);
  for (const bool with_residual : {false, true})
    for (const bool accumulate : {false, true})
      check_winograd_output(transforms, each, products, tolerance, with_residual, accumulate);
}

template <class Check>
void for_each_winograd(const Check& check) {
  for (const int width : {1, 2, 3, 4, 5, 8, 9})
    for (const int channels : {16, 48}) check(width, channels);
}

std::vector<std::array<double, 3>> weight_transform_2() {
  auto g = weight_transform({0, 1, -1});
  for (double& each : g[0]) each = -each;  // the input's first row has the other sign, too
  return g;
}

TEST(winograd_in_float32_is_a_convolution) {
  const auto value = [](float x) { return static_cast<double>(x); };
  Random random(7);
  for_each_kernel([&](const Kernel& kernel) {
    for_each_winograd([&](int width, int channels) {
      for (const int rows : {1, 2})
        check_winograd<float>(kernel.winograd2_f32, random, value, 5e-7, weight_transform_2(),
                              width, rows, channels);
      for (const int rows : {1, 2, 3, 4})
        check_winograd<float>(kernel.winograd4_f32, random, value, 1e-6,
                              weight_transform({0, 0.75, -0.75, 1.5, -1.5}), width, rows, channels);
    });
  });
}

TEST(winograd_in_bfloat16_is_a_convolution) {
  const auto value = [](std::uint16_t x) { return static_cast<double>(from_bfloat16(x)); };
  Random random(8);
  for_each_kernel([&](const Kernel& kernel) {
    if (!kernel.bfloat16) return;
    for_each_winograd([&](int width, int channels) {
      for (const int rows : {1, 2, 3, 4})
        check_winograd<std::uint16_t>(kernel.winograd4_bf16, random, value, 1e-2,
                                      weight_transform({0, 0.75, -0.75, 1.5, -1.5}), width, rows,
                                      channels);
    });
  });
}

TEST(winograd_input_in_bfloat16_is_rounded_once) {
  Random random(9);
  for_each_kernel([&](const Kernel& kernel) {
    if (!kernel.bfloat16) return;
    for_each_winograd([&](int width, int channels) {
      const int tiles = (width + 3) / 4;
      const Picture picture(random, width, channels);
      std::vector<float> exact(size(36, tiles, channels));
      std::vector<std::uint16_t> rounded(exact.size()), found(exact.size());
      WinogradInput in{};
      for (int i = 0; i < 6; ++i) in.rows[i] = picture.row(i);
      in.channels = channels;
      in.tiles = tiles;
      in.plane = tiles * channels;
      in.output = exact.data();
      kernel.winograd4_f32.input(in);
      kernel.round_bf16(exact.data(), rounded.data(), exact.size());
      in.output = found.data();
      kernel.winograd4_bf16.input(in);
      CHECK(found == rounded);
    });
  });
}

}  // namespace
}  // namespace bidiffsr::tests
