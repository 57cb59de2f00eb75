// The transforms before and after the products of Winograd's convolution (Lavin & Gray 2016).

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
