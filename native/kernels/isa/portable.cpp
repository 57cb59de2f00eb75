#include "kernels/kernel.h"

namespace bidiffsr {
namespace {

struct Isa {
  static constexpr int kLanes = 4;
  using Float = float __attribute__((vector_size(16)));
  using Int = std::int32_t __attribute__((vector_size(16)));
  static inline unsigned at_least(Float a, Float b) {
    unsigned bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>(a[i] >= b[i]) << i;
    return bits;
  }
  static inline Float round(Float a) {
    const Float magic = Float{} + 12582912.0f;  // 1.5 · 2^23, beyond which floats are integers
    return (a + magic) - magic;
  }

  static constexpr int kWordLanes = 2;
  using Words = std::uint64_t __attribute__((vector_size(16)));
  using Partial = Words;
  using Total = Words;
  static constexpr int kFlush = 0;
  static inline Words load(const std::uint64_t* x) { return Words{x[0], x[1]}; }
  static inline Words broadcast(std::uint64_t x) { return Words{x, x}; }
  // Sums of neighbouring bits, then pairs, then bytes: a compiler's builtin would call a function.
  static inline Partial count(Partial sum, Words bits) {
    bits -= (bits >> 1) & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + ((bits >> 2) & 0x3333333333333333u);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    bits += bits >> 8;
    bits += bits >> 16;
    bits += bits >> 32;
    return sum + (bits & 0x7fu);
  }
  static inline Total flush(Total, Partial partial) { return partial; }
  static inline Int narrow(Total low, Total high) {
    return Int{static_cast<std::int32_t>(low[0]), static_cast<std::int32_t>(low[1]),
               static_cast<std::int32_t>(high[0]), static_cast<std::int32_t>(high[1])};
  }

  static constexpr int kPixels = 1;
  static constexpr int kRows = 2;
  static constexpr int kPanels = 1;
};

#include "kernels/generic/popcount.h"

#include "kernels/generic/all.h"
}  // namespace

extern const Kernel kPortable;
const Kernel kPortable = make_kernel("portable");

}  // namespace bidiffsr
