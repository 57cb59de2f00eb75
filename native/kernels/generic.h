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

using Float = Isa::Float;
using Int = Isa::Int;
constexpr int kLanes = Isa::kLanes;
constexpr int kVectors = kPanel / kLanes;

inline Float load(const float* x) {
  Float value;
  __builtin_memcpy(&value, x, sizeof value);
  return value;
}
inline void store(float* x, Float value) { __builtin_memcpy(x, &value, sizeof value); }
inline Int load(const std::int32_t* x) {
  Int value;
  __builtin_memcpy(&value, x, sizeof value);
  return value;
}
// x - 0 is x, so this is a load; 0 + x is not where x is -0, and would be an addition as well.
inline Float splat(float x) { return x - Float{}; }
inline Float to_float(Int x) { return __builtin_convertvector(x, Float); }
inline Float maximum(Float a, Float b) { return a > b ? a : b; }
inline Float minimum(Float a, Float b) { return a < b ? a : b; }

// e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, and for e^r a polynomial of least
// relative error there, 1 + r + r² q(r).
template <class I = Isa>
inline Float exponential(Float x) {
  constexpr bool kScales = requires { I::power(x, x); };
  // e^88 is finite; far below, n would be too coarse for r to be small.
  x = minimum(maximum(x, splat(kScales ? -104.0f : -87.0f)), splat(88.0f));
  const Float n = Isa::round(x * 1.44269504f);
  Float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Float q = splat(1.38146e-3f);
  q = q * r + 8.3687166e-3f;
  q = q * r + 4.16683890e-2f;
  q = q * r + 1.66665211e-1f;
  q = q * r + 4.99999940e-1f;
  const Float p = (q * (r * r) + r) + 1.0f;
  if constexpr (kScales) {
    return I::power(p, n);  // p · 2^n
  } else {
    const Int exponent = (__builtin_convertvector(n, Int) + 127) << 23;
    Float power;
    __builtin_memcpy(&power, &exponent, sizeof power);
    return p * power;
  }
}

template <class I = Isa>
inline Float reciprocal(Float x) {
  if constexpr (requires { I::estimate_reciprocal(x); }) {
    const Float y = I::estimate_reciprocal(x);
    return y + y * (1.0f - x * y);  // Newton's step doubles the 14 bits
  } else {
    return 1.0f / x;
  }
}

// ---- binary convolution ------------------------------------------------------------------------

// What zero weights were counted as, which is +1 times the activation, at one pixel.
inline void take_back_zeros(const BinaryRow& job, int column, int panel, std::int32_t* sums) {
  const int edge = job.kernel / 2;
  for (int i = 0; i < job.zero_count; ++i) {
    const ZeroWeight& zero = job.zeros[i];
    const int at = column * job.stride + zero.tap_column;  // 0 is the pixel left of the row
    const bool inside = at >= edge && at < job.width_in + edge && job.row_inside[zero.tap_row];
    if (zero.output / kPanel != panel || !inside) continue;
    const std::uint64_t word =
        job.rows[zero.tap_row][static_cast<std::ptrdiff_t>(at) * job.words + zero.channel / 64];
    sums[zero.output % kPanel] -= (word >> (zero.channel % 64)) & 1 ? 1 : -1;
  }
}

// Sums and sums of squares of one panel, for the normalization that follows.
struct Moments {
  Float sum[kVectors] = {};
  Float square[kVectors] = {};
  inline void add_to(float* sums, float* squares) const {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      store(sums + v * kLanes, load(sums + v * kLanes) + sum[v]);
      store(squares + v * kLanes, load(squares + v * kLanes) + square[v]);
    }
  }
};

// What follows the integers: alpha, RPReLU, shortcut and residual. One panel's vectors, held in
// registers along a row.
template <bool Shortcut, bool Residual, bool Accumulate>
struct Epilogue {
  Epilogue(const BinaryRow& job, int first) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const int c = first + v * kLanes;
      scale[v] = load(job.scale + c);
      bias_in[v] = load(job.bias_in + c);
      slope[v] = load(job.slope + c);
      bias_out[v] = load(job.bias_out + c);
    }
    shortcut = Shortcut ? job.shortcut + first : nullptr;
    residual = Residual ? job.residual + first : nullptr;
    output = job.output + first;
    next = job.width * job.output_stride;
  }
  inline void operator()(const BinaryRow& job, int column, const Int* sums) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const int c = v * kLanes;
      Float y = to_float(sums[v]) * scale[v] + bias_in[v];
      y = y >= 0.0f ? y : y * slope[v];
      y = y + bias_out[v];
      if constexpr (Shortcut) y = y + load(shortcut + column * job.shortcut_stride + c);
      if constexpr (Residual) y = y + load(residual + column * job.residual_stride + c);
      float* to = output + column * job.output_stride + c;
      __builtin_prefetch(to + next, 1);
      if constexpr (Accumulate) y = y + load(to);
      store(to, y);
      moments.sum[v] = moments.sum[v] + y;
      moments.square[v] = moments.square[v] + y * y;
    }
  }

  Float scale[kVectors], bias_in[kVectors], slope[kVectors], bias_out[kVectors];
  const float *shortcut, *residual;
  float* output;
  std::ptrdiff_t next;  // to the row below, if rows follow each other
  Moments moments;
};

// The rare cases: integers wanted, or zero weights among the signs.
inline void finish_slowly(const BinaryRow& job, int column, int panel, Int* sums) {
  std::int32_t plain[kPanel];
  __builtin_memcpy(plain, sums, sizeof plain);
  take_back_zeros(job, column, panel, plain);
  if (job.accumulators)
    __builtin_memcpy(
        job.accumulators + static_cast<std::ptrdiff_t>(column) * job.channels + panel * kPanel,
        plain, sizeof plain);
  __builtin_memcpy(sums, plain, sizeof plain);
}

// Pixels `from` to `to` of one panel, whose counts are prepared.
template <int Kernel, bool Shortcut, bool Residual, bool Accumulate>
inline void finish_pixels(const BinaryRow& job, const Counter& counter, int from, int to,
                          int panel) {
  constexpr int kPixels = Counter::kPixels;
  const bool slow = job.zero_count || job.accumulators;
  const int first = panel * kPanel;
  Epilogue<Shortcut, Residual, Accumulate> finish(job, first);
  Int inner[kVectors];
  for (int v = 0; v < kVectors; ++v) inner[v] = load(job.base_inner + first + v * kLanes);
  for (int x = from; x < to; x += kPixels) {
    Int counts[kPixels][kVectors];
    counter.template counts<Kernel>(job, x, panel, counts);
    if (x != 0 && x + kPixels < job.width && !slow) [[likely]] {
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        Int sums[kVectors];
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[v] = inner[v] - (counts[p][v] + counts[p][v]);
        finish(job, x + p, sums);
      }
      continue;
    }
    for (int p = 0; p < kPixels && x + p < job.width; ++p) {
      const int column = x + p;
      const std::int32_t* base = column == 0               ? job.base_first
                                 : column == job.width - 1 ? job.base_last
                                                           : job.base_inner;
      Int sums[kVectors];
      for (int v = 0; v < kVectors; ++v)
        sums[v] = load(base + first + v * kLanes) - (counts[p][v] + counts[p][v]);
      if (slow) {
        finish_slowly(job, column, panel, sums);
        if (job.accumulators) continue;
      }
      finish(job, column, sums);
    }
  }
  if (job.sums) finish.moments.add_to(job.sums + first, job.sums + job.channels + first);
}

template <int Kernel, bool Shortcut, bool Residual, bool Accumulate>
void binary_row_of(const BinaryRow& job) {
  Counter counter;
  const int panels = job.channels / kPanel, step = Counter::pixels(job);
  for (int panel = 0; panel < panels; panel += Counter::kPanels)
    for (int x = 0; x < job.width; x += step) {
      counter.template prepare<Kernel>(job, x, panel);
      const int end = x + step < job.width ? x + step : job.width;
      for (int i = panel; i < panel + Counter::kPanels && i < panels; ++i)
        finish_pixels<Kernel, Shortcut, Residual, Accumulate>(job, counter, x, end, i);
    }
}

template <int Kernel>
inline void binary_row_with(const BinaryRow& job) {
  const int what = (job.shortcut ? 4 : 0) + (job.residual ? 2 : 0) + (job.accumulate ? 1 : 0);
  constexpr void (*kVariants[8])(const BinaryRow&) = {
      binary_row_of<Kernel, false, false, false>, binary_row_of<Kernel, false, false, true>,
      binary_row_of<Kernel, false, true, false>,  binary_row_of<Kernel, false, true, true>,
      binary_row_of<Kernel, true, false, false>,  binary_row_of<Kernel, true, false, true>,
      binary_row_of<Kernel, true, true, false>,   binary_row_of<Kernel, true, true, true>};
  kVariants[what](job);
}

void binary_row(const BinaryRow& job) {
  if (job.window_words)
    binary_row_with<0>(job);
  else if (job.kernel == 1)
    binary_row_with<1>(job);
  else
    binary_row_with<3>(job);
}

void sign_row(const float* x, std::ptrdiff_t stride, int width, int channels,
              const float* threshold, std::uint64_t* bits, int words) {
  for (int pixel = 0; pixel < width; ++pixel, x += stride, bits += words) {
    for (int word = 0; word < words; ++word) {
      std::uint64_t packed = 0;
      for (int c = word * 64; c < channels && c < word * 64 + 64; c += kLanes)
        packed |= static_cast<std::uint64_t>(Isa::at_least(load(x + c), load(threshold + c)))
                  << (c % 64);
      bits[word] = packed;
    }
  }
}

// ---- normalization -----------------------------------------------------------------------------

template <bool Silu, class Element>
inline void normalize(const Element* x, float* output, int width, int channels, const float* scale,
                      const float* shift) {
  // The next row follows this one, and memory is further away than the hardware looks ahead.
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(width) * channels;
  for (int pixel = 0; pixel < width; ++pixel, x += channels, output += channels)
    for (int c = 0; c < channels; c += kLanes) {
      __builtin_prefetch(x + c + row);
      Float z = load(x + c) * load(scale + c) + load(shift + c);
      if constexpr (Silu) z = z * reciprocal(exponential(-z) + 1.0f);
      store(output + c, z);
    }
}

template <class Element>
void normalize_row(const Element* x, float* output, int width, int channels, const float* scale,
                   const float* shift, bool silu) {
  if (silu)
    normalize<true>(x, output, width, channels, scale, shift);
  else
    normalize<false>(x, output, width, channels, scale, shift);
}

void sum_row(const float* x, int width, int channels, float* sum, float* square) {
  for (int c = 0; c < channels; c += kLanes) {
    Float s = {}, q = {};
    const float* pixel = x + c;
    for (int i = 0; i < width; ++i, pixel += channels) {
      const Float value = load(pixel);
      s = s + value;
      q = q + value * value;
    }
    store(sum + c, s);
    store(square + c, q);
  }
}

// ---- matrix products ---------------------------------------------------------------------------

struct DotF32 {
  using Element = float;
  static constexpr int kStep = 1;  // elements of k a step
  static inline Float weights(const Element* b) { return load(b); }
  static inline Float broadcast(const Element* a) { return splat(*a); }
  static inline Float add(Float sum, Float a, Float b) { return a * b + sum; }
};

template <class Dot, int Rows, int Panels>
inline void gemm_tile(const Gemm& job, int row, int panel) {
  using Element = typename Dot::Element;
  constexpr int kWide = Panels * kVectors;
  Float sum[Rows][kWide];
  float* c = job.c + row * job.c_stride + panel * kPanel;
#pragma GCC unroll 16
  for (int v = 0; v < kWide; ++v) {
    const Float start = job.bias ? load(job.bias + panel * kPanel + v * kLanes) : Float{};
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) sum[r][v] = start;
  }
  const Element* a = static_cast<const Element*>(job.a) + row * job.a_stride;
  const std::ptrdiff_t panel_size = static_cast<std::ptrdiff_t>(job.k) * kPanel;
  const Element* b = static_cast<const Element*>(job.b) + panel * panel_size;
  for (int k = 0; k < job.k; k += Dot::kStep) {
    Float w[kWide];
#pragma GCC unroll 16
    for (int v = 0; v < kWide; ++v)
      w[v] = Dot::weights(b + (v / kVectors) * panel_size + (v % kVectors) * kLanes * Dot::kStep);
    b += kPanel * Dot::kStep;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Float value = Dot::broadcast(a + r * job.a_stride + k);
#pragma GCC unroll 16
      for (int v = 0; v < kWide; ++v) sum[r][v] = Dot::add(sum[r][v], value, w[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kWide; ++v) {
      float* to = c + r * job.c_stride + v * kLanes;
      store(to, job.accumulate ? load(to) + sum[r][v] : sum[r][v]);
    }
}

template <class Dot, int Rows, int Panels>
inline void gemm_rest(const Gemm& job, int row, int panel) {
  if constexpr (Rows > 0) {
    if (job.m - row == Rows)
      gemm_tile<Dot, Rows, Panels>(job, row, panel);
    else
      gemm_rest<Dot, Rows - 1, Panels>(job, row, panel);
  }
}

template <class Dot, int Panels>
inline void gemm_panels(const Gemm& job, int panel) {
  int row = 0;
  for (; row + Isa::kRows <= job.m; row += Isa::kRows)
    gemm_tile<Dot, Isa::kRows, Panels>(job, row, panel);
  gemm_rest<Dot, Isa::kRows - 1, Panels>(job, row, panel);
}

template <class Dot, int Panels>
inline void gemm_narrow(const Gemm& job, int panel) {
  if constexpr (Panels > 0) {
    if (job.n / kPanel - panel == Panels)
      gemm_panels<Dot, Panels>(job, panel);
    else
      gemm_narrow<Dot, Panels - 1>(job, panel);
  }
}

template <class Dot>
inline void gemm(const Gemm& job) {
  int panel = 0;
  for (; panel + Isa::kPanels <= job.n / kPanel; panel += Isa::kPanels)
    gemm_panels<Dot, Isa::kPanels>(job, panel);
  gemm_narrow<Dot, Isa::kPanels - 1>(job, panel);
}

void gemm_f32(const Gemm& job) { gemm<DotF32>(job); }

// ---- Winograd (Lavin & Gray 2016)
// ----------------------------------------------------------------

// One row of a transform: the sum of coefficients times term(i), without those that are 0. It
// begins with a coefficient of 1, where there is one.
template <const auto& Matrix, int Row, class Term>
inline Float combine(const Term& term) {
  constexpr auto& kRow = Matrix[Row];
  constexpr int kTerms = static_cast<int>(sizeof kRow / sizeof *kRow);
  constexpr int kStart = [] {
    for (int i = 0; i < kTerms; ++i)
      if (kRow[i] == 1) return i;
    for (int i = 0; i < kTerms; ++i)
      if (kRow[i] != 0) return i;
    return 0;
  }();
  Float sum = kRow[kStart] == 1 ? term(kStart) : term(kStart) * kRow[kStart];
#pragma GCC unroll 8
  for (int i = 0; i < kTerms; ++i) {
    if (i == kStart || kRow[i] == 0) continue;
    if (kRow[i] == 1)
      sum = sum + term(i);
    else if (kRow[i] == -1)
      sum = sum - term(i);
    else
      sum = sum + term(i) * kRow[i];
  }
  return sum;
}

// All rows of a transform: into[i] is row i's.
template <const auto& Matrix, int I = 0, class Term>
inline void transform(const Term& term, Float* into) {
  into[I] = combine<Matrix, I>(term);
  if constexpr (I + 1 < static_cast<int>(sizeof Matrix / sizeof *Matrix))
    transform<Matrix, I + 1>(term, into);
}

struct KeepF32 {
  using Element = float;
  static constexpr int kWide = 1;  // vectors that are put at once
  static inline void put(Element* to, const Float* value) { store(to, *value); }
};

// Row I of Bᵀ d for all tiles, and from it row I of the planes, Put::kWide vectors of channels at a
// time from c on.
template <class F, class Put, int I>
inline void winograd_row(const WinogradInput& job, int c) {
  constexpr int kWide = Put::kWide, kKept = F::kInputs - F::kOutputs;
  using Element = typename Put::Element;
  Element* to = static_cast<Element*>(job.output) + F::kInputs * I * job.plane + c;
  const auto column = [&](std::ptrdiff_t pixel, Float* into) {
    const std::ptrdiff_t at = pixel * job.channels + c;
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v)
      into[v] = combine<F::kB, I>([&](int row) { return load(job.rows[row] + at + v * kLanes); });
  };
  Float d[F::kInputs][kWide];
#pragma GCC unroll 8
  for (int j = 0; j < kKept; ++j) column(j, d[j]);
  for (int tile = 0; tile < job.tiles; ++tile, to += job.channels) {
#pragma GCC unroll 8
    for (int j = kKept; j < F::kInputs; ++j) column(F::kOutputs * tile + j, d[j]);
    Float result[F::kInputs][kWide];
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) {
      Float one[F::kInputs];
      transform<F::kB>([&](int j) { return d[j][v]; }, one);
#pragma GCC unroll 8
      for (int j = 0; j < F::kInputs; ++j) result[j][v] = one[j];
#pragma GCC unroll 8
      for (int j = 0; j < kKept; ++j) d[j][v] = d[F::kOutputs + j][v];
    }
#pragma GCC unroll 8
    for (int j = 0; j < F::kInputs; ++j) Put::put(to + j * job.plane, result[j]);
  }
}

template <class F, class Put, int I = 0>
inline void winograd_channels(const WinogradInput& job, int c) {
  winograd_row<F, Put, I>(job, c);
  if constexpr (I + 1 < F::kInputs) winograd_channels<F, Put, I + 1>(job, c);
}

// The channels in steps of Wide's vectors, what is left in single ones.
template <class F, class Wide, class Single>
inline void winograd_input(const WinogradInput& job) {
  int c = 0;
  for (; c + Wide::kWide * kLanes <= job.channels; c += Wide::kWide * kLanes)
    winograd_channels<F, Wide>(job, c);
  for (; c < job.channels; c += kLanes) winograd_channels<F, Single>(job, c);
}

template <class F>
void winograd_input_f32(const WinogradInput& job) {
  winograd_input<F, KeepF32, KeepF32>(job);
}

// Where results of a Winograd convolution go and what is added to them.
struct PlainResults {
  const WinogradOutput& job;
  inline Float add(std::ptrdiff_t at, Float value) const {
    if (job.residual) value = value + load(job.residual + at);
    if (job.accumulate) value = value + load(job.output + at);
    return value;
  }
  inline void put(std::ptrdiff_t at, Float value) const { store(job.output + at, value); }
};

// Panels of channels from `first` on. Sums stay in registers, so their number is fixed.
template <class F, int Panels, class Results>
inline void winograd_panels(const WinogradOutput& job, int first) {
  constexpr int kWide = Panels * kVectors;
  const Results results{job};
  Float sum[kWide] = {}, square[kWide] = {};
  const float* m = job.products + first;
  for (int tile = 0; tile < job.tiles; ++tile, m += job.columns) {
    const int left = job.width - F::kOutputs * tile;
    const int columns = left < F::kOutputs ? left : F::kOutputs;
    const std::ptrdiff_t at = F::kOutputs * tile * job.pixel_stride + first;
#pragma GCC unroll 16
    for (int v = 0; v < kWide; ++v) {
      Float half[F::kInputs][F::kOutputs];  // columns of Aᵀ m
#pragma GCC unroll 8
      for (int j = 0; j < F::kInputs; ++j) {
        const float* column = m + v * kLanes + j * job.plane;
        transform<F::kA>([&](int i) { return load(column + i * F::kInputs * job.plane); }, half[j]);
      }
      const Float bias = load(job.bias + first + v * kLanes);
      for (int i = 0; i < job.rows; ++i) {
        Float y[F::kOutputs];
        transform<F::kA>([&](int j) { return half[j][i]; }, y);
        for (int j = 0; j < columns; ++j) {
          const std::ptrdiff_t to = at + i * job.row_stride + j * job.pixel_stride + v * kLanes;
          const Float value = results.add(to, y[j] + bias);
          results.put(to, value);
          sum[v] = sum[v] + value;
          square[v] = square[v] + value * value;
        }
      }
    }
  }
  for (int v = 0; job.sums && v < kWide; ++v) {
    float* to = job.sums + first + v * kLanes;
    store(to, load(to) + sum[v]);
    to = job.squares + first + v * kLanes;
    store(to, load(to) + square[v]);
  }
}

template <class F, class Results>
inline void winograd_results(const WinogradOutput& job) {
  constexpr int kMost = 4;
  int panel = 0;
  for (; panel + kMost <= job.columns / kPanel; panel += kMost)
    winograd_panels<F, kMost, Results>(job, panel * kPanel);
  for (; panel < job.columns / kPanel; ++panel) winograd_panels<F, 1, Results>(job, panel * kPanel);
}

template <class F>
void winograd_output_f32(const WinogradOutput& job) {
  winograd_results<F, PlainResults>(job);
}

// ---- the rest ----------------------------------------------------------------------------------

void softmax_block(float* scores, std::ptrdiff_t stride, int rows, int columns, float* maxima,
                   float* sums, float* decay) {
  for (int row = 0; row < rows; ++row, scores += stride) {
    // Columns beyond the last whole vector are handled one by one.
    const int whole = columns - columns % kLanes;
    float top = maxima[row];
    Float tops = splat(top);
    for (int i = 0; i < whole; i += kLanes) tops = maximum(tops, load(scores + i));
    for (int i = 0; i < kLanes; ++i) top = tops[i] > top ? tops[i] : top;
    for (int i = whole; i < columns; ++i) top = scores[i] > top ? scores[i] : top;
    decay[row] = exponential(splat(maxima[row] - top))[0];
    Float sum = {};
    for (int i = 0; i < whole; i += kLanes) {
      const Float p = exponential(load(scores + i) - top);
      store(scores + i, p);
      sum = sum + p;
    }
    float total = sums[row] * decay[row];
    for (int i = 0; i < kLanes; ++i) total += sum[i];
    for (int i = whole; i < columns; ++i) {
      scores[i] = exponential(splat(scores[i] - top))[0];
      total += scores[i];
    }
    maxima[row] = top;
    sums[row] = total;
  }
}

void scale_row(float* x, int count, float factor) {
  for (int i = 0; i < count; ++i) x[i] *= factor;
}

void split_row(const float* x, std::ptrdiff_t stride, int width, int half, float* even, float* odd,
               std::ptrdiff_t output_stride) {
  for (int pixel = 0; pixel < width; ++pixel) {
    for (int c = 0; c < half; ++c) even[c] = x[2 * c];
    for (int c = 0; c < half; ++c) odd[c] = x[2 * c + 1];
    x += stride;
    even += output_stride;
    odd += output_stride;
  }
}

void unshuffle_rows(const float* top, const float* bottom, std::ptrdiff_t stride, int width_out,
                    int channels, float* output, std::ptrdiff_t output_stride) {
  for (int pixel = 0; pixel < width_out; ++pixel) {
    for (int c = 0; c < channels; ++c) {
      output[4 * c + 0] = top[c];
      output[4 * c + 1] = top[stride + c];
      output[4 * c + 2] = bottom[c];
      output[4 * c + 3] = bottom[stride + c];
    }
    top += 2 * stride;
    bottom += 2 * stride;
    output += output_stride;
  }
}

void shuffle_rows(const float* x, std::ptrdiff_t stride, int width_in, int channels, float* top,
                  float* bottom, std::ptrdiff_t output_stride) {
  for (int pixel = 0; pixel < width_in; ++pixel) {
    for (int c = 0; c < channels; ++c) {
      top[c] = x[4 * c + 0];
      top[output_stride + c] = x[4 * c + 1];
      bottom[c] = x[4 * c + 2];
      bottom[output_stride + c] = x[4 * c + 3];
    }
    x += stride;
    top += 2 * output_stride;
    bottom += 2 * output_stride;
  }
}

// ---- ceilings ----------------------------------------------------------------------------------

// Opaque to the optimizer: the value might have changed.
template <class T>
inline void hide(T& value) {
  asm volatile("" : "+m"(value));
}

double peak_binary(int rounds) {
  Counter::Ceiling loop;
  hide(loop);
  for (int i = 0; i < rounds; ++i) loop.step(i);
  hide(loop);
  return Counter::Ceiling::kProducts * rounds;
}

template <class Dot>
double peak_of(int rounds) {
  constexpr int kSums = Isa::kRows * (Isa::kPanels > 1 ? Isa::kPanels : kVectors);
  Float sums[kSums] = {};
  Float a = splat(1.0f), b = splat(0.5f);
  hide(a);
  hide(b);
  for (int i = 0; i < rounds; ++i)
#pragma GCC unroll 32
    for (int s = 0; s < kSums; ++s) sums[s] = Dot::add(sums[s], a, b);
  hide(sums);
  return static_cast<double>(Dot::kStep) * kLanes * kSums * rounds;
}

double peak_f32(int rounds) { return peak_of<DotF32>(rounds); }

constexpr Kernel make_kernel(const char* name) {
  Kernel kernel{};
  kernel.name = name;
  kernel.weight_words = Counter::kWeightWords;
  kernel.arrange_signs = Counter::arrange;
  kernel.binary_row = binary_row;
  kernel.sign_row = sign_row;
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
