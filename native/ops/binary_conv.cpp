#include "ops/binary_conv.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "ops/binary_rows.h"

namespace bidiffsr {

namespace {

bool outside(Edge edge, int tap) {
  return (tap == 0 && (edge == kFirst || edge == kBoth)) ||
         (tap == 2 && (edge == kLast || edge == kBoth));
}

}  // namespace

Edge edge_at(int output, int stride, int inputs, int kernel) {
  if (kernel == 1) return kInner;
  const bool first = output == 0;
  const bool last = output * stride + 1 >= inputs;
  return first ? (last ? kBoth : kFirst) : (last ? kLast : kInner);
}

BinaryConv::BinaryConv(const LoadContext& from, const std::string& name, int in_, int out_,
                       int kernel_, int stride_) {
  in = in_, out = out_, kernel = kernel_, stride = stride_, binary = true;
  shortcut = from.config.identity_shortcut && in == out && stride == 1;
  scaled_by_input = from.method.magnitudes;
  two_bits = from.method.bits == Method::Bits::kTwoBitSteps;
  words = (in + 63) / 64;
  // Channels that leave words partly empty have their taps laid side by side.
  const int side_by_side = (9 * in + 63) / 64;
  if (kernel == 3 && in % 8 == 0 && side_by_side < 9 * words) window_words = side_by_side;
  const std::string weight = name + ".conv.weight";
  const std::int64_t row_bytes = (in * kernel * kernel + 7) / 8;
  const std::uint8_t* signs = from.tensors.bytes(weight + ".signs", {out, row_bytes});
  // Steps 4 and 5.
  const auto load_threshold = [&](const char* suffix) {
    return load_time_groups(from.tensors, name + suffix, in,
                            std::numeric_limits<float>::quiet_NaN(), -1.0f);
  };
  threshold = load_threshold(".shift.bias");
  if (two_bits) {  // step 12
    lower = load_threshold(".shift.lower");
    upper = load_threshold(".shift.upper");
  }
  epilogue = from.method.load_epilogue(from, name, out);  // steps 7 and 8
  load_zeros(from.tensors, weight, from.method.bits);
  pack(from, signs);
}

// Step 10.
void BinaryConv::load_zeros(const Tensors& tensors, const std::string& weight, Method::Bits bits) {
  if (!tensors.has(weight + ".zeros")) return;
  if (are_steps(bits))
    throw std::invalid_argument(weight + ".zeros: the method has no weights of 0");
  const int taps = kernel * kernel;
  for (const std::int32_t index : tensors.integers(weight + ".zeros")) {
    const std::int32_t output = index / (in * taps), rest = index % (in * taps);
    if (index < 0 || output >= out)
      throw std::invalid_argument(weight + ".zeros: " + std::to_string(index) +
                                  " is no index of a weight");
    const std::int32_t tap = rest % taps;
    zeros.push_back({output, tap / kernel, tap % kernel, rest / taps});
  }
}

// Steps 1 to 3: bits to words, each output's beside the others of its panel.
void BinaryConv::pack(const LoadContext& from, const std::uint8_t* signs) {
  const int taps = kernel * kernel, columns = in * taps, panels = padded(out) / kPanel;
  const std::ptrdiff_t row_bytes = (columns + 7) / 8;
  const int all = window_words ? window_words : taps * words;
  const std::size_t size = checked_product(panels, all, kPanel);
  std::vector<std::uint64_t> packed(size, 0);
  std::vector<std::int32_t> tap_sums(static_cast<std::size_t>(taps));
  bases.assign(checked_product(kEdges * kEdges, panels, kPanel), 0);
  for (int o = 0; o < out; ++o) {
    std::fill(tap_sums.begin(), tap_sums.end(), 0);
    for (int column = 0; column < columns; ++column) {
      const int channel = column / taps, tap = column % taps;
      const std::uint64_t bit = (signs[o * row_bytes + column / 8] >> (7 - column % 8)) & 1;
      tap_sums[static_cast<std::size_t>(tap)] += bit ? 1 : -1;
      // Windows hold columns of taps, which hold rows, which hold channels.
      const int position =
          window_words ? (tap % 3 * 3 + tap / 3) * in + channel : tap * words * 64 + channel;
      const std::ptrdiff_t word = static_cast<std::ptrdiff_t>(o / kPanel) * all + position / 64;
      packed[static_cast<std::size_t>(word * kPanel + o % kPanel)] |= bit << (position % 64);
    }
    set_bases(o, tap_sums, from.method.bits);
  }
  weights.resize(checked_product(size, from.kernel.weight_words));
  from.kernel.arrange_signs(packed.data(), panels, all, weights.data());
}

// Steps 6, 9 and 12, from the sums of an output's weights at each tap.
void BinaryConv::set_bases(int output, const std::vector<std::int32_t>& tap_sums,
                           Method::Bits bits) {
  const int taps = kernel * kernel;
  const bool steps = are_steps(bits);
  for (int row = 0; row < kEdges; ++row)
    for (int column = 0; column < kEdges; ++column) {
      std::int32_t base = in * taps;
      for (int tap = 0; tap < taps; ++tap)
        if (steps ||
            (kernel == 3 && (outside(Edge(row), tap / 3) || outside(Edge(column), tap % 3))))
          base += tap_sums[static_cast<std::size_t>(tap)];
      const std::ptrdiff_t edge = row * kEdges + column;
      bases[static_cast<std::size_t>(edge * padded(out) + output)] = two_bits ? 3 * base : base;
    }
}

std::size_t BinaryConv::row_words(int width) const {
  return checked_product(width + 2 + (kPixelSlack + 1) * stride, words);
}

std::size_t BinaryConv::window_bytes(int width) const {
  if (!window_words) return 0;
  return checked_product(row_words(width), column_bytes()) +
         sizeof(std::uint64_t) * static_cast<std::size_t>(words);
}

std::size_t BinaryConv::scratch(int width) const {
  return checked_bytes<std::uint64_t>(checked_product(bit_rows(), row_words(width)) + 1) +
         checked_bytes<float>(kRing + 2, magnitudes(width)) +
         checked_product(two_bits ? 2 : 1, window_bytes(width));
}

std::unique_ptr<ConvRows> BinaryConv::open(const Context& context, int width, int height,
                                           std::ptrdiff_t pixel_stride, std::byte* scratch) const {
  return std::make_unique<BinaryRows>(*this, context, width, height, pixel_stride, scratch);
}

}  // namespace bidiffsr
