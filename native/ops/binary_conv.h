// The binarized convolution block: TaR → sign ⊛ alpha · sign(w) → TaA → + identity (paper, eq. 5
// to 9).
//
// How bits compute it:
//
//   1. A sign s is the bit (s + 1) / 2. The product of two signs is +1 where their bits agree and
//      -1 where they differ.
//   2. Over n products: Σ a w = (n - differ) - differ = n - 2 · differ, and differ is
//      popcount(a xor w). So an accumulator is an exact integer.
//   3. Bits beyond the n of a word are 0 in activations (5) and in weights: they never differ.
//   4. TaR shifts by b before the sign: x + b >= 0 is decided as x >= -b, the same in floating
//      point, for rounding keeps the sign of a sum. `threshold` is -b by time group.
//   5. A channel that does not exist has the threshold NaN, which nothing reaches: its bit is 0.
//   6. Zero padding comes after the sign: a tap outside the picture contributes nothing, which bits
//      cannot say. It is run with bits of 0, that is with -1, and so contributes -Σ w over its
//      channels. Starting from base = n + Σ w of the taps outside gives that back; `bases` has it
//      for each of 4 × 4 positions at the edges. Accumulator = base - 2 · differ.
//   7. alpha, the mean magnitude of an output's weights, is the same for all of its products, so it
//      multiplies the accumulator; a learned gain is folded into it (`epilogue.scale`).
//   8. TaA is RPReLU by time group: y = alpha · accumulator + beta0, times the slope where
//      negative, + beta1. Whatever else is added per channel is folded into beta1
//      (`epilogue.bias_out`).
//   9. Steps (DoReFa-Net's activations, 0 or 1) have the bits of signs s with a = (s + 1) / 2, so
//      Σ a w = (Σ s w + Σ w) / 2. With base = n + Σ w over all taps, the accumulator is 2 · Σ a w;
//      the scale takes the half. A tap outside is run with bits of 0, which contribute nothing.
//  10. A weight of exactly 0 has no sign. It is stored as +1, so that its product counted sign(a);
//      `zeros` lists where that has to be taken off again.
//  11. XNOR-Net also multiplies by K, the mean of |x| over channels and taps, 0 outside of the
//      picture: the same for all outputs of a pixel. Sums over channels are kept row by row as the
//      bits are; those of the rows under the kernel are added up, then three columns each.
//  12. Two-bit steps q = 0 to 3 are b0 + 2 b1 with bits b: b1 is whether q reaches 2, b0 whether it
//      reaches an odd number of its three thresholds. By step 9 on each plane of bits, 2 · Σ q w =
//      3 (n + Σ w) - 2 (differ0 + 2 · differ1): base is three times as large.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ops/channel_vectors.h"
#include "ops/conv.h"
#include "ops/method.h"

namespace bidiffsr {

// Which columns or rows of a 3×3 kernel lie outside: of an output in the middle, at the first, at
// the last place, or where both is true.
enum Edge { kInner, kFirst, kLast, kBoth, kEdges };
Edge edge_at(int output, int stride, int inputs, int kernel);

class BinaryConv final : public Conv {
 public:
  BinaryConv(const LoadContext& from, const std::string& name, int in_, int out_, int kernel_,
             int stride_);

  const float* bias(int time_group) const override { return epilogue.bias_out.of(time_group); }
  std::size_t scratch(int width) const override;
  std::unique_ptr<ConvRows> open(const Context& context, int width, int height,
                                 std::ptrdiff_t pixel_stride, std::byte* scratch) const override;

  static constexpr int kRing = 4;  // rows of bits that are kept
  // Words of a row of bits with a pixel of margin on the left.
  std::size_t row_words(int width) const;
  // Rows of bits that are kept: a plane's, the one outside, and of two bits the other plane's and
  // one to compute with.
  int bit_rows() const { return two_bits ? 2 * kRing + 2 : kRing + 1; }
  // Bytes of a row of windows: the bits of three rows above each other, then the next column's.
  std::size_t window_bytes(int width) const;
  std::size_t column_bytes() const { return static_cast<std::size_t>(3 * in / 8); }
  // Floats of a row of magnitudes with a pixel of margin on either side, where there are any.
  std::size_t magnitudes(int width) const {
    return scaled_by_input ? checked_product(width + 2, 1) : 0;
  }
  const std::int32_t* base(Edge row, Edge column) const {
    return bases.data() + static_cast<std::ptrdiff_t>(row * kEdges + column) * padded(out);
  }

  bool shortcut;
  bool scaled_by_input;  // by the magnitudes under the kernel
  bool two_bits;         // an activation
  int words;             // of a pixel
  int window_words = 0;  // of an output's bits side by side; 0: not so
  Aligned<std::uint64_t> weights;
  Aligned<std::int32_t> bases;
  std::vector<ZeroWeight> zeros;
  TimeGroupVectors threshold, lower, upper;  // the latter two of two bits
  BinaryEpilogue epilogue;

 private:
  void load_zeros(const Tensors& tensors, const std::string& weight, Method::Bits bits);
  void pack(const LoadContext& from, const std::uint8_t* signs);
  void set_bases(int output, const std::vector<std::int32_t>& tap_sums, Method::Bits bits);
};

}  // namespace bidiffsr
