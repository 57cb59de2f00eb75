// What an instruction set has to offer: one table of functions over rows of pixels.
//
// Included by files that are compiled with their own instruction-set flags, so it must not bring in
// any inline function: the linker would keep one copy of it for all, perhaps the wrong one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/winograd.h"

namespace bidiffsr {

// Channels are stored in multiples of this, and so are the outputs of packed weights.
inline constexpr int kPanel = 16;
// Pixels that `binary_row` may read past the end of a row of bits.
inline constexpr int kPixelSlack = 8;

// A weight of exactly zero, which bits cannot say: its contribution is taken back.
struct ZeroWeight {
  std::int32_t output;
  std::int32_t tap_row;
  std::int32_t tap_column;
  std::int32_t channel;
};

// One row of a binarized convolution and all that follows it (docs/engine.md, "Binary
// convolution").
struct BinaryRow {
  // Rows of bits under the kernel, top to bottom, each beginning with the pixel under the leftmost
  // tap of the first output; `words` 64-bit words a pixel, bit 1 is +1.
  const std::uint64_t* rows[3];
  bool row_inside[3];
  const BinaryRow* twice;  // may be null: the same of bits that count twice, beside these
  int kernel;              // 1 or 3
  int stride;              // input pixels between outputs
  int words;
  int width;     // outputs
  int width_in;  // inputs, without padding
  int channels;  // outputs a pixel, a multiple of kPanel
  // Of signs [channels / kPanel][kernel²][words][kPanel], as the kernel arranged them.
  const std::uint64_t* weights;
  // Or, where `window_words` is not 0: the bits under the kernel lie side by side in `window`,
  // outputs `window_step` bytes apart, and signs are [channels / kPanel][window_words][kPanel].
  // What the last word has beyond `window_mask`, which is whole bytes, belongs to others.
  const std::uint8_t* window;
  std::ptrdiff_t window_step;
  int window_words;
  std::uint64_t window_mask;
  // Accumulator where no bit differs, at the first, inner and last outputs: [channels].
  const std::int32_t* base_first;
  const std::int32_t* base_inner;
  const std::int32_t* base_last;
  const ZeroWeight* zeros;
  int zero_count;
  // If set, only the integers are written: [width][channels].
  std::int32_t* accumulators;
  const float* pixel_scale;  // may be null; what else multiplies the accumulators, [width]; not
                             // beside `twice`
  const float* scale;        // alpha, [channels], as the following
  const float* bias_in;      // beta0
  const float* slope;
  const float* bias_out;  // beta1 and whatever else is added per channel
  const float* shortcut;  // may be null; pixels `shortcut_stride` floats apart
  std::ptrdiff_t shortcut_stride;
  const float* residual;  // may be null
  std::ptrdiff_t residual_stride;
  float* output;
  std::ptrdiff_t output_stride;
  bool accumulate;  // add to the output instead of replacing it
  float* sums;      // may be null; sums and sums of squares of the outputs are added to these,
                    // [2][channels]
};

// c = a b (+ bias) (+ c). Rows of a are `a_stride` elements apart. b comes in panels of kPanel
// columns: float32 as [n / kPanel][k][kPanel], bfloat16 as [n / kPanel][k / 2][kPanel][2].
struct Gemm {
  // The inputs may lie in up to three parts, k in a row of each; b has k inputs for each of them.
  const void* a[3];
  int parts;
  std::ptrdiff_t a_stride;
  const void* b;
  float* c;
  std::ptrdiff_t c_stride;
  int m;
  int n;              // a multiple of kPanel
  int k;              // even for bfloat16
  const float* bias;  // may be null; [n]
  bool accumulate;
};

// Winograd's convolution for a run of tiles (kernels/winograd.h).
struct WinogradInput {
  const float* rows[6];  // input rows, each beginning one pixel left of the first tile
  int channels;          // a multiple of kPanel; also the distance of pixels in `rows`
  int tiles;
  std::ptrdiff_t plane;  // elements between the planes of the result, [planes][tiles][channels]
  void* output;          // float32 or bfloat16
};

struct WinogradOutput {
  const float* products;  // [planes][tiles][columns]
  std::ptrdiff_t plane;
  int columns;  // channels of this run, a multiple of kPanel
  int tiles;
  int width;              // outputs a row from here on that exist
  int rows;               // of outputs that exist, at most a tile's
  const float* bias;      // [columns]
  const float* residual;  // may be null; laid out as the output
  float* output;
  // With products in bfloat16: these instead of the above, where they are not null.
  const std::uint16_t* bfloat16_residual;
  std::uint16_t* bfloat16_output;
  std::ptrdiff_t row_stride;
  std::ptrdiff_t pixel_stride;
  bool accumulate;  // float32 only
  float* sums;      // may be null; as in BinaryRow
  float* squares;
};

// The transforms before and after the products of one kind.
struct WinogradTransforms {
  void (*input)(const WinogradInput&);
  void (*output)(const WinogradOutput&);
};

// What follows a normalization's scale and shift: x · sigmoid(x) to about 1 ulp, or to 10⁻⁴, for
// what will be rounded at once.
enum class Silu { kNone, kExact, kRough };

struct Kernel {
  const char* name;
  bool bfloat16;  // whether the functions that end in _bf16 are there

  // Arranges a layer's signs, [panels][words][kPanel], as `binary_row` reads them, in
  // `weight_words` words for each of theirs.
  int weight_words;
  void (*arrange_signs)(const std::uint64_t* signs, int panels, int words, std::uint64_t* weights);
  void (*binary_row)(const BinaryRow&);
  // Bits of x >= threshold; channels a multiple of kPanel, missing thresholds are NaN.
  void (*sign_row)(const float* x, std::ptrdiff_t stride, int width, int channels,
                   const float* threshold, std::uint64_t* bits, int words);
  // Sums of |x| over the channels of each pixel of a row: [width].
  void (*magnitude_row)(const float* x, std::ptrdiff_t stride, int width, int channels,
                        float* sums);
  // scale x + shift per channel, then SiLU where asked; contiguous rows.
  void (*normalize_row)(const float* x, float* output, int width, int channels, const float* scale,
                        const float* shift, Silu silu);
  void (*normalize_row_bf16)(const std::uint16_t* x, float* output, int width, int channels,
                             const float* scale, const float* shift, Silu silu);
  // Adds sums and sums of squares per channel of a contiguous row.
  void (*sum_row)(const float* x, int width, int channels, float* sum, float* square);
  void (*gemm_f32)(const Gemm&);
  void (*gemm_bf16)(const Gemm&);
  WinogradTransforms winograd2_f32;
  WinogradTransforms winograd4_f32;
  WinogradTransforms winograd4_bf16;
  // What follows the products of a convolution done directly, each output being a tile of its own.
  // Null where Winograd's fewer products make up for its transforms.
  void (*direct_output_bf16)(const WinogradOutput&);
  void (*round_bf16)(const float* x, std::uint16_t* output, std::size_t count);
  // One block of a streaming softmax: scores become exp(score - maximum), `maximum` and `sum` are
  // brought up to date, `decay` is what earlier results have to be multiplied by.
  void (*softmax_block)(float* scores, std::ptrdiff_t stride, int rows, int columns, float* maximum,
                        float* sum, float* decay);
  void (*scale_row)(float* x, int count, float factor);
  // Even and odd channels of a row: [width][2 half] to two rows of `half` channels.
  void (*split_row)(const float* x, std::ptrdiff_t stride, int width, int half, float* even,
                    float* odd, std::ptrdiff_t output_stride);
  // Two rows of `channels` to one of 4 · channels at half the width, sub-pixels interleaved.
  void (*unshuffle_rows)(const float* top, const float* bottom, std::ptrdiff_t stride,
                         int width_out, int channels, float* output, std::ptrdiff_t output_stride);
  // The reverse: `channels` · 4 to two rows of `channels` at twice the width.
  void (*shuffle_rows)(const float* x, std::ptrdiff_t stride, int width_in, int channels,
                       float* top, float* bottom, std::ptrdiff_t output_stride);

  // What this CPU could do at best: loops in registers and, where one counts by table, the
  // first-level cache, which return the multiply-accumulates done.
  double (*peak_binary)(int rounds);
  double (*peak_f32)(int rounds);
  double (*peak_bf16)(int rounds);
};

}  // namespace bidiffsr
