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

// One tile's planes, Put::kWide vectors of channels from c on: Bᵀ d column by column, then each row
// of it times B.
template <class F, class Put>
inline void winograd_tile_input(const WinogradInput& job, int tile, int c) {
  constexpr int kWide = Put::kWide, kInputs = F::kInputs;
  Float half[kInputs][kWide][kInputs];
#pragma GCC unroll 8
  for (int j = 0; j < kInputs; ++j) {
    const std::ptrdiff_t at =
        static_cast<std::ptrdiff_t>(F::kOutputs * tile + j) * job.channels + c;
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v)
      transform<F::kB>([&](int row) { return load(job.rows[row] + at + v * kLanes); }, half[j][v]);
  }
  auto* to = static_cast<typename Put::Element*>(job.output) +
             static_cast<std::ptrdiff_t>(tile) * job.channels + c;
#pragma GCC unroll 8
  for (int i = 0; i < kInputs; ++i) {
    Float row[kWide][kInputs];
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) transform<F::kB>([&](int j) { return half[j][v][i]; }, row[v]);
#pragma GCC unroll 8
    for (int j = 0; j < kInputs; ++j, to += job.plane) {
      Float values[kWide];
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) values[v] = row[v][j];
      Put::put(to, values);
    }
  }
}

// The channels in steps of Wide's vectors, what is left in single ones.
template <class F, class Wide, class Single>
inline void winograd_input(const WinogradInput& job) {
  for (int tile = 0; tile < job.tiles; ++tile) {
    int c = 0;
    for (; c + Wide::kWide * kLanes <= job.channels; c += Wide::kWide * kLanes)
      winograd_tile_input<F, Wide>(job, tile, c);
    for (; c < job.channels; c += kLanes) winograd_tile_input<F, Single>(job, tile, c);
  }
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

// One tile's outputs, one vector of channels: Y = (Aᵀ m) A, what is added to it, and where it goes.
// What is Whole has all rows and columns, so that everything stays in registers.
template <class F, bool Whole, class Results>
inline void winograd_tile_output(const WinogradOutput& job, const Results& results, int columns,
                                 const float* products, Float bias, std::ptrdiff_t at, Float& sum,
                                 Float& square) {
  Float half[F::kInputs][F::kOutputs];  // columns of Aᵀ m
#pragma GCC unroll 8
  for (int j = 0; j < F::kInputs; ++j) {
    const float* column = products + j * job.plane;
    transform<F::kA>([&](int i) { return load(column + i * F::kInputs * job.plane); }, half[j]);
  }
  const auto emit = [&](Float y, std::ptrdiff_t to) {
    const Float value = results.add(to, y + bias);
    results.put(to, value);
    sum = sum + value;
    square = square + value * value;
  };
#pragma GCC unroll 8
  for (int i = 0; i < F::kOutputs; ++i) {
    if (!Whole && i == job.rows) break;
    Float y[F::kOutputs];
    transform<F::kA>([&](int j) { return half[j][i]; }, y);
#pragma GCC unroll 8
    for (int j = 0; j < F::kOutputs; ++j) {
      if (!Whole && j == columns) break;
      emit(y[j], at + i * job.row_stride + j * job.pixel_stride);
    }
  }
}

// Up to four panels of channels from `first` on.
template <class F, class Results>
inline void winograd_panels(const WinogradOutput& job, int first, int vectors) {
  constexpr int kMost = 4 * kVectors;
  const Results results{job};
  Float sum[kMost] = {}, square[kMost] = {};
  const float* m = job.products + first;
  for (int tile = 0; tile < job.tiles; ++tile, m += job.columns) {
    const int left = job.width - F::kOutputs * tile;
    const int columns = left < F::kOutputs ? left : F::kOutputs;
    const std::ptrdiff_t at = F::kOutputs * tile * job.pixel_stride + first;
    const bool whole = columns == F::kOutputs && job.rows == F::kOutputs;
    for (int v = 0; v < vectors; ++v) {
      const int c = v * kLanes;
      const Float bias = load(job.bias + first + c);
      if (whole) [[likely]]
        winograd_tile_output<F, true>(job, results, columns, m + c, bias, at + c, sum[v],
                                      square[v]);
      else
        winograd_tile_output<F, false>(job, results, columns, m + c, bias, at + c, sum[v],
                                       square[v]);
    }
  }
  for (int v = 0; job.sums && v < vectors; ++v) {
    float* to = job.sums + first + v * kLanes;
    store(to, load(to) + sum[v]);
    to = job.squares + first + v * kLanes;
    store(to, load(to) + square[v]);
  }
}

template <class F, class Results>
inline void winograd_results(const WinogradOutput& job) {
  constexpr int kMost = 4 * kPanel;
  for (int first = 0; first < job.columns; first += kMost) {
    const int left = job.columns - first;
    winograd_panels<F, Results>(job, first, (left < kMost ? left : kMost) / kLanes);
  }
}

template <class F>
void winograd_output_f32(const WinogradOutput& job) {
  winograd_results<F, PlainResults>(job);
}
