// Winograd's minimal filtering F(m × m, 3 × 3), m outputs a side from m + 2 inputs, by the matrices
// of its one-dimensional form (docs/engine.md, "Full-precision convolution"):
// Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A.
//
// Numbers only, as kernels with different instruction sets include it.
#pragma once

namespace bidiffsr {

// Each output a tile of its own, as after products done directly.
struct Direct {
  static constexpr int kOutputs = 1, kInputs = 1;
  static constexpr float kA[1][1] = {{1}};
};

// From the points 0, 1, -1 and infinity: transforms of additions alone.
struct WinogradF2 {
  static constexpr int kOutputs = 2, kInputs = 4;
  static constexpr float kB[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
  static constexpr double kG[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  static constexpr float kA[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
};

// From the points 0, ±p, ±q and infinity. These are exact in float32 and keep the numbers near 1,
// for a smaller error than that of the usual ±1 and ±2.
struct WinogradF4 {
  static constexpr int kOutputs = 4, kInputs = 6;
  static constexpr double p = 0.75, q = 1.5;
  static constexpr double pp = p * p, qq = q * q, np = 2 * pp * (pp - qq), nq = 2 * qq * (qq - pp);
  static constexpr float kB[6][6] = {
      {pp * qq, 0, -pp - qq, 0, 1, 0}, {0, -p * qq, -qq, p, 1, 0}, {0, p * qq, -qq, -p, 1, 0},
      {0, -q * pp, -pp, q, 1, 0},      {0, q * pp, -pp, -q, 1, 0}, {0, pp * qq, 0, -pp - qq, 0, 1}};
  static constexpr double kG[6][3] = {{1 / (pp * qq), 0, 0},      {1 / np, p / np, pp / np},
                                      {1 / np, -p / np, pp / np}, {1 / nq, q / nq, qq / nq},
                                      {1 / nq, -q / nq, qq / nq}, {0, 0, 1}};
  static constexpr float kA[4][6] = {{1, 1, 1, 1, 1, 0},
                                     {0, p, -p, q, -q, 0},
                                     {0, pp, pp, qq, qq, 0},
                                     {0, p * pp, -p * pp, q * qq, -q * qq, 1}};
};

}  // namespace bidiffsr
