#include "convs.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace bidiffsr {

std::uint16_t to_bfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  // Round to nearest, ties to even; weights are finite.
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
  const Gemm job{a, a_stride,   panels.data(), c,    c_stride,
                 m, panels.n(), panels.k(),    bias, accumulate};
  (panels.bfloat16() ? kernel.gemm_bf16 : kernel.gemm_f32)(job);
}

namespace {

// Which columns or rows of a 3×3 kernel lie outside: of an output in the middle, at the first, at
// the last place, or where both is true.
enum Edge { kInner, kFirst, kLast, kBoth, kEdges };

Edge edge_at(int output, int stride, int inputs, int kernel) {
  if (kernel == 1) return kInner;
  const bool first = output == 0;
  const bool last = output * stride + 1 >= inputs;
  return first ? (last ? kBoth : kFirst) : (last ? kLast : kInner);
}

bool outside(Edge edge, int tap) {
  return (tap == 0 && (edge == kFirst || edge == kBoth)) ||
         (tap == 2 && (edge == kLast || edge == kBoth));
}

Aligned<float> pad_channels(const float* values, int channels, int groups, float filler) {
  const int width = padded(channels);
  Aligned<float> result(static_cast<std::size_t>(width) * static_cast<std::size_t>(groups), filler);
  for (int g = 0; g < groups; ++g)
    std::copy_n(values + static_cast<std::ptrdiff_t>(g) * channels, channels,
                result.begin() + static_cast<std::ptrdiff_t>(g) * width);
  return result;
}

// One vector of channels for each time group, or one for all.
struct PerGroup {
  Aligned<float> values;
  int groups = 1;
  int width = 0;
  const float* of(int group) const {
    return values.data() + static_cast<std::ptrdiff_t>(std::min(group, groups - 1)) * width;
  }
};

PerGroup load_groups(const Tensors& tensors, const std::string& name, int channels, float filler,
                     float factor = 1.0f) {
  const std::int64_t groups = tensors.rows(name);
  if (groups < 1) throw std::invalid_argument(name + ": has no time group");
  const float* values = tensors.floats(name, {groups, channels});
  PerGroup result{pad_channels(values, channels, static_cast<int>(groups), filler),
                  static_cast<int>(groups), padded(channels)};
  for (auto& value : result.values) value *= factor;
  return result;
}

// TaR → sign ⊛ alpha · sign(w) → TaA → + identity (paper, eq. 5 to 9).
class BinaryConv final : public Conv {
 public:
  BinaryConv(const Loading& from, const std::string& name, int in_, int out_, int kernel_,
             int stride_) {
    in = in_, out = out_, kernel = kernel_, stride = stride_, binary = true;
    shortcut = from.config.identity_shortcut && in == out && stride == 1;
    const Tensors& tensors = from.tensors;
    words = (in + 63) / 64;
    // Few channels leave most of a word empty: their taps are laid side by side.
    if (kernel == 3 && in % 8 == 0 && in < 64) window_words = (9 * in + 63) / 64;
    const std::string weight = name + ".conv.weight";
    const int columns = in * kernel * kernel;
    const std::uint8_t* signs = tensors.bytes(weight + ".signs", {out, (columns + 7) / 8});
    scale = pad_channels(tensors.floats(weight + ".scale", {out}), out, 1, 0.0f);
    if (from.config.weight_gain) {
      const float* gain = tensors.floats(name + ".gain", {out});
      for (int o = 0; o < out; ++o) scale[static_cast<std::size_t>(o)] *= gain[o];
    }
    // sign(x + b) is +1 where x >= -b; nothing reaches NaN, not even what lies in the padding.
    threshold = load_groups(tensors, name + ".shift.bias", in,
                            std::numeric_limits<float>::quiet_NaN(), -1.0f);
    bias_in = load_groups(tensors, name + ".activation.bias_in", out, 0.0f);
    slope = load_groups(tensors, name + ".activation.slope", out, 0.0f);
    bias_out = load_groups(tensors, name + ".activation.bias_out", out, 0.0f);
    load_zeros(tensors, weight);
    pack(from.kernel, signs, columns);
  }

  const float* bias(int group) const override { return bias_out.of(group); }
  std::size_t scratch(int width) const override {
    return sizeof(std::uint64_t) * ((kRing + 1) * row_words(width) + 1) + window_bytes(width);
  }
  std::unique_ptr<ConvRows> open(const Pass& pass, int width, int height, std::ptrdiff_t stride_in,
                                 std::byte* memory) const override;

  static constexpr int kRing = 4;
  // Of a row of bits with a pixel of margin on the left.
  std::size_t row_words(int width) const {
    return static_cast<std::size_t>(width + 2 + (kPixelSlack + 1) * stride) *
           static_cast<std::size_t>(words);
  }
  // Of a row of windows: the three bits above each other, then the next column's.
  std::size_t window_bytes(int width) const {
    if (!window_words) return 0;
    return row_words(width) * column_bytes() + sizeof(std::uint64_t);
  }
  std::size_t column_bytes() const { return static_cast<std::size_t>(3 * in / 8); }
  const std::int32_t* base(Edge row, Edge column) const {
    return bases.data() + static_cast<std::ptrdiff_t>(row * kEdges + column) * padded(out);
  }

  bool shortcut;
  int words;
  int window_words = 0;
  Aligned<std::uint64_t> weights;
  Aligned<std::int32_t> bases;
  std::vector<ZeroWeight> zeros;
  Aligned<float> scale;
  PerGroup threshold, bias_in, slope, bias_out;

 private:
  void load_zeros(const Tensors& tensors, const std::string& weight) {
    if (!tensors.has(weight + ".zeros")) return;
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

  // Bits to words, and the sums of weights that each kind of edge has to give back: a tap outside
  // is run as -1, so it counted minus its weight.
  void pack(const Kernel& target, const std::uint8_t* signs, int columns) {
    const int taps = kernel * kernel, outputs = padded(out);
    const std::ptrdiff_t row_bytes = (columns + 7) / 8;
    const int all = window_words ? window_words : taps * words;
    const auto size = static_cast<std::size_t>(outputs) * static_cast<std::size_t>(all);
    std::vector<std::uint64_t> packed(size, 0);
    std::vector<std::int32_t> tap_sums(static_cast<std::size_t>(taps));
    bases.assign(static_cast<std::size_t>(kEdges * kEdges * outputs), 0);
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
      for (int row = 0; row < kEdges; ++row)
        for (int column = 0; column < kEdges; ++column) {
          std::int32_t base = columns;
          for (int tap = 0; kernel == 3 && tap < taps; ++tap)
            if (outside(Edge(row), tap / 3) || outside(Edge(column), tap % 3))
              base += tap_sums[static_cast<std::size_t>(tap)];
          bases[static_cast<std::size_t>((row * kEdges + column) * outputs + o)] = base;
        }
    }
    weights.resize(size * static_cast<std::size_t>(target.weight_words));
    target.arrange_signs(packed.data(), outputs / kPanel, all, weights.data());
  }
};

class BinaryRows final : public ConvRows {
 public:
  BinaryRows(const BinaryConv& conv, const Pass& pass, int width, int height,
             std::ptrdiff_t pixel_stride, std::byte* memory)
      : conv_(conv),
        pass_(pass),
        width_(width),
        height_(height),
        pixel_stride_(pixel_stride),
        row_words_(conv.row_words(width)) {
    auto* words = reinterpret_cast<std::uint64_t*>(memory);
    std::memset(words, 0, conv.scratch(width));
    for (int i = 0; i < BinaryConv::kRing; ++i) bits_[i] = words + i * row_words_;
    outside_ = words + BinaryConv::kRing * row_words_;
    window_ = reinterpret_cast<std::uint8_t*>(outside_ + row_words_);
  }

  void push(int y, const float* row) override {
    rows_[y & 3] = row;
    if (row)
      pass_.kernel.sign_row(row, pixel_stride_, width_, padded(conv_.in),
                            conv_.threshold.of(pass_.group), bits_[y & 3] + conv_.words,
                            conv_.words);
  }

  void emit(int y, int rows, const RowsOut& out) override {
    for (int i = 0; i < rows; ++i) {
      BinaryRow job = prepare(y + i);
      job.bias_out = out.bias;
      job.shortcut = conv_.shortcut ? rows_[(y + i) & 3] : nullptr;
      job.shortcut_stride = pixel_stride_;
      job.residual = out.residual ? out.residual + i * out.row_stride : nullptr;
      job.residual_stride = out.pixel_stride;
      job.output = out.output + i * out.row_stride;
      job.output_stride = out.pixel_stride;
      job.accumulate = out.accumulate;
      job.sums = out.sums;
      pass_.kernel.binary_row(job);
    }
  }

  // All but where results go and what is added to them.
  BinaryRow prepare(int y) {
    BinaryRow job{};
    const int margin = conv_.kernel / 2;
    for (int tap = 0; tap < conv_.kernel; ++tap) {
      const int from = y * conv_.stride + tap - margin;
      job.row_inside[tap] = from >= 0 && from < height_;
      const std::uint64_t* row = job.row_inside[tap] ? bits_[from & 3] : outside_;
      job.rows[tap] = row + (1 - margin) * conv_.words;
    }
    const Edge edge = edge_at(y, conv_.stride, height_, conv_.kernel);
    job.kernel = conv_.kernel;
    job.stride = conv_.stride;
    job.words = conv_.words;
    job.width = width_ / conv_.stride;
    job.width_in = width_;
    job.channels = padded(conv_.out);
    job.weights = conv_.weights.data();
    job.base_first = conv_.base(edge, edge_at(0, conv_.stride, width_, conv_.kernel));
    job.base_inner = conv_.base(edge, kInner);
    job.base_last = conv_.base(edge, edge_at(job.width - 1, conv_.stride, width_, conv_.kernel));
    job.scale = conv_.scale.data();
    job.bias_in = conv_.bias_in.of(pass_.group);
    job.slope = conv_.slope.of(pass_.group);
    job.bias_out = conv_.bias_out.of(pass_.group);
    job.zeros = conv_.zeros.data();
    job.zero_count = static_cast<int>(conv_.zeros.size());
    if (conv_.window_words) lay_windows(job);
    return job;
  }

 private:
  // Rows of bits to windows side by side.
  void lay_windows(BinaryRow& job) {
    const int bytes = conv_.in / 8;
    std::uint8_t* to = window_;
    for (int column = 0; column < width_ + 2; ++column)
      for (const std::uint64_t* row : job.rows) {
        // A whole word is written; what it has too much is overwritten by the next.
        std::memcpy(to, row + column, sizeof *row);
        to += bytes;
      }
    job.window = window_;
    job.window_step = static_cast<std::ptrdiff_t>(conv_.column_bytes()) * conv_.stride;
    job.window_words = conv_.window_words;
    const int rest = 9 * conv_.in % 64;
    job.window_mask = rest ? (std::uint64_t{1} << rest) - 1 : ~std::uint64_t{0};
  }

  const BinaryConv& conv_;
  const Pass& pass_;
  int width_, height_;
  std::ptrdiff_t pixel_stride_;
  std::size_t row_words_;
  std::uint64_t* bits_[BinaryConv::kRing];
  std::uint64_t* outside_;
  std::uint8_t* window_;
  const float* rows_[BinaryConv::kRing] = {};
};

std::unique_ptr<ConvRows> BinaryConv::open(const Pass& pass, int width, int height,
                                           std::ptrdiff_t stride_in, std::byte* memory) const {
  return std::make_unique<BinaryRows>(*this, pass, width, height, stride_in, memory);
}

// What of a Winograd convolution depends on its tile.
struct Winograd {
  template <class F>
  static Winograd of(const WinogradTransforms& transforms, int run) {
    return {F::kOutputs, F::kInputs, run, &F::kG[0], transforms};
  }
  // Larger tiles round more, so only `fast` has them.
  static Winograd chosen(const Kernel& kernel, bool fast) {
    if (!fast) return of<WinogradF2>(kernel.winograd2_f32, 64);
    if (kernel.bfloat16) return of<WinogradF2>(kernel.winograd2_bf16, 64);
    return of<WinogradF4>(kernel.winograd4_f32, 24);
  }
  // Element (i, j) of G g Gᵀ.
  float weight(const float* g, int i, int j) const {
    double sum = 0;
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; ++x) sum += G[i][y] * G[j][x] * static_cast<double>(g[3 * y + x]);
    return static_cast<float>(sum);
  }

  int planes() const { return inputs * inputs; }

  int outputs, inputs;  // a side
  int run;  // tiles at once: their planes of inputs and products stay in the second-level cache
  const double (*G)[3];
  WinogradTransforms transforms;
};

// A plain convolution with bias. 3×3 at stride 1 by Winograd's method, which needs 2.25 or 4 times
// fewer products; others as one product of gathered rows.
class PlainConv final : public Conv {
 public:
  PlainConv(const Loading& from, const std::string& name, int in_, int out_, int kernel_,
            int stride_)
      : bfloat16(from.bfloat16()), tile(Winograd::chosen(from.kernel, from.fast)) {
    in = in_, out = out_, kernel = kernel_, stride = stride_;
    const float* weight = from.tensors.floats(name + ".weight", {out, in, kernel, kernel});
    offset = pad_channels(from.tensors.floats(name + ".bias", {out}), out, 1, 0.0f);
    const int taps = kernel * kernel;
    if (winograd()) {
      for (int i = 0; i < tile.inputs; ++i)
        for (int j = 0; j < tile.inputs; ++j)
          planes.emplace_back(out, in, bfloat16, [&](int o, int c) {
            return tile.weight(weight + (static_cast<std::ptrdiff_t>(o) * in + c) * 9, i, j);
          });
    } else {  // taps outermost, as `gather` lays them
      planes.emplace_back(out, taps * in, bfloat16, [&](int o, int column) {
        return weight[(static_cast<std::ptrdiff_t>(o) * in + column % in) * taps + column / in];
      });
    }
  }

  bool winograd() const { return kernel == 3 && stride == 1; }
  int step() const override { return winograd() ? tile.outputs : Conv::step(); }
  std::size_t element() const { return bfloat16 ? sizeof(std::uint16_t) : sizeof(float); }
  const float* bias(int) const override { return offset.data(); }

  std::size_t tiles() const { return static_cast<std::size_t>(tile.planes() * tile.run); }
  static constexpr int kColumns = 4 * kPanel;
  std::size_t input_bytes(int width) const {
    if (winograd()) return element() * tiles() * static_cast<std::size_t>(padded(in));
    const std::size_t gathered =
        static_cast<std::size_t>(width) * static_cast<std::size_t>(kernel * kernel * in + kPanel);
    return gathered * (sizeof(float) + sizeof(std::uint16_t));
  }
  std::size_t outside_bytes(int width) const {
    return sizeof(float) * static_cast<std::size_t>((1 + width + kRightMargin) * padded(in));
  }
  std::size_t scratch(int width) const override {
    return whole_lines(input_bytes(width)) + whole_lines(outside_bytes(width)) +
           sizeof(float) * tiles() * kColumns;
  }
  std::unique_ptr<ConvRows> open(const Pass& pass, int width, int height, std::ptrdiff_t stride_in,
                                 std::byte* memory) const override;

  bool bfloat16;
  Winograd tile;
  std::vector<Panels> planes;
  Aligned<float> offset;
};

class PlainRows final : public ConvRows {
 public:
  PlainRows(const PlainConv& conv, const Pass& pass, int width, int height,
            std::ptrdiff_t pixel_stride, std::byte* memory)
      : conv_(conv), pass_(pass), width_(width), height_(height), pixel_stride_(pixel_stride) {
    input_ = memory;
    outside_ = reinterpret_cast<float*>(memory + whole_lines(conv.input_bytes(width)));
    products_ = reinterpret_cast<float*>(memory + whole_lines(conv.input_bytes(width)) +
                                         whole_lines(conv.outside_bytes(width)));
    std::memset(outside_, 0, conv.outside_bytes(width));
  }

  void push(int y, const float* row) override { rows_[slot(y)] = row; }

  void emit(int y, int rows, const RowsOut& out) override {
    if (conv_.winograd()) {
      emit_winograd(y, rows, out);
      return;
    }
    for (int i = 0; i < rows; ++i) emit_gathered(y + i, i, out);
  }

 private:
  // Rows begin at -1.
  static std::size_t slot(int y) { return static_cast<std::size_t>(y + 1) % kMostSeen; }

  const float* row_at(int y) const {
    // A row begins with its left margin only where the convolution looks there.
    const std::ptrdiff_t margin = conv_.kernel == 3 ? pixel_stride_ : 0;
    return y < 0 || y >= height_ ? outside_ : rows_[slot(y)] - margin;
  }

  void emit_winograd(int y, int rows, const RowsOut& out) {
    const Winograd& tile = conv_.tile;
    const int channels = padded(conv_.in), outputs = padded(conv_.out);
    WinogradInput in{};
    in.channels = channels;
    in.output = input_;
    for (int x = 0; x < width_; x += tile.run * tile.outputs) {
      const int tiles = std::min(tile.run, (width_ - x + tile.outputs - 1) / tile.outputs);
      // Rows that no output wanted here sees may not be there yet.
      for (int i = 0; i < tile.inputs; ++i)
        in.rows[i] =
            i < rows + 2 ? row_at(y - 1 + i) + static_cast<std::ptrdiff_t>(x) * channels : outside_;
      in.tiles = tiles;
      in.plane = static_cast<std::ptrdiff_t>(tiles) * channels;
      tile.transforms.input(in);
      for (int column = 0; column < outputs; column += PlainConv::kColumns) {
        const int columns = std::min(PlainConv::kColumns, outputs - column);
        for (int plane = 0; plane < tile.planes(); ++plane) product(plane, tiles, column, columns);
        WinogradOutput job{};
        job.products = products_;
        job.plane = static_cast<std::ptrdiff_t>(tiles) * columns;
        job.columns = columns;
        job.tiles = tiles;
        job.width = width_ - x;
        job.rows = rows;
        job.bias = out.bias + column;
        const std::ptrdiff_t at = x * out.pixel_stride + column;
        job.residual = out.residual ? out.residual + at : nullptr;
        job.output = out.output ? out.output + at : nullptr;
        job.rounded_residual = out.rounded_residual ? out.rounded_residual + at : nullptr;
        job.rounded_output = out.rounded_output ? out.rounded_output + at : nullptr;
        job.row_stride = out.row_stride;
        job.pixel_stride = out.pixel_stride;
        job.accumulate = out.accumulate;
        job.sums = out.sums ? out.sums + column : nullptr;
        job.squares = out.sums ? out.sums + outputs + column : nullptr;
        tile.transforms.output(job);
      }
    }
  }

  void product(int plane, int tiles, int column, int columns) {
    const Panels& weights = conv_.planes[static_cast<std::size_t>(plane)];
    const int channels = padded(conv_.in);
    Gemm job{};
    job.a = input_ + conv_.element() * static_cast<std::size_t>(plane * tiles * channels);
    job.a_stride = channels;
    job.b = weights.data(column / kPanel);
    job.c = products_ + static_cast<std::ptrdiff_t>(plane) * tiles * columns;
    job.c_stride = columns;
    job.m = tiles;
    job.n = columns;
    job.k = weights.k();
    (conv_.bfloat16 ? pass_.kernel.gemm_bf16 : pass_.kernel.gemm_f32)(job);
  }

  void emit_gathered(int y, int index, const RowsOut& out) {
    const Panels& weights = conv_.planes[0];
    const int taps = conv_.kernel, in = conv_.in, outputs = width_ / conv_.stride;
    const std::ptrdiff_t wide = round_up(taps * taps * in, 2);
    auto* gathered = reinterpret_cast<float*>(input_);
    for (int x = 0; x < outputs; ++x) {
      float* to = gathered + x * wide;
      to[wide - 1] = 0;  // the odd one out, which bfloat16 pairs need
      for (int row = 0; row < taps; ++row) {
        const float* from = row_at(y * conv_.stride + row - taps / 2);
        for (int column = 0; column < taps; ++column, to += in)
          std::copy_n(from + (x * conv_.stride + column) * pixel_stride_, in, to);
      }
    }
    const void* a = gathered;
    if (conv_.bfloat16) {
      const std::size_t count = static_cast<std::size_t>(outputs * wide);
      auto* rounded = reinterpret_cast<std::uint16_t*>(gathered + count);
      pass_.kernel.round_bf16(gathered, rounded, count);
      a = rounded;
    }
    float* output = out.output + index * out.row_stride;
    multiply(pass_.kernel, weights, a, wide, outputs, output, out.pixel_stride, out.bias,
             out.accumulate);
    if (!out.residual) return;
    const float* residual = out.residual + index * out.row_stride;
    for (int x = 0; x < outputs; ++x)
      for (int c = 0; c < conv_.out; ++c)
        output[x * out.pixel_stride + c] += residual[x * out.pixel_stride + c];
  }

  const PlainConv& conv_;
  const Pass& pass_;
  int width_, height_;
  std::ptrdiff_t pixel_stride_;
  std::byte* input_;
  float* outside_;
  float* products_;
  static constexpr std::size_t kMostSeen = WinogradF4::kInputs;
  const float* rows_[kMostSeen] = {};
};

std::unique_ptr<ConvRows> PlainConv::open(const Pass& pass, int width, int height,
                                          std::ptrdiff_t stride_in, std::byte* memory) const {
  return std::make_unique<PlainRows>(*this, pass, width, height, stride_in, memory);
}

}  // namespace

std::unique_ptr<Conv> load_conv(const Loading& from, const std::string& name, int in, int out,
                                int kernel, int stride, bool binary) {
  if (binary) return std::make_unique<BinaryConv>(from, name, in, out, kernel, stride);
  return load_plain_conv(from, name + ".conv", in, out, kernel, stride);
}

std::unique_ptr<Conv> load_plain_conv(const Loading& from, const std::string& name, int in, int out,
                                      int kernel, int stride) {
  return std::make_unique<PlainConv>(from, name, in, out, kernel, stride);
}

std::vector<std::int32_t> accumulators(const Conv& conv, const Pass& pass, const float* x,
                                       int height, int width) {
  const auto* binary = dynamic_cast<const BinaryConv*>(&conv);
  if (!binary) throw std::invalid_argument("accumulators: this convolution is not binarized");
  Aligned<std::byte> memory(binary->scratch(width));
  const std::ptrdiff_t stride = padded(conv.in);
  BinaryRows rows(*binary, pass, width, height, stride, memory.data());
  const int width_out = width / conv.stride, height_out = height / conv.stride;
  const std::ptrdiff_t row_size = static_cast<std::ptrdiff_t>(width_out) * padded(conv.out);
  std::vector<std::int32_t> result(static_cast<std::size_t>(height_out * row_size));
  int pushed = 0;
  for (int y = 0; y < height_out; ++y) {
    for (; pushed < height && pushed <= y * conv.stride + conv.kernel / 2; ++pushed)
      rows.push(pushed, x + pushed * width * stride);
    BinaryRow job = rows.prepare(y);
    job.accumulators = result.data() + y * row_size;
    pass.kernel.binary_row(job);
  }
  return result;
}

}  // namespace bidiffsr
