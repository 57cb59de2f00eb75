#include <immintrin.h>

#include "kernels/kernel.h"

namespace bidiffsr {
namespace {
#include "kernels/isa/avx512_bf16.h"

// Tile registers, 16 rows of 64 bytes each: sums of up to 2 × 2 blocks of 16 × 16 outputs (0 to 3),
// inputs of up to two blocks of rows (4 and 5), weights of up to two panels (6 and 7). Their
// numbers are part of the instructions, so they are literals.
constexpr int kTileRows = 16;
constexpr int kTileInputs = 32;  // bfloat16 in a row of a tile
constexpr int kSumBytes = kPanel * sizeof(float);

// What LDTILECFG reads.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// For blocks of `rows` rows and steps of `inputs`.
inline void shape_tiles(int rows, int inputs) {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    const bool weights = tile >= 6, sums = tile < 4;
    shapes.rows[tile] = static_cast<std::uint8_t>(weights ? inputs / 2 : rows);
    shapes.row_bytes[tile] = static_cast<std::uint16_t>(
        sums || weights ? kSumBytes : inputs * static_cast<int>(sizeof(std::uint16_t)));
  }
  // GCC's intrinsics for tiles are assembly that does not say what memory it reads.
  asm volatile("" ::"m"(shapes));
  _tile_loadconfig(&shapes);
}

// One or two blocks of rows by one or two panels, in steps of `step` inputs.
template <bool TwoRows, bool TwoPanels>
inline void tile_block(const Gemm& job, int row, int panel, int step) {
  const std::ptrdiff_t panel_size = static_cast<std::ptrdiff_t>(job.k) * kPanel * job.parts;
  const std::ptrdiff_t a_bytes = job.a_stride * static_cast<std::ptrdiff_t>(sizeof(std::uint16_t));
  const std::ptrdiff_t c_bytes = job.c_stride * static_cast<std::ptrdiff_t>(sizeof(float));
  float* c = job.c + row * job.c_stride + panel * kPanel;
  float* const c_below = c + kTileRows * job.c_stride;
  if (job.accumulate || job.bias) {
    // A distance of 0 makes every row the bias.
    const float* from = job.accumulate ? c : job.bias + panel * kPanel;
    const float* below = job.accumulate ? c_below : from;
    const std::ptrdiff_t bytes = job.accumulate ? c_bytes : 0;
    _tile_loadd(0, from, bytes);
    if constexpr (TwoPanels) _tile_loadd(1, from + kPanel, bytes);
    if constexpr (TwoRows) _tile_loadd(2, below, bytes);
    if constexpr (TwoRows && TwoPanels) _tile_loadd(3, below + kPanel, bytes);
  } else {
    _tile_zero(0);
    if constexpr (TwoPanels) _tile_zero(1);
    if constexpr (TwoRows) _tile_zero(2);
    if constexpr (TwoRows && TwoPanels) _tile_zero(3);
  }
  const auto* b = static_cast<const std::uint16_t*>(job.b) + panel * panel_size;
  for (int part = 0; part < job.parts; ++part) {
    const auto* a = static_cast<const std::uint16_t*>(job.a[part]) + row * job.a_stride;
    for (int k = 0; k < job.k; k += step, a += step, b += step * kPanel) {
      _tile_loadd(6, b, kSumBytes);
      _tile_loadd(4, a, a_bytes);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (TwoPanels) {
        _tile_loadd(7, b + panel_size, kSumBytes);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (TwoRows) {
        _tile_loadd(5, a + kTileRows * job.a_stride, a_bytes);
        _tile_dpbf16ps(2, 5, 6);
      }
      if constexpr (TwoRows && TwoPanels) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, c_bytes);
  if constexpr (TwoPanels) _tile_stored(1, c + kPanel, c_bytes);
  if constexpr (TwoRows) _tile_stored(2, c_below, c_bytes);
  if constexpr (TwoRows && TwoPanels) _tile_stored(3, c_below + kPanel, c_bytes);
}

template <bool TwoPanels>
inline void tile_panels(const Gemm& job, int first, int last, int panel, int step) {
  int row = first;
  for (; row + 2 * kTileRows <= last; row += 2 * kTileRows)
    tile_block<true, TwoPanels>(job, row, panel, step);
  if (row < last) tile_block<false, TwoPanels>(job, row, panel, step);
}

// Rows from first to last - 1, in blocks of `rows`.
inline void tile_rows(const Gemm& job, int first, int last, int rows, int step) {
  shape_tiles(rows, step);
  int panel = 0;
  for (; panel + 2 <= job.n / kPanel; panel += 2) tile_panels<true>(job, first, last, panel, step);
  if (panel < job.n / kPanel) tile_panels<false>(job, first, last, panel, step);
}

// The most inputs, pairs of them, that fit into a tile and divide k.
constexpr int tile_step(int k) {
  int step = k < kTileInputs ? k : kTileInputs;
  while (k % step || step % 2) --step;
  return step;
}
static_assert(tile_step(96) == 32 && tile_step(144) == 24 && tile_step(18) == 18);

void gemm_tiles(const Gemm& job) {
  if (job.bias && job.accumulate)
    for (int row = 0; row < job.m; ++row)
      for (int column = 0; column < job.n; column += kPanel) {
        float* c = job.c + row * job.c_stride + column;
        store(c, load(c) + load(job.bias + column));
      }
  asm volatile("" ::: "memory");  // as above, of what the callers and the loop wrote
  const int step = tile_step(job.k), rest = job.m % kTileRows, whole = job.m - rest;
  if (whole) tile_rows(job, 0, whole, kTileRows, step);
  if (rest) tile_rows(job, whole, job.m, rest, step);
  _tile_release();
}

double peak_tiles(int rounds) {
  shape_tiles(kTileRows, kTileInputs);
  for (int i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4.0 * kTileRows * kPanel * kTileInputs * rounds;
}

constexpr Kernel make_amx_kernel(const char* name) {
  Kernel kernel = make_bf16_kernel(name);
  kernel.gemm_bf16 = gemm_tiles;
  kernel.direct_output_bf16 = rounded_output<Direct>;
  kernel.peak_bf16 = peak_tiles;
  return kernel;
}
}  // namespace

extern const Kernel kAvx512Amx;
const Kernel kAvx512Amx = make_amx_kernel("avx512_amx");

}  // namespace bidiffsr
