// The functions of each kernel against slow loops in double precision. Products are in
// test_products.cpp, Winograd's transforms in test_winograd.cpp, binary convolutions in
// test_convs.cpp.
#include "kernels/kernel.h"

#include <algorithm>
#include <cfloat>
#include <limits>

#include "check.h"
#include "kernel_helpers.h"
#include "runtime/layout.h"

namespace bidiffsr::tests {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

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
        for (const Silu silu : {Silu::kNone, Silu::kExact, Silu::kRough}) {
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
            if (silu != Silu::kNone) wanted /= 1 + std::exp(-wanted);
            const double tolerance = silu == Silu::kRough ? 1e-4 : 2e-6;
            CHECK_THAT(
                near(static_cast<double>(output[i]), wanted, tolerance, 1 + std::abs(product)),
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
