// Every kernel's algorithms, written once over the primitives that an instruction set gives in a
// struct `Isa` (docs/engine.md, "Adding an instruction set"):
//
//   kLanes          float lanes of a vector, at most kPanel
//   Float, Int      vectors of kLanes floats and of as many int32 (GCC vector extension)
//   at_least(a, b)  bit i is whether a[i] >= b[i]
//   Words           vector of kWordLanes 64-bit words; load, broadcast
//   Partial, Total  running counts of one bits; kFlush words fit into a Partial
//   count, flush, narrow (two Totals to one Int)
//   kPixels         pixels of a tile of the binary convolution, at most kPixelSlack
//   kRows, kPanels  rows and panels of a tile of a matrix product
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
inline Float splat(float x) { return Float{} + x; }
inline Float to_float(Int x) { return __builtin_convertvector(x, Float); }
inline Float maximum(Float a, Float b) { return a > b ? a : b; }
inline Float minimum(Float a, Float b) { return a < b ? a : b; }

// e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, Taylor's polynomial for e^r.
inline Float exponential(Float x) {
  x = minimum(maximum(x, splat(-87.0f)), splat(88.0f));
  const Float magic = splat(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
  const Float shifted = x * 1.44269504f + magic;
  const Float n = shifted - magic;
  Float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Float p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Int exponent = (__builtin_convertvector(n, Int) + 127) << 23;
  Float power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  return p * power;
}

// ---- binary convolution ------------------------------------------------------------------------

constexpr int kWordVectors = kPanel / Isa::kWordLanes;
static_assert(kWordVectors == 2 * kVectors);

// Differing bits between kPixels pixels and one panel of outputs, over all taps.
template <int Kernel>
inline void mismatches(const BinaryRow& job, int x, const std::uint64_t* weights,
                       Int (&counts)[Isa::kPixels][kVectors]) {
  typename Isa::Partial partial[Isa::kPixels][kWordVectors] = {};
  [[maybe_unused]] typename Isa::Total total[Isa::kPixels][kWordVectors] = {};
  [[maybe_unused]] int left = Isa::kFlush;
  const std::ptrdiff_t pixel = static_cast<std::ptrdiff_t>(job.stride) * job.words;
  for (int row = 0; row < Kernel; ++row) {
    const std::uint64_t* bits = job.rows[row] + x * pixel;
    for (int word = 0; word < Kernel * job.words; ++word) {  // taps of a row are neighbours
      typename Isa::Words w[kWordVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kWordVectors; ++v) w[v] = Isa::load(weights + v * Isa::kWordLanes);
      weights += kPanel;
#pragma GCC unroll 16
      for (int p = 0; p < Isa::kPixels; ++p) {
        const typename Isa::Words a = Isa::broadcast(bits[word + p * pixel]);
#pragma GCC unroll 16
        for (int v = 0; v < kWordVectors; ++v) partial[p][v] = Isa::count(partial[p][v], a ^ w[v]);
      }
      if constexpr (Isa::kFlush > 0) {
        if (--left == 0) {
          left = Isa::kFlush;
          for (int p = 0; p < Isa::kPixels; ++p)
            for (int v = 0; v < kWordVectors; ++v) {
              total[p][v] = Isa::flush(total[p][v], partial[p][v]);
              partial[p][v] = typename Isa::Partial{};
            }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < Isa::kPixels; ++p)
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      counts[p][v] = Isa::narrow(Isa::flush(total[p][2 * v], partial[p][2 * v]),
                                 Isa::flush(total[p][2 * v + 1], partial[p][2 * v + 1]));
}

// What zero weights were counted as, which is +1 times the activation, at one pixel.
inline void take_back_zeros(const BinaryRow& job, int column, int panel, std::int32_t* sums) {
  const int edge = job.kernel / 2;
  for (int i = 0; i < job.zero_count; ++i) {
    const ZeroWeight& zero = job.zeros[i];
    const int at = column * job.stride + zero.tap_column;  // 0 is the pixel left of the row
    const bool inside = at >= edge && at < job.width_in + edge && job.row_inside[zero.tap_row];
    if (zero.output / kPanel != panel || !inside) continue;
    const std::uint64_t word = job.rows[zero.tap_row][static_cast<std::ptrdiff_t>(at) * job.words +
                                                      zero.channel / 64];
    sums[zero.output % kPanel] -= (word >> (zero.channel % 64)) & 1 ? 1 : -1;
  }
}

template <int Kernel>
inline void binary_row_of(const BinaryRow& job) {
  const std::ptrdiff_t panel_words =
      static_cast<std::ptrdiff_t>(Kernel) * Kernel * job.words * kPanel;
  for (int panel = 0; panel < job.channels / kPanel; ++panel) {
    const int first = panel * kPanel;
    for (int x = 0; x < job.width; x += Isa::kPixels) {
      Int counts[Isa::kPixels][kVectors];
      mismatches<Kernel>(job, x, job.weights + panel * panel_words, counts);
#pragma GCC unroll 16
      for (int p = 0; p < Isa::kPixels; ++p) {
        const int column = x + p;
        if (column >= job.width) break;
        const std::int32_t* base = column == 0                ? job.base_first
                                   : column == job.width - 1 ? job.base_last
                                                             : job.base_inner;
        Int sums[kVectors];
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v)
          sums[v] = load(base + first + v * kLanes) - (counts[p][v] + counts[p][v]);
        if (job.zero_count) [[unlikely]] {
          std::int32_t plain[kPanel];
          __builtin_memcpy(plain, sums, sizeof plain);
          take_back_zeros(job, column, panel, plain);
          __builtin_memcpy(sums, plain, sizeof plain);
        }
        if (job.accumulators) [[unlikely]] {
          const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(column) * job.channels + first;
          __builtin_memcpy(job.accumulators + at, sums, sizeof sums);
          continue;
        }
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          const int c = first + v * kLanes;
          Float y = to_float(sums[v]) * load(job.scale + c) + load(job.bias_in + c);
          y = y >= 0.0f ? y : y * load(job.slope + c);
          y = y + load(job.bias_out + c);
          if (job.shortcut) y = y + load(job.shortcut + column * job.shortcut_stride + c);
          if (job.residual) y = y + load(job.residual + column * job.residual_stride + c);
          float* output = job.output + column * job.output_stride + c;
          store(output, job.accumulate ? load(output) + y : y);
        }
      }
    }
  }
}

void binary_row(const BinaryRow& job) {
  if (job.kernel == 1)
    binary_row_of<1>(job);
  else
    binary_row_of<3>(job);
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

template <bool Silu>
inline void normalize(const float* x, float* output, int width, int channels, const float* scale,
                      const float* shift) {
  for (int pixel = 0; pixel < width; ++pixel, x += channels, output += channels)
    for (int c = 0; c < channels; c += kLanes) {
      Float z = load(x + c) * load(scale + c) + load(shift + c);
      if constexpr (Silu) z = z / (exponential(-z) + 1.0f);
      store(output + c, z);
    }
}

void normalize_row(const float* x, float* output, int width, int channels, const float* scale,
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

// ---- Winograd F(2×2, 3×3): Y = Aᵀ [U ⊙ (Bᵀ d B)] A (Lavin & Gray 2016) ---------------------------

struct KeepF32 {
  using Element = float;
  static inline void put(Element* to, Float value) { store(to, value); }
};

template <class Put>
inline void winograd_input(const WinogradInput& job) {
  using Element = typename Put::Element;
  Element* output = static_cast<Element*>(job.output);
  for (int c = 0; c < job.channels; c += kLanes) {
    Float column[4][4];  // [column of the tile][row of Bᵀ d]
    const auto transform = [&](int pixel, Float* into) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(pixel) * job.channels + c;
      const Float d0 = load(job.rows[0] + at), d1 = load(job.rows[1] + at);
      const Float d2 = load(job.rows[2] + at), d3 = load(job.rows[3] + at);
      into[0] = d0 - d2;
      into[1] = d1 + d2;
      into[2] = d2 - d1;
      into[3] = d1 - d3;
    };
    transform(0, column[0]);
    transform(1, column[1]);
    for (int tile = 0; tile < job.tiles; ++tile) {
      transform(2 * tile + 2, column[2]);
      transform(2 * tile + 3, column[3]);
      Element* to = output + static_cast<std::ptrdiff_t>(tile) * job.channels + c;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        Put::put(to + (4 * i + 0) * job.plane, column[0][i] - column[2][i]);
        Put::put(to + (4 * i + 1) * job.plane, column[1][i] + column[2][i]);
        Put::put(to + (4 * i + 2) * job.plane, column[2][i] - column[1][i]);
        Put::put(to + (4 * i + 3) * job.plane, column[1][i] - column[3][i]);
        column[0][i] = column[2][i];
        column[1][i] = column[3][i];
      }
    }
  }
}

void winograd_input_f32(const WinogradInput& job) { winograd_input<KeepF32>(job); }

void winograd_output(const WinogradOutput& job) {
  for (int tile = 0; tile < job.tiles; ++tile)
    for (int c = 0; c < job.columns; c += kLanes) {
      const float* m = job.products + static_cast<std::ptrdiff_t>(tile) * job.columns + c;
      Float half[2][4];  // rows of Aᵀ m
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const Float m0 = load(m + (0 + j) * job.plane), m1 = load(m + (4 + j) * job.plane);
        const Float m2 = load(m + (8 + j) * job.plane), m3 = load(m + (12 + j) * job.plane);
        half[0][j] = m0 + m1 + m2;
        half[1][j] = m1 - m2 - m3;
      }
      const Float bias = load(job.bias + c);
      for (int i = 0; i < job.rows; ++i) {
        const Float y[2] = {half[i][0] + half[i][1] + half[i][2] + bias,
                            half[i][1] - half[i][2] - half[i][3] + bias};
        for (int j = 0; j < 2 && 2 * tile + j < job.width; ++j) {
          const std::ptrdiff_t at = i * job.row_stride + (2 * tile + j) * job.pixel_stride + c;
          Float value = y[j];
          if (job.residual) value = value + load(job.residual + at);
          if (job.accumulate) value = value + load(job.output + at);
          store(job.output + at, value);
        }
      }
    }
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
  constexpr int kCounters = 16;
  typename Isa::Partial counters[kCounters] = {};
  std::uint64_t seed = 0x9e3779b97f4a7c15u;
  hide(seed);
  const typename Isa::Words bits = Isa::broadcast(seed);
  for (int i = 0; i < rounds; ++i) {
    const typename Isa::Words other = Isa::broadcast(static_cast<std::uint64_t>(i));
#pragma GCC unroll 16
    for (int c = 0; c < kCounters; ++c) counters[c] = Isa::count(counters[c], bits ^ (other + static_cast<std::uint64_t>(c)));
  }
  for (auto& counter : counters) hide(counter);
  return 64.0 * Isa::kWordLanes * kCounters * rounds;
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
  for (auto& sum : sums) hide(sum);
  return static_cast<double>(Dot::kStep) * kLanes * kSums * rounds;
}

double peak_f32(int rounds) { return peak_of<DotF32>(rounds); }

constexpr Kernel make_kernel(const char* name) {
  Kernel kernel{};
  kernel.name = name;
  kernel.binary_row = binary_row;
  kernel.sign_row = sign_row;
  kernel.normalize_row = normalize_row;
  kernel.sum_row = sum_row;
  kernel.gemm_f32 = gemm_f32;
  kernel.winograd_input_f32 = winograd_input_f32;
  kernel.winograd_output = winograd_output;
  kernel.softmax_block = softmax_block;
  kernel.scale_row = scale_row;
  kernel.split_row = split_row;
  kernel.unshuffle_rows = unshuffle_rows;
  kernel.shuffle_rows = shuffle_rows;
  kernel.peak_binary = peak_binary;
  kernel.peak_f32 = peak_f32;
  return kernel;
}
