// A row of a binarized convolution: from differing bits to float32 results.

// Takes off what zero weights were counted as at one pixel, +1 times the activation.
inline void subtract_zero_weights(const BinaryRow& job, int column, int panel, std::int32_t* sums) {
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

// What a row has beside one plane of bits.
enum class Extra { kNothing, kPixelScale, kSecondPlane };

// What follows the integers: alpha, RPReLU, shortcut and residual (ops/binary_conv.h, steps 7, 8
// and 11). One panel's vectors, held in registers along a row.
template <Extra What, bool Shortcut, bool Residual, bool Accumulate>
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
      Float y = to_float(sums[v]);
      if constexpr (What == Extra::kPixelScale) y = y * job.pixel_scale[column];
      y = y * scale[v] + bias_in[v];
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
inline void correct_rare_cases(const BinaryRow& job, int column, int panel, Int* sums) {
  std::int32_t plain[kPanel];
  __builtin_memcpy(plain, sums, sizeof plain);
  subtract_zero_weights(job, column, panel, plain);
  if (job.accumulators)
    __builtin_memcpy(
        job.accumulators + static_cast<std::ptrdiff_t>(column) * job.channels + panel * kPanel,
        plain, sizeof plain);
  __builtin_memcpy(sums, plain, sizeof plain);
}

// Pixels `from` to `to` of one panel, whose counts are prepared: accumulator = base - 2 · count,
// then the epilogue (ops/binary_conv.h, steps 2, 6 and 12).
template <int Kernel, Extra What, bool Shortcut, bool Residual, bool Accumulate>
inline void emit_pixels(const BinaryRow& job, const Counter& counter, const Counter& second,
                        int from, int to, int panel) {
  constexpr int kPixels = Counter::kPixels;
  const bool slow = job.zero_count || job.accumulators;
  const int first = panel * kPanel;
  Epilogue<What, Shortcut, Residual, Accumulate> epilogue(job, first);
  Int inner[kVectors];
  for (int v = 0; v < kVectors; ++v) inner[v] = load(job.base_inner + first + v * kLanes);
  for (int x = from; x < to; x += kPixels) {
    Int counts[kPixels][kVectors];
    counter.template counts<Kernel>(job, x, panel, counts);
    if constexpr (What == Extra::kSecondPlane) {
      Int more[kPixels][kVectors];
      second.template counts<Kernel>(*job.twice, x, panel, more);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) counts[p][v] = counts[p][v] + (more[p][v] + more[p][v]);
    }
    if (x != 0 && x + kPixels < job.width && !slow) [[likely]] {
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        Int sums[kVectors];
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[v] = inner[v] - (counts[p][v] + counts[p][v]);
        epilogue(job, x + p, sums);
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
        correct_rare_cases(job, column, panel, sums);
        if (job.accumulators) continue;
      }
      epilogue(job, column, sums);
    }
  }
  if (job.sums) epilogue.moments.add_to(job.sums + first, job.sums + job.channels + first);
}

template <int Kernel, Extra What, bool Shortcut, bool Residual, bool Accumulate>
void binary_row_of(const BinaryRow& job) {
  Counter counter, second;
  const int panels = job.channels / kPanel, step = Counter::pixels(job);
  for (int panel = 0; panel < panels; panel += Counter::kPanels)
    for (int x = 0; x < job.width; x += step) {
      counter.template prepare<Kernel>(job, x, panel);
      if constexpr (What == Extra::kSecondPlane)
        second.template prepare<Kernel>(*job.twice, x, panel);
      const int end = x + step < job.width ? x + step : job.width;
      for (int i = panel; i < panel + Counter::kPanels && i < panels; ++i)
        emit_pixels<Kernel, What, Shortcut, Residual, Accumulate>(job, counter, second, x, end, i);
    }
}

template <int Kernel, Extra What>
inline void binary_row_and(const BinaryRow& job) {
  const int what = (job.shortcut ? 4 : 0) + (job.residual ? 2 : 0) + (job.accumulate ? 1 : 0);
  constexpr void (*kVariants[8])(const BinaryRow&) = {
      binary_row_of<Kernel, What, false, false, false>,
      binary_row_of<Kernel, What, false, false, true>,
      binary_row_of<Kernel, What, false, true, false>,
      binary_row_of<Kernel, What, false, true, true>,
      binary_row_of<Kernel, What, true, false, false>,
      binary_row_of<Kernel, What, true, false, true>,
      binary_row_of<Kernel, What, true, true, false>,
      binary_row_of<Kernel, What, true, true, true>};
  kVariants[what](job);
}

template <int Kernel>
inline void binary_row_with(const BinaryRow& job) {
  if (job.twice)
    binary_row_and<Kernel, Extra::kSecondPlane>(job);
  else if (job.pixel_scale)
    binary_row_and<Kernel, Extra::kPixelScale>(job);
  else
    binary_row_and<Kernel, Extra::kNothing>(job);
}

void binary_row(const BinaryRow& job) {
  if (job.window_words)
    binary_row_with<0>(job);
  else if (job.kernel == 1)
    binary_row_with<1>(job);
  else
    binary_row_with<3>(job);
}
