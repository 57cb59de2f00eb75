// What this CPU can do: loops in registers, and the binary convolution by itself.
#pragma once

#include <string>

namespace bidiffsr {

// Measured ceilings of this CPU, all threads together: binary and float multiply-accumulates and
// bytes copied per second (bytes read plus bytes written).
struct Ceilings {
  double binary, f32, bf16, copy;
};
Ceilings measure_ceilings(const std::string& kernel, int threads);

// Multiply-accumulates per second of the binarized 3×3 convolution, all threads together, from the
// rows of bits to float32 results with alpha, RPReLU, shortcut and sums; each thread goes over one
// row of `width` pixels that stays in its cache. `channels` in and out.
double measure_binary_conv(const std::string& kernel, int threads, int channels, int width);

}  // namespace bidiffsr
