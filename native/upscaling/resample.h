// The two bicubics around the network, as `bidiffsr.images.resize` has them.
#pragma once

#include <cstddef>
#include <vector>

namespace bidiffsr {

// One axis of a separable filter: out[o] = sum over t of weights[o][t] · in[indices[o][t]].
struct Taps {
  int outputs = 0, each = 0;
  std::vector<int> indices;     // [outputs][each]
  std::vector<double> weights;  // [outputs][each]
};
// MATLAB's imresize: Keys' kernel with a = -0.5, widened where it shrinks, the picture mirrored.
Taps imresize_taps(int size, double scale, int length);
// OpenCV's INTER_CUBIC for a whole factor: Keys' kernel with a = -0.75, the edge repeated.
Taps cubic_taps(int size, int factor);

// The length of a side after imresize.
int resized_length(int length, double scale);

// One channel of a picture, float32; `stride` values from one row to the next.
struct Plane {
  const float* values;
  int width;
  std::ptrdiff_t stride;
};

// All sums run in double, tap by tap, rows first.

// Row `y` of a filtered plane, columns.outputs values, in `scratch`, which may be of any size.
void resample_row(const Plane& plane, const Taps& rows, const Taps& columns, int y,
                  std::vector<double>& scratch, float* result);

// The same for planes that are enlarged by a whole factor, both axes by `cubic_taps`: neighbouring
// outputs of one phase see neighbouring inputs, which suits vectors.
class CubicEnlarger {
 public:
  CubicEnlarger(int height, int width, int factor);
  // Row `y`, width · factor values.
  void row(const Plane& plane, int y, std::vector<double>& scratch, float* result) const;

 private:
  int width_, factor_;
  Taps rows_;
  std::vector<int> first_;       // [factor]: of a phase's first input after the output's own
  std::vector<double> weights_;  // [factor][tap][width]
};

}  // namespace bidiffsr
