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

// Both transforms around products that are plain loops here, in `Element`s.
template <class Element, class Value>
void check_winograd(const WinogradTransforms& transforms, Random& random, const Value& value,
                    double tolerance, const std::vector<std::array<double, 3>>& g, int width,
                    int rows, int channels) {
  const int inputs = static_cast<int>(g.size()), outputs = inputs - 2, planes = inputs * inputs;
  const int tiles = (width + outputs - 1) / outputs, columns = 5 * kPanel;
  const Picture picture(random, width, channels);
  const std::vector<float> weights = random.floats(size(columns, channels, 9));
  const auto weight = [&](int o, int c, int tap) {
    return static_cast<double>(weights[size((o * channels + c) * 9 + tap)]);
  };
  std::vector<Element> input(size(planes, tiles, channels));
  WinogradInput in{};
  for (int i = 0; i < inputs; ++i) in.rows[i] = picture.row(i);
  in.channels = channels;
  in.tiles = tiles;
  in.plane = tiles * channels;
  in.output = input.data();
  transforms.input(in);

  std::vector<float> products(size(planes, tiles, columns));
  for (int plane = 0; plane < planes; ++plane)
    for (int o = 0; o < columns; ++o)
      for (int c = 0; c < channels; ++c) {
        double u = 0;
        for (int tap = 0; tap < 9; ++tap)
          u += g[size(plane / inputs)][size(tap / 3)] * g[size(plane % inputs)][size(tap % 3)] *
               weight(o, c, tap);
        for (int tile = 0; tile < tiles; ++tile)
          products[size((plane * tiles + tile) * columns + o)] +=
              static_cast<float>(u * value(input[size((plane * tiles + tile) * channels + c)]));
      }

  const int pixel_stride = columns + 16, row_stride = width * pixel_stride;
  const std::vector<float> bias = random.floats(size(columns));
  const std::vector<float> residual = random.floats(size(outputs, row_stride));
  const std::vector<float> before = random.floats(size(outputs, row_stride));
  for (const bool with_residual : {false, true})
    for (const bool accumulate : {false, true}) {
      std::vector<float> output = before, sums(size(2 * columns), 1.0f);
      WinogradOutput job{};
      job.products = products.data();
      job.plane = tiles * columns;
      job.columns = columns;
      job.tiles = tiles;
      job.width = width;
      job.rows = rows;
      job.bias = bias.data();
      job.residual = with_residual ? residual.data() : nullptr;
      job.output = output.data();
      job.row_stride = row_stride;
      job.pixel_stride = pixel_stride;
      job.accumulate = accumulate;
      job.sums = sums.data();
      job.squares = sums.data() + columns;
      transforms.output(job);
      std::vector<double> sum(sums.size(), 1.0);
      for (int y = 0; y < outputs; ++y)
        for (int x = 0; x < width; ++x)
          for (int o = 0; o < pixel_stride; ++o) {
            const std::size_t at = size(y * row_stride + x * pixel_stride + o);
            const double found = static_cast<double>(output[at]);
            double wanted = static_cast<double>(before[at]);
            if (y < rows && o < columns) {
              wanted = accumulate ? wanted : 0;
              wanted += static_cast<double>(bias[size(o)]);
              if (with_residual) wanted += static_cast<double>(residual[at]);
              for (int c = 0; c < channels; ++c)
                for (int tap = 0; tap < 9; ++tap)
                  wanted += weight(o, c, tap) * picture.at(y + tap / 3 - 1, x + tap % 3 - 1, c);
              sum[size(o)] += found;
              sum[size(columns + o)] += found * found;
            }
            CHECK_THAT(near(found, wanted, tolerance, 9 * channels),
                       text("width", width) + text("x", x) + text("y", y) + text("wanted", wanted) +
                           text("found", found));
          }
      for (std::size_t i = 0; i < sum.size(); ++i)
        CHECK(near(static_cast<double>(sums[i]), sum[i], 1e-6,
                   sum[size(columns) + i % size(columns)]));
    }
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
      for (const int rows : {1, 2})
        check_winograd<std::uint16_t>(kernel.winograd2_bf16, random, value, 1e-2,
                                      weight_transform_2(), width, rows, channels);
    });
  });
}

TEST(winograd_input_in_bfloat16_is_rounded_once) {
  constexpr int kFirst[4] = {0, 1, 2, 1}, kSecond[4] = {2, 2, 1, 3};
  constexpr float kSign[4] = {-1, 1, -1, -1};
  Random random(9);
  for_each_kernel([&](const Kernel& kernel) {
    if (!kernel.bfloat16) return;
    for_each_winograd([&](int width, int channels) {
      const int tiles = (width + 1) / 2;
      const Picture picture(random, width, channels);
      std::vector<float> wanted(size(16, tiles, channels));
      for (int plane = 0; plane < 16; ++plane)
        for (int tile = 0; tile < tiles; ++tile)
          for (int c = 0; c < channels; ++c) {
            const auto column = [&](int x) {
              const auto at = [&](int row) {
                return picture.row(row)[size(x, channels) + size(c)];
              };
              return at(kFirst[plane / 4]) + kSign[plane / 4] * at(kSecond[plane / 4]);
            };
            wanted[size((plane * tiles + tile) * channels + c)] =
                column(2 * tile + kFirst[plane % 4]) +
                kSign[plane % 4] * column(2 * tile + kSecond[plane % 4]);
          }
      std::vector<std::uint16_t> rounded(wanted.size()), found(wanted.size());
      kernel.round_bf16(wanted.data(), rounded.data(), wanted.size());
      WinogradInput in{};
      for (int i = 0; i < 4; ++i) in.rows[i] = picture.row(i);
      in.channels = channels;
      in.tiles = tiles;
      in.plane = tiles * channels;
      in.output = found.data();
      kernel.winograd2_bf16.input(in);
      CHECK(found == rounded);
    });
  });
}

}  // namespace
}  // namespace bidiffsr::tests
