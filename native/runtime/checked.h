// Sizes of memory. A picture may be larger than `int` counts, and a size that wraps around would be
// too small for what is written there.
#pragma once

#include <concepts>
#include <cstddef>
#include <stdexcept>

namespace bidiffsr {

[[noreturn]] inline void throw_too_large() {
  throw std::length_error("too large for memory: cut the picture into tiles");
}

// The product of the sizes; std::length_error if one is negative or no memory is as large.
template <std::integral... Sizes>
std::size_t checked_product(Sizes... sizes) {
  std::ptrdiff_t product = 1;
  bool wrong = false;
  ((wrong = wrong || sizes < Sizes{0} || __builtin_mul_overflow(product, sizes, &product)), ...);
  if (wrong) throw_too_large();
  return static_cast<std::size_t>(product);
}

// Bytes of an array of T with these dimensions.
template <class T, std::integral... Sizes>
std::size_t checked_bytes(Sizes... sizes) {
  return checked_product(sizeof(T), sizes...);
}

}  // namespace bidiffsr
