// What the tests of kernels' functions share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace bidiffsr::tests {

inline constexpr std::size_t kSlack = 64;  // floats that whole vectors may reach past the end

inline std::size_t size(int a, int b = 1, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

inline float from_bfloat16(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace bidiffsr::tests
