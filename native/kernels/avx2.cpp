#include <immintrin.h>

#include "kernels/kernel.h"
#include "kernels/winograd.h"

namespace bidiffsr {
namespace {

struct Isa {
  static constexpr int kLanes = 8;
  using Float = float __attribute__((vector_size(32)));
  using Int = std::int32_t __attribute__((vector_size(32)));
  static inline unsigned at_least(Float a, Float b) {
    return static_cast<unsigned>(
        _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ)));
  }
  static inline Float round(Float a) {
    return (Float)_mm256_round_ps((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }

  static constexpr int kWordLanes = 4;
  using Words = std::uint64_t __attribute__((vector_size(32)));
  using Bytes = std::uint8_t __attribute__((vector_size(32)));
  using Partial = Bytes;  // counts per byte, which takes 31 times 8
  using Total = Words;
  static constexpr int kFlush = 31;
  static inline Words load(const std::uint64_t* x) {
    return (Words)_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  }
  static inline Words broadcast(std::uint64_t x) {
    return (Words)_mm256_set1_epi64x(static_cast<long long>(x));
  }
  // One bits of each half byte by table (Muła et al. 2017).
  static inline Partial count(Partial sum, Words bits) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i low = _mm256_and_si256((__m256i)bits, nibble);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16((__m256i)bits, 4), nibble);
    return sum + (Bytes)_mm256_shuffle_epi8(table, low) + (Bytes)_mm256_shuffle_epi8(table, high);
  }
  static inline Total flush(Total total, Partial partial) {
    return total + (Words)_mm256_sad_epu8((__m256i)partial, _mm256_setzero_si256());
  }
  static inline Int narrow(Total low, Total high) {
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    const __m256i a = _mm256_permutevar8x32_epi32((__m256i)low, order);
    const __m256i b = _mm256_permutevar8x32_epi32((__m256i)high, order);
    return (Int)_mm256_permute2x128_si256(a, b, 0x20);
  }

  static constexpr int kPixels = 2;
  static constexpr int kRows = 6;
  static constexpr int kPanels = 1;
};

#include "kernels/popcount.h"

#include "kernels/generic.h"
}  // namespace

extern const Kernel kAvx2;
const Kernel kAvx2 = make_kernel("avx2");

}  // namespace bidiffsr
