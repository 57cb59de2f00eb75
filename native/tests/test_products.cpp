// Matrix products of each kernel, and rounding to bfloat16, against exact arithmetic.
#include <algorithm>
#include <cfloat>
#include <cstring>

#include "check.h"
#include "kernel_helpers.h"
#include "kernels/kernel.h"
#include "ops/panels.h"

namespace bidiffsr::tests {
namespace {

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
      // Where the inputs come in parts, they are those of one row all the same.
      int parts = accumulate ? 2 : with_bias ? 3 : 1;
      if (k % (parts * step)) parts = 1;
      std::vector<float> c = before;
      Gemm job{};
      job.parts = parts;
      for (int part = 0; part < parts; ++part) job.a[part] = a.data() + part * k / parts;
      job.a_stride = a_stride;
      job.b = b.data();
      job.c = c.data();
      job.c_stride = c_stride;
      job.m = m;
      job.n = n;
      job.k = k / parts;
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
    // Whole tiles of 16 and 32 rows and inputs, and what is left of them.
    for (const int m : {1, 2, 5, 6, 7, 13, 16, 31, 48, 83})
      for (const int n : {16, 32, 48, 64, 80, 144})
        for (const int k : {2, 4, 18, 64, 96, 144})
          check_gemm<std::uint16_t>(kernel.gemm_bf16, random, m, n, k, 2, to_bfloat16);
  });
}

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

}  // namespace
}  // namespace bidiffsr::tests
