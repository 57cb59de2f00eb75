#include <arm_neon.h>

#include "kernels/kernel.h"

namespace bidiffsr {
namespace {

struct Isa {
  static constexpr int kLanes = 4;
  using Float = float __attribute__((vector_size(16)));
  using Int = std::int32_t __attribute__((vector_size(16)));
  static inline unsigned at_least(Float a, Float b) {
    const uint32x4_t bit = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgeq_f32((float32x4_t)a, (float32x4_t)b), bit));
  }
  static inline Float round(Float a) { return (Float)vrndnq_f32((float32x4_t)a); }

  static constexpr int kWordLanes = 2;
  using Words = std::uint64_t __attribute__((vector_size(16)));
  using Bytes = std::uint8_t __attribute__((vector_size(16)));
  using Partial = Bytes;  // counts per byte, which takes 31 times 8
  using Total = Words;
  static constexpr int kFlush = 31;
  static inline Words load(const std::uint64_t* x) { return (Words)vld1q_u64(x); }
  static inline Words broadcast(std::uint64_t x) { return (Words)vdupq_n_u64(x); }
  static inline Partial count(Partial sum, Words bits) {
    return sum + (Bytes)vcntq_u8((uint8x16_t)bits);
  }
  static inline Total flush(Total total, Partial partial) {
    return total + (Words)vpaddlq_u32(vpaddlq_u16(vpaddlq_u8((uint8x16_t)partial)));
  }
  static inline Int narrow(Total low, Total high) {
    return (Int)vcombine_u32(vmovn_u64((uint64x2_t)low), vmovn_u64((uint64x2_t)high));
  }

  static constexpr int kPixels = 2;
  static constexpr int kRows = 6;
  static constexpr int kPanels = 1;
};

#include "kernels/generic/popcount.h"

#include "kernels/generic/all.h"
}  // namespace

extern const Kernel kNeon;
const Kernel kNeon = make_kernel("neon");

}  // namespace bidiffsr
