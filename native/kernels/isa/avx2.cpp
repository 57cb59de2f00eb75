#include <immintrin.h>

#include "kernels/kernel.h"

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

  static constexpr int kRows = 6;
  static constexpr int kPanels = 1;
};

// AVX2 has no population count, but looks 32 half bytes up at once. A table made of half a byte of
// activations tells how many of its bits differ from those of half a byte of weights.
struct Tables {
  constexpr Tables() : of{} {
    for (int byte = 0; byte < 256; ++byte)
      for (int i = 0; i < 16; ++i) {
        of[byte][i] = ones(i ^ (byte & 15));
        of[byte][16 + i] = ones(i ^ (byte >> 4));
      }
  }
  static constexpr std::uint8_t ones(int bits) {
    std::uint8_t count = 0;
    for (; bits; bits &= bits - 1) ++count;
    return count;
  }
  // A byte's low half's in the low lane, its high half's in the high one.
  alignas(64) std::uint8_t of[256][32];
};
constexpr Tables kTables;

class Counter {
  static constexpr int kVector = 32;  // bytes
  static constexpr int kBlock = 32;   // pixels whose totals are kept, a multiple of any tile's
  // Bytes of activations whose half bytes' counts, of up to 4, fit into a byte; and how many times
  // so many's fit into 16 bits, both halves together.
  static constexpr int kLongest = 255 / 4;
  static constexpr int kParts = 65535 / (2 * 4 * kLongest);

 public:
  static constexpr int kPixels = 2;
  static constexpr int kPanels = 4;
  static constexpr int kWeightWords = 2;
  static constexpr int kVectors = kPanel / Isa::kLanes;

  // A byte for each half byte: [panels / kPanels][bytes][kPanels][2][kPanel]. The last group may
  // have fewer panels.
  static void arrange(const std::uint64_t* signs, int panels, int words, std::uint64_t* weights) {
    auto* to = reinterpret_cast<std::uint8_t*>(weights);
    for (int group = 0; group < panels; group += kPanels)
      for (int byte = 0; byte < 8 * words; ++byte)
        for (int panel = group; panel < group + kPanels && panel < panels; ++panel, to += kVector)
          for (int o = 0; o < kPanel; ++o) {
            const std::uint64_t word =
                signs[(static_cast<std::ptrdiff_t>(panel) * words + byte / 8) * kPanel + o];
            const auto bits = static_cast<std::uint8_t>(word >> (byte % 8 * 8));
            to[o] = bits & 15;
            to[kPanel + o] = bits >> 4;
          }
  }

  static int pixels(const BinaryRow&) { return kBlock; }

  template <int Kernel>
  void prepare(const BinaryRow& job, int x, int panel) {
    const int panels = job.channels / kPanel - panel;
    if (panels >= 4)
      count_block<Kernel, 4>(job, x, panel);
    else if (panels == 3)
      count_block<Kernel, 3>(job, x, panel);
    else if (panels == 2)
      count_block<Kernel, 2>(job, x, panel);
    else
      count_block<Kernel, 1>(job, x, panel);
  }

  template <int Kernel>
  inline void counts(const BinaryRow&, int x, int panel,
                     Isa::Int (&counts)[kPixels][kVectors]) const {
#pragma GCC unroll 2
    for (int p = 0; p < kPixels; ++p) sum(panel % kPanels, x % kBlock + p, counts[p]);
  }

  // The loop of `peak_binary`.
  struct Ceiling {
    static constexpr int kCounters = 6;
    static constexpr int kLoads = 2;  // of tables; with one, the loop itself would show
    static constexpr double kProducts = 4.0 * kVector * kCounters * kLoads;
    __m256i counters[kCounters] = {}, weights[kCounters] = {};
    inline void step(int i) {
#pragma GCC unroll 2
      for (int l = 0; l < kLoads; ++l) {
        const __m256i table = load(kTables.of[(kLoads * i + l) & 255]);
#pragma GCC unroll 8
        for (int c = 0; c < kCounters; ++c)
          counters[c] = _mm256_add_epi8(counters[c], _mm256_shuffle_epi8(table, weights[c]));
      }
    }
  };

 private:
  static inline __m256i load(const void* x) {
    return _mm256_load_si256(static_cast<const __m256i*>(x));
  }
  static inline void store(void* to, __m256i value) {
    _mm256_store_si256(static_cast<__m256i*>(to), value);
  }
  // From here on in a register. GCC would rather load a value again for each use, which is more
  // than two loads a cycle, and hold a sum twice, once for each of its halves.
  static inline void hold(__m256i& value) { asm("" : "+x"(value)); }

  // The bits under the kernel part by part, each for all pixels of the block, so that its weights
  // stay in the first-level cache as the tables do.
  template <int Kernel, int Panels>
  void count_block(const BinaryRow& job, int x, int panel) {
    constexpr int kRows = Kernel == 3 ? 3 : 1;
    const int width = job.width - x < kBlock ? job.width - x : kBlock;
    const int stored = 8 * (Kernel ? Kernel * job.words : job.window_words);
    const int bytes = Kernel ? stored : stored - __builtin_clzll(job.window_mask) / 8;
    const std::ptrdiff_t step =
        Kernel ? static_cast<std::ptrdiff_t>(8) * job.stride * job.words : job.window_step;
    const auto* weights = reinterpret_cast<const std::uint8_t*>(job.weights) +
                          static_cast<std::ptrdiff_t>(panel) * kRows * stored * kVector;
    const int parts = (bytes + kLongest - 1) / kLongest;  // a row, all about as long
    const int longest = (bytes + parts - 1) / parts;
    int part = 0;
    carries_ = 0;
    for (int row = 0; row < kRows; ++row) {
      const auto* bits =
          (Kernel ? reinterpret_cast<const std::uint8_t*>(job.rows[row]) : job.window) + x * step;
      for (int byte = 0; byte < bytes; byte += longest, ++part) {
        const int length = bytes - byte < longest ? bytes - byte : longest;
        if (part % kParts) {
          count<Panels, true>(bits + byte, step, width, weights, length);
        } else {
          if (part) carry(Panels, width);
          count<Panels, false>(bits + byte, step, width, weights, length);
        }
        weights += length * Panels * kVector;
      }
    }
  }

  // One part: to the totals, or in their place.
  template <int Panels, bool Add>
  __attribute__((noinline)) void count(const std::uint8_t* bits, std::ptrdiff_t step, int width,
                                       const std::uint8_t* weights, int length) {
    constexpr int kTile = 8 / Panels;
    for (int x = 0; x < width; x += kTile, bits += kTile * step) {
      __m256i sums[kTile][Panels] = {};
      const std::uint8_t* at = weights;
      for (int i = 0; i < length; ++i, at += Panels * kVector) {
        __m256i w[Panels];
#pragma GCC unroll 4
        for (int n = 0; n < Panels; ++n) {
          w[n] = load(at + n * kVector);
          if (n < 2) hold(w[n]);
        }
#pragma GCC unroll 8
        for (int p = 0; p < kTile; ++p) {
          const __m256i table = load(kTables.of[bits[p * step + i]]);
#pragma GCC unroll 4
          for (int n = 0; n < Panels; ++n)
            sums[p][n] = _mm256_add_epi8(sums[p][n], _mm256_shuffle_epi8(table, w[n]));
        }
      }
#pragma GCC unroll 8
      for (int p = 0; p < kTile; ++p)
#pragma GCC unroll 4
        for (int n = 0; n < Panels; ++n) {
          hold(sums[p][n]);
          auto& total = totals_[n][x + p];
          __m256i even = _mm256_and_si256(sums[p][n], _mm256_set1_epi16(255));
          __m256i odd = _mm256_srli_epi16(sums[p][n], 8);
          if constexpr (Add) {
            even = _mm256_add_epi16(even, load(total[0]));
            odd = _mm256_add_epi16(odd, load(total[1]));
          }
          store(total[0], even);
          store(total[1], odd);
        }
    }
  }

  // What one panel's outputs have so far at one pixel.
  inline void sum(int panel, int x, Isa::Int (&counts)[kVectors]) const {
    const auto& total = totals_[panel][x];
    const __m128i even = sum_lanes(load(total[0])), odd = sum_lanes(load(total[1]));
    counts[0] = (Isa::Int)_mm256_cvtepu16_epi32(_mm_unpacklo_epi16(even, odd));
    counts[1] = (Isa::Int)_mm256_cvtepu16_epi32(_mm_unpackhi_epi16(even, odd));
    if (carries_) [[unlikely]] {
      counts[0] += (Isa::Int)load(carried_[panel][x]);
      counts[1] += (Isa::Int)load(carried_[panel][x] + Isa::kLanes);
    }
  }
  static inline __m128i sum_lanes(__m256i x) {
    return _mm_add_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }
  // Takes the totals away before 16 bits overflow.
  void carry(int panels, int width) {
    for (int panel = 0; panel < panels; ++panel)
      for (int x = 0; x < width; ++x) {
        Isa::Int counts[kVectors];
        sum(panel, x, counts);
        __builtin_memcpy(carried_[panel][x], counts, sizeof counts);
      }
    ++carries_;
  }

  // Of even and of odd outputs, for each half of the bytes.
  alignas(64) std::uint16_t totals_[kPanels][kBlock][2][kPanel];
  alignas(64) std::int32_t carried_[kPanels][kBlock][kPanel];
  int carries_;
};

#include "kernels/generic/all.h"
}  // namespace

extern const Kernel kAvx2;
const Kernel kAvx2 = make_kernel("avx2");

}  // namespace bidiffsr
