// Weights of matrix products, packed as kernels read them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"
#include "runtime/aligned.h"
#include "runtime/layout.h"

namespace bidiffsr {

// To the nearest, ties to even; `value` is finite.
std::uint16_t to_bfloat16(float value);

// Weights of a product with k inputs, in panels (kernels/kernel.h), float32 or bfloat16.
class Panels {
 public:
  Panels() = default;
  // weight(output, input), each below n and k.
  template <class Weight>
  Panels(int n, int k, bool bfloat16, const Weight& weight) : n_(padded(n)), k_(k) {
    if (bfloat16) {
      k_ = round_up(k, 2);
      half_.resize(static_cast<std::size_t>(n_) * static_cast<std::size_t>(k_));
    } else {
      full_.resize(static_cast<std::size_t>(n_) * static_cast<std::size_t>(k_));
    }
    for (int o = 0; o < n; ++o)
      for (int i = 0; i < k; ++i) put(o, i, weight(o, i));
  }
  int n() const { return n_; }
  int k() const { return k_; }
  bool bfloat16() const { return !half_.empty(); }
  // From panel `panel` on.
  const void* data(int panel = 0) const {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(panel) * kPanel * k_;
    return bfloat16() ? static_cast<const void*>(half_.data() + at) : full_.data() + at;
  }

 private:
  void put(int output, int input, float value);

  int n_ = 0, k_ = 0;
  Aligned<float> full_;
  Aligned<std::uint16_t> half_;
};

// c = a · panels (+ bias): a in the panels' type.
void multiply(const Kernel& kernel, const Panels& panels, const void* a, std::ptrdiff_t a_stride,
              int m, float* c, std::ptrdiff_t c_stride, const float* bias, bool accumulate);

}  // namespace bidiffsr
