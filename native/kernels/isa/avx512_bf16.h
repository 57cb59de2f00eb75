// All kernels of AVX-512 with BF16; for inclusion in an anonymous namespace.

#include "kernels/isa/avx512.h"

// Before the generic code, whose templates look it up.
inline Isa::Float load(const std::uint16_t* x) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(Isa::kAll, half);
  return (Isa::Float)_mm512_maskz_slli_epi32(Isa::kAll, wide, 16);
}

#include "kernels/generic/all.h"

struct DotBf16 {
  using Element = std::uint16_t;
  static constexpr int kStep = 2;
  static inline Float weights(const Element* b) { return load(reinterpret_cast<const float*>(b)); }
  static inline Float broadcast(const Element* a) {
    float pair;
    __builtin_memcpy(&pair, a, sizeof pair);
    return (Float)_mm512_set1_ps(pair);
  }
  static inline Float add(Float sum, Float a, Float b) {
    return (Float)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512)a, (__m512bh)(__m512)b);
  }
};

template <int Wide>
struct RoundBf16 {
  using Element = std::uint16_t;
  static constexpr int kWide = Wide;
  static inline void put(Element* to, const Float* value) {
    if constexpr (Wide == 2)
      _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)value[1], (__m512)value[0]));
    else
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          (__m256i)_mm512_cvtneps_pbh((__m512)*value));
  }
};

void gemm_bf16(const Gemm& job) { gemm<DotBf16>(job); }
double peak_bf16(int rounds) { return peak_of<DotBf16>(rounds); }
void winograd_input_bf16(const WinogradInput& job) {
  winograd_input<WinogradF4, RoundBf16<2>, RoundBf16<1>>(job);
}

// bfloat16 to and fro, except for results that signs will read.
struct RoundedResults {
  const WinogradOutput& job;
  inline Float add(std::ptrdiff_t at, Float value) const {
    return job.bfloat16_residual ? value + load(job.bfloat16_residual + at)
                                 : PlainResults{job}.add(at, value);
  }
  inline void put(std::ptrdiff_t at, Float value) const {
    if (job.bfloat16_output)
      RoundBf16<1>::put(job.bfloat16_output + at, &value);
    else
      store(job.output + at, value);
  }
};

template <class F>
void rounded_output(const WinogradOutput& job) {
  winograd_results<F, RoundedResults>(job);
}

void round_bf16(const float* x, std::uint16_t* output, std::size_t count) {
  for (; count >= 32; count -= 32, x += 32, output += 32) {
    const Float pair[2] = {load(x), load(x + 16)};
    RoundBf16<2>::put(output, pair);
  }
  if (count) {
    float rest[32] = {};
    std::uint16_t rounded[32];
    __builtin_memcpy(rest, x, count * sizeof *x);
    const Float pair[2] = {load(rest), load(rest + 16)};
    RoundBf16<2>::put(rounded, pair);
    __builtin_memcpy(output, rounded, count * sizeof *output);
  }
}

constexpr Kernel make_bf16_kernel(const char* name) {
  Kernel kernel = make_kernel(name);
  kernel.bfloat16 = true;
  kernel.gemm_bf16 = gemm_bf16;
  kernel.winograd4_bf16 = {winograd_input_bf16, rounded_output<WinogradF4>};
  kernel.normalize_row_bf16 = normalize_row<std::uint16_t>;
  kernel.round_bf16 = round_bf16;
  kernel.peak_bf16 = peak_bf16;
  return kernel;
}
