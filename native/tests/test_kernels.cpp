// The functions of each kernel against slow loops in double precision. Binary convolutions are in
// test_convs.cpp.
#include <algorithm>
#include <array>
#include <cfloat>
#include <cstring>
#include <limits>

#include "check.h"
#include "convs.h"
#include "pass.h"

namespace bidiffsr::tests {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kSlack = 64;  // floats that whole vectors may reach past the end

std::size_t size(int a, int b = 1, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

float from_bfloat16(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

TEST(sign_row_packs_bits) {
  Random random(2);
  for_each_kernel([&](const Kernel& kernel) {
    for (const int channels : {1, 15, 16, 17, 48, 64, 65, 100, 128, 200})
      for (const int width : {1, 2, 3, 9}) {
        const int wide = padded(channels), words = (channels + 63) / 64, stride = wide + 16;
        std::vector<float> x = random.floats(size(width, stride) + kSlack);
        std::vector<float> threshold = random.floats(size(wide));
        const float special[] = {-0.0f, 0.0f, kInfinity, -kInfinity, kNan, -kNan};
        for (int i = 0; i < width * stride; i += 3) {
          x[size(i)] = special[i / 3 % 6];
          threshold[size(i % wide)] = i % 4 ? threshold[size(i % wide)] : 0.0f;
        }
        for (int c = channels; c < wide; ++c) threshold[size(c)] = kNan;
        std::vector<std::uint64_t> bits(size(width, words) + kSlack, ~std::uint64_t{0});
        kernel.sign_row(x.data(), stride, width, wide, threshold.data(), bits.data(), words);
        for (int pixel = 0; pixel < width; ++pixel)
          for (int c = 0; c < 64 * words; ++c) {
            const bool found = (bits[size(pixel * words + c / 64)] >> (c % 64)) & 1;
            const float value = c < channels ? x[size(pixel * stride + c)] : kNan;
            const bool wanted = c < channels && value >= threshold[size(c)];
            CHECK_THAT(found == wanted, text("channels", channels) + text("channel", c) +
                                            text("x", static_cast<double>(value)));
          }
      }
  });
}

TEST(normalize_row_scales_and_squashes) {
  Random random(3);
  for_each_kernel([&](const Kernel& kernel) {
    for (const int channels : {16, 48, 208})
      for (const int width : {1, 3, 8})
        for (const bool silu : {false, true}) {
          const std::size_t count = size(width, channels);
          std::vector<float> x = random.floats(count, -30, 30);
          x[0] = 1e30f, x[1] = -1e30f, x[2] = 0.0f, x[3] = -200.0f;
          const std::vector<float> scale = random.floats(size(channels), -3, 3);
          const std::vector<float> shift = random.floats(size(channels), -3, 3);
          std::vector<float> output(count);
          kernel.normalize_row(x.data(), output.data(), width, channels, scale.data(), shift.data(),
                               silu);
          for (std::size_t i = 0; i < count; ++i) {
            const std::size_t c = i % size(channels);
            const double product = static_cast<double>(scale[c]) * static_cast<double>(x[i]);
            double wanted = product + static_cast<double>(shift[c]);
            if (silu) wanted /= 1 + std::exp(-wanted);
            CHECK_THAT(near(static_cast<double>(output[i]), wanted, 2e-6, 1 + std::abs(product)),
                       text("x", static_cast<double>(x[i])) + text("wanted", wanted) +
                           text("found", static_cast<double>(output[i])));
          }
        }
  });
}

TEST(sum_row_adds_up_channels) {
  Random random(4);
  for_each_kernel([&](const Kernel& kernel) {
    for (const int channels : {16, 80})
      for (const int width : {1, 2, 33}) {
        const std::vector<float> x = random.floats(size(width, channels), -2, 3);
        std::vector<float> sum(size(channels)), square(size(channels));
        kernel.sum_row(x.data(), width, channels, sum.data(), square.data());
        for (std::size_t c = 0; c < size(channels); ++c) {
          double s = 0, q = 0;
          for (std::size_t i = c; i < x.size(); i += size(channels)) {
            s += static_cast<double>(x[i]);
            q += static_cast<double>(x[i]) * static_cast<double>(x[i]);
          }
          CHECK(near(static_cast<double>(sum[c]), s, 1e-6, 1 + 3.0 * width));
          CHECK(near(static_cast<double>(square[c]), q, 1e-6, 1 + 9.0 * width));
        }
      }
  });
}

// One product against the sum in double. `Element` is what a and b are stored as.
template <class Element, class Round>
void check_gemm(void (*product)(const Gemm&), Random& random, int m, int n, int k, int step,
                const Round& round) {
  const int a_stride = round_up(k, 2) + 6, c_stride = n + 16;
  std::vector<Element> a(size(m, a_stride) + kSlack), b(size(n, k));
  for (Element& each : a) each = round(random.uniform());
  for (Element& each : b) each = round(random.uniform());
  const auto value = [](Element each) -> double {
    if constexpr (sizeof(Element) == sizeof(float))
      return static_cast<double>(each);
    else
      return static_cast<double>(from_bfloat16(each));
  };
  const std::vector<float> bias = random.floats(size(n)), before = random.floats(size(m, c_stride));
  for (const bool with_bias : {false, true})
    for (const bool accumulate : {false, true}) {
      std::vector<float> c = before;
      Gemm job{};
      job.a = a.data();
      job.a_stride = a_stride;
      job.b = b.data();
      job.c = c.data();
      job.c_stride = c_stride;
      job.m = m;
      job.n = n;
      job.k = k;
      job.bias = with_bias ? bias.data() : nullptr;
      job.accumulate = accumulate;
      product(job);
      for (int row = 0; row < m; ++row)
        for (int column = 0; column < c_stride; ++column) {
          const std::size_t at = size(row * c_stride + column);
          double wanted = static_cast<double>(before[at]);
          if (column < n) {
            if (!accumulate) wanted = 0;
            if (with_bias) wanted += static_cast<double>(bias[size(column)]);
            for (int i = 0; i < k; ++i) {
              const int panel = column / kPanel * kPanel * k;
              const int place = (i / step * kPanel + column % kPanel) * step + i % step;
              wanted += value(a[size(row * a_stride + i)]) * value(b[size(panel + place)]);
            }
          }
          CHECK_THAT(near(static_cast<double>(c[at]), wanted, 2e-7, 2 + k),
                     text("m", m) + text("n", n) + text("k", k) + text("row", row) +
                         text("column", column) + text("wanted", wanted) +
                         text("found", static_cast<double>(c[at])));
        }
    }
}

TEST(gemm_f32_multiplies) {
  Random random(5);
  for_each_kernel([&](const Kernel& kernel) {
    for (const int m : {1, 2, 5, 6, 7, 13})
      for (const int n : {16, 32, 48, 64, 80, 144})
        for (const int k : {1, 2, 17, 64})
          check_gemm<float>(kernel.gemm_f32, random, m, n, k, 1, [](float x) { return x; });
  });
}

TEST(gemm_bf16_multiplies) {
  Random random(6);
  for_each_kernel([&](const Kernel& kernel) {
    if (!kernel.bfloat16) return;
    for (const int m : {1, 2, 5, 6, 7, 13})
      for (const int n : {16, 32, 48, 64, 80, 144})
        for (const int k : {2, 4, 18, 64})
          check_gemm<std::uint16_t>(kernel.gemm_bf16, random, m, n, k, 2, to_bfloat16);
  });
}

// ---- Winograd ----------------------------------------------------------------------------------

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

// ---- bfloat16 ----------------------------------------------------------------------------------

// The nearer of the two neighbours, the even one at a tie, in exact arithmetic.
bool is_rounded(float value, std::uint16_t found) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto low = static_cast<std::uint16_t>(bits >> 16);
  if (std::isnan(value)) return std::isnan(from_bfloat16(found));
  if (std::isinf(value) || (bits & 0xffff) == 0) return found == low;
  // Where the next one is infinite, it stands for 2^128.
  const auto magnitude = [](std::uint16_t half) {
    const float x = std::abs(from_bfloat16(half));
    return std::isinf(x) ? 0x1p128 : static_cast<double>(x);
  };
  const auto high = static_cast<std::uint16_t>(low + 1);
  const double exact = std::abs(static_cast<double>(value));
  const double below = exact - magnitude(low), above = magnitude(high) - exact;
  if (below == above) return found == (low % 2 ? high : low);
  return found == (below < above ? low : high);
}

std::vector<float> bfloat16_cases() {
  std::vector<float> values;
  for (std::uint32_t high = 0; high < 0x10000; ++high)
    for (const std::uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const std::uint32_t bits = high << 16 | low;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      values.push_back(value);
    }
  return values;
}

TEST(to_bfloat16_rounds) {
  for (const float value : bfloat16_cases())
    if (std::isfinite(value))
      CHECK_THAT(is_rounded(value, to_bfloat16(value)), text("x", static_cast<double>(value)));
}

TEST(round_bf16_rounds) {
  const std::vector<float> values = bfloat16_cases();
  for_each_kernel([&](const Kernel& kernel) {
    if (!kernel.bfloat16) return;
    std::vector<std::uint16_t> found(values.size());
    kernel.round_bf16(values.data(), found.data(), values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      // Instructions for it take numbers below the normal ones for zero.
      const bool zero = std::abs(values[i]) < FLT_MIN && (found[i] & 0x7fff) == 0;
      CHECK_THAT(zero || is_rounded(values[i], found[i]),
                 text("x", static_cast<double>(values[i])) + text("found", found[i]));
    }
    for (std::size_t count = 0; count < 50; ++count) {
      std::vector<std::uint16_t> part(count + 1, 0x1234);
      kernel.round_bf16(values.data() + 0x10000, part.data(), count);
      CHECK(std::equal(part.begin(), part.end() - 1, found.begin() + 0x10000));
      CHECK(part.back() == 0x1234);
    }
  });
}

// ---- the rest ----------------------------------------------------------------------------------

TEST(softmax_block_streams) {
  Random random(8);
  for_each_kernel([&](const Kernel& kernel) {
    for (const float range : {1.0f, 30.0f, 1e4f}) {
      constexpr int kRows = 3, kStride = 40;
      const std::vector<int> blocks{16, 7, 1, 33, 32};
      std::vector<double> scores[kRows];
      std::vector<float> found[kRows];
      float maximum[kRows], sum[kRows] = {}, decay[kRows];
      std::fill_n(maximum, kRows, -FLT_MAX);
      for (const int columns : blocks) {
        std::vector<float> block = random.floats(size(kRows, kStride) + kSlack, -range, range);
        for (int row = 0; row < kRows; ++row)
          for (int i = 0; i < columns; ++i)
            scores[row].push_back(static_cast<double>(block[size(row * kStride + i)]));
        kernel.softmax_block(block.data(), kStride, kRows, columns, maximum, sum, decay);
        for (int row = 0; row < kRows; ++row) {
          for (float& earlier : found[row]) earlier *= decay[row];
          for (int i = 0; i < columns; ++i) found[row].push_back(block[size(row * kStride + i)]);
        }
      }
      for (int row = 0; row < kRows; ++row) {
        const double top = *std::max_element(scores[row].begin(), scores[row].end());
        double total = 0;
        for (const double score : scores[row]) total += std::exp(score - top);
        CHECK(static_cast<double>(maximum[row]) == top);
        for (std::size_t i = 0; i < scores[row].size(); ++i)
          CHECK_THAT(
              near(static_cast<double>(found[row][i] / sum[row]),
                   std::exp(scores[row][i] - top) / total, 3e-6, 1),
              text("range", static_cast<double>(range)) + text("column", static_cast<double>(i)));
      }
    }
  });
}

TEST(scale_row_multiplies) {
  Random random(9);
  for_each_kernel([&](const Kernel& kernel) {
    for (const int count : {0, 1, 15, 16, 17, 100}) {
      const std::vector<float> before = random.floats(size(count + 1));
      std::vector<float> x = before;
      kernel.scale_row(x.data(), count, 0.7f);
      for (int i = 0; i < count; ++i) CHECK(x[size(i)] == before[size(i)] * 0.7f);
      CHECK(x.back() == before.back());
    }
  });
}

TEST(rows_are_shuffled) {
  Random random(10);
  for_each_kernel([&](const Kernel& kernel) {
    for (const int channels : {1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 50})
      for (const int width : {1, 2, 3, 8}) {
        const int narrow = padded(channels) + 16, wide = padded(4 * channels) + 16;
        const auto room = [](int pixels, int stride) { return size(pixels, stride) + kSlack; };
        const std::string about = text("channels", channels) + text("width", width);

        const std::vector<float> x = random.floats(room(width, wide));
        std::vector<float> even(room(width, narrow)), odd(room(width, narrow));
        kernel.split_row(x.data(), wide, width, channels, even.data(), odd.data(), narrow);
        for (int i = 0; i < width; ++i)
          for (int c = 0; c < channels; ++c) {
            CHECK_THAT(even[size(i * narrow + c)] == x[size(i * wide + 2 * c)], about);
            CHECK_THAT(odd[size(i * narrow + c)] == x[size(i * wide + 2 * c + 1)], about);
          }

        // Channel 4 c + 2 i + j of the small picture is pixel (i, j) of channel c of the large one.
        std::vector<float> rows[2];
        for (auto& row : rows) row = random.floats(room(2 * width, narrow));
        std::vector<float> small(room(width, wide));
        kernel.unshuffle_rows(rows[0].data(), rows[1].data(), narrow, width, channels, small.data(),
                              wide);
        std::vector<float> back[2];
        for (auto& row : back) row.resize(room(2 * width, narrow));
        kernel.shuffle_rows(small.data(), wide, width, channels, back[0].data(), back[1].data(),
                            narrow);
        for (int x_out = 0; x_out < 2 * width; ++x_out)
          for (int i = 0; i < 2; ++i)
            for (int c = 0; c < channels; ++c) {
              const float wanted = rows[i][size(x_out * narrow + c)];
              CHECK_THAT(small[size(x_out / 2 * wide + 4 * c + 2 * i + x_out % 2)] == wanted,
                         about);
              CHECK_THAT(back[i][size(x_out * narrow + c)] == wanted, about);
            }
      }
  });
}

TEST(kernels_are_chosen_by_name) {
  for_each_kernel([](const Kernel& kernel) { CHECK(&choose_kernel(kernel.name) == &kernel); });
  CHECK_THROWS(std::invalid_argument, choose_kernel("no such"), "");
  for (const KernelInfo& info : kernels())
    if (!info.supported) CHECK_THROWS(std::invalid_argument, choose_kernel(info.name), info.name);
  CHECK(kernels().back().name == "portable" && kernels().back().supported);
}

TEST(ceilings_are_measured) {
  for_each_kernel([](const Kernel& kernel) {
    CHECK(kernel.peak_binary(100) > 0);
    CHECK(kernel.peak_f32(100) > 0);
    CHECK(!kernel.bfloat16 || kernel.peak_bf16(100) > 0);
  });
}

}  // namespace
}  // namespace bidiffsr::tests
