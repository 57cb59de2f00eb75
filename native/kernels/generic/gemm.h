// Matrix products, tile by tile.

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
  const std::ptrdiff_t panel_size = static_cast<std::ptrdiff_t>(job.k) * kPanel * job.parts;
  const Element* b = static_cast<const Element*>(job.b) + panel * panel_size;
  for (int part = 0; part < job.parts; ++part) {
    const Element* a = static_cast<const Element*>(job.a[part]) + row * job.a_stride;
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
