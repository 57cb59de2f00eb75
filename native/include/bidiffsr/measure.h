// What this CPU can do: loops in registers, and the binary convolution by itself.
#pragma once

#include <string>

namespace bidiffsr {

// Measured ceilings of this CPU, all threads together: binary and float multiply-accumulates and
// bytes copied per second (bytes read plus bytes written). `bf16` is 0 where there is none.
struct Ceilings {
  double binary, f32, bf16, copy;
};
// `kernel` and `threads` as in Engine.
Ceilings measure_ceilings(const std::string& kernel, int threads);

// Multiply-accumulates per second of the binarized 3×3 convolution, all threads together, from the
// rows of bits to float32 results with alpha, RPReLU, shortcut and sums; each thread goes over one
// row of `width` pixels that stays in its cache. `channels`, a multiple of 8, in and out. Throws
// std::invalid_argument.
double measure_binary_conv(const std::string& kernel, int threads, int channels, int width);

}  // namespace bidiffsr
