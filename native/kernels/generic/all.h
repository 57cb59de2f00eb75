// Every kernel's algorithms, written once over the primitives that an instruction set gives in a
// struct `Isa` (docs/engine.md, "Adding an instruction set"):
//
//   kLanes          float lanes of a vector, at most kPanel
//   Float, Int      vectors of kLanes floats and of as many int32 (GCC vector extension)
//   at_least(a, b)  bit i is whether a[i] >= b[i]
//   round(a)        to the nearest integers
//   power(a, n)     a · 2^n, for any n; optional
//   estimate_reciprocal(a)  1 / a to 14 bits; optional
//   kRows, kPanels  rows and panels of a tile of a matrix product
//
// and over a `Counter` of differing bits (popcount.h, or a set's own):
//
//   kWeightWords, arrange  `weight_words` and `arrange_signs` of the table
//   kPanels, pixels(job)   panels of outputs and pixels of a row that are counted together
//   prepare                for these
//   kPixels         pixels whose counts are asked for at once, at most kPixelSlack
//   counts          of so many and one panel, after prepare
//   Ceiling         the loop of `peak_binary`: step, and kProducts of one
//
// It is included inside the anonymous namespace of each such file: nothing of it is exported.

// clang-format off: in this order, for each builds on those before it
#include "kernels/generic/vector.h"
#include "kernels/generic/binary.h"
#include "kernels/generic/signs.h"
#include "kernels/generic/normalize.h"
#include "kernels/generic/gemm.h"
#include "kernels/generic/winograd.h"
#include "kernels/generic/softmax.h"
#include "kernels/generic/shuffle.h"
#include "kernels/generic/ceilings.h"
// clang-format on

constexpr Kernel make_kernel(const char* name) {
  Kernel kernel{};
  kernel.name = name;
  kernel.weight_words = Counter::kWeightWords;
  kernel.arrange_signs = Counter::arrange;
  kernel.binary_row = binary_row;
  kernel.sign_row = sign_row;
  kernel.magnitude_row = magnitude_row;
  kernel.normalize_row = normalize_row<float>;
  kernel.sum_row = sum_row;
  kernel.gemm_f32 = gemm_f32;
  kernel.winograd2_f32 = {winograd_input_f32<WinogradF2>, winograd_output_f32<WinogradF2>};
  kernel.winograd4_f32 = {winograd_input_f32<WinogradF4>, winograd_output_f32<WinogradF4>};
  kernel.softmax_block = softmax_block;
  kernel.scale_row = scale_row;
  kernel.split_row = split_row;
  kernel.unshuffle_rows = unshuffle_rows;
  kernel.shuffle_rows = shuffle_rows;
  kernel.peak_binary = peak_binary;
  kernel.peak_f32 = peak_f32;
  return kernel;
}
