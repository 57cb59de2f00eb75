#include "upscaling/noise.h"

#include <cmath>
#include <cstddef>
#include <numbers>

// Only operations that IEEE 754 rounds correctly touch the values, in the order in which
// bidiffsr.diffusion.noise does them: the same bytes on every machine.

namespace bidiffsr {

namespace {

constexpr double kLn2 = 0.6931471805599453;

struct Pair {
  double first, second;
};

// The sum of coefficients[k] · variable^k, by Horner's rule.
template <std::size_t Count>
double series(double variable, const std::array<double, Count>& coefficients) {
  double total = variable * coefficients[Count - 1];
  for (std::size_t k = Count - 2; k > 0; --k) total = (total + coefficients[k]) * variable;
  return total + coefficients[0];
}

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }
// Taylor coefficients in powers of the squared argument.
template <std::size_t Count, class Term>
constexpr std::array<double, Count> coefficients(Term term) {
  std::array<double, Count> result{};
  for (std::size_t k = 0; k < Count; ++k) result[k] = term(static_cast<int>(k));
  return result;
}
constexpr auto kAtanh = coefficients<8>([](int k) { return 1.0 / (2 * k + 1); });
constexpr auto kSin =
    coefficients<7>([](int k) { return (k % 2 ? -1 : 1) / factorial(2 * k + 1); });
constexpr auto kCos = coefficients<8>([](int k) { return (k % 2 ? -1 : 1) / factorial(2 * k); });

// ln((word + 1/2) / 2^32), from ln m = 2 atanh((m - 1) / (m + 1)) with m near 1.
double log_of_midpoint(std::uint32_t word) {
  int exponent = 0;
  double mantissa = std::frexp(word + 0.5, &exponent);
  if (mantissa < std::sqrt(0.5)) {
    mantissa += mantissa;
    --exponent;
  }
  const double ratio = (mantissa - 1.0) / (mantissa + 1.0);
  const double half = series(ratio * ratio, kAtanh) * ratio;
  return half + half + (exponent - 32.0) * kLn2;
}

// Cosine and sine of 2 pi (word + 1/2) / 2^32, by quarter turns and a rest within pi/4.
Pair cos_sin_of_midpoint(std::uint32_t word) {
  const auto quarter = static_cast<std::uint32_t>((std::uint64_t{word} + (1u << 29)) >> 30);
  double rest = word + 0.5;
  rest -= quarter * 0x1p30;
  rest *= 2.0 * std::numbers::pi / 0x1p32;
  const double square = rest * rest;
  const double cosine = series(square, kCos), sine = series(square, kSin) * rest;
  switch (quarter % 4) {
    case 0:
      return {cosine, sine};
    case 1:
      return {-sine, cosine};
    case 2:
      return {-cosine, -sine};
    default:
      return {sine, -cosine};
  }
}

// Two independent standard normals of two uniform words (Box and Muller, 1958).
Pair box_muller(std::uint32_t radius_word, std::uint32_t angle_word) {
  const double radius = std::sqrt(log_of_midpoint(radius_word) * -2.0);
  const Pair turn = cos_sin_of_midpoint(angle_word);
  return {turn.first * radius, turn.second * radius};
}

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) {
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

void normal_noise_row(const NoiseSource& source, std::uint32_t y, int width, float scale,
                      const std::array<float*, 3>& channels) {
  const std::array<std::uint32_t, 2> key{static_cast<std::uint32_t>(source.seed),
                                         static_cast<std::uint32_t>(source.seed >> 32)};
  for (int x = 0; x < width; ++x) {
    const auto words =
        philox4x32({static_cast<std::uint32_t>(x), y, source.sample, source.stream << 16}, key);
    const Pair first = box_muller(words[0], words[1]);
    channels[0][x] = static_cast<float>(first.first) * scale;
    channels[1][x] = static_cast<float>(first.second) * scale;
    channels[2][x] = static_cast<float>(box_muller(words[2], words[3]).first) * scale;
  }
}

}  // namespace bidiffsr
