// Primitives of AVX-512 with VPOPCNTDQ; for inclusion in an anonymous namespace.

struct Isa {
  static constexpr int kLanes = 16;
  using Float = float __attribute__((vector_size(64)));
  using Int = std::int32_t __attribute__((vector_size(64)));
  static inline unsigned at_least(Float a, Float b) {
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
  }
  // GCC warns of its own headers where an operation is not masked.
  static constexpr __mmask16 kAll = 0xffff;
  static inline Float round(Float a) {
    return (Float)_mm512_maskz_roundscale_ps(kAll, (__m512)a, _MM_FROUND_TO_NEAREST_INT);
  }
  static inline Float power(Float a, Float n) {
    return (Float)_mm512_maskz_scalef_ps(kAll, (__m512)a, (__m512)n);
  }
  static inline Float estimate_reciprocal(Float a) {
    return (Float)_mm512_maskz_rcp14_ps(kAll, (__m512)a);
  }

  static constexpr int kWordLanes = 8;
  using Words = std::uint64_t __attribute__((vector_size(64)));
  using Partial = Words;
  using Total = Words;
  static constexpr int kFlush = 0;  // a count of 64 bits never overflows
  static inline Words load(const std::uint64_t* x) { return (Words)_mm512_loadu_si512(x); }
  static inline Words broadcast(std::uint64_t x) {
    return (Words)_mm512_set1_epi64(static_cast<long long>(x));
  }
  static inline Partial count(Partial sum, Words bits) {
    return sum + (Words)_mm512_popcnt_epi64((__m512i)bits);
  }
  static inline Total flush(Total, Partial partial) { return partial; }
  static inline Int narrow(Total low, Total high) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14,  //
                                           16, 18, 20, 22, 24, 26, 28, 30);
    return (Int)_mm512_permutex2var_epi32((__m512i)low, even, (__m512i)high);
  }

  static constexpr int kPixels = 8;
  static constexpr int kRows = 6;
  static constexpr int kPanels = 4;
};

#include "kernels/generic/popcount.h"
