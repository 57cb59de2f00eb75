#include "ops/panels.h"

#include <cstring>

namespace bidiffsr {

std::uint16_t to_bfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void Panels::put(int output, int input, float value) {
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(output / kPanel) * kPanel * k_;
  const int column = output % kPanel;
  if (bfloat16())
    half_[static_cast<std::size_t>(panel + (input / 2 * kPanel + column) * 2 + input % 2)] =
        to_bfloat16(value);
  else
    full_[static_cast<std::size_t>(panel + input * kPanel + column)] = value;
}

void multiply(const Kernel& kernel, const Panels& panels, const void* a, std::ptrdiff_t a_stride,
              int m, float* c, std::ptrdiff_t c_stride, const float* bias, bool accumulate) {
  const Gemm job{{a}, 1,          a_stride,   panels.data(), c,         c_stride,
                 m,   panels.n(), panels.k(), bias,          accumulate};
  (panels.bfloat16() ? kernel.gemm_bf16 : kernel.gemm_f32)(job);
}

}  // namespace bidiffsr
