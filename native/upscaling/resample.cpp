#include "upscaling/resample.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "runtime/checked.h"

namespace bidiffsr {

namespace {

// Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 15.
double keys_cubic(double distance, double a) {
  const double x = std::abs(distance);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

Taps make_taps(int outputs, int each) {
  const auto count = static_cast<std::size_t>(outputs) * static_cast<std::size_t>(each);
  return {outputs, each, std::vector<int>(count), std::vector<double>(count)};
}

// Leaves out the taps that no output needs.
void drop_unused(Taps& taps) {
  std::vector<int> used;
  for (int t = 0; t < taps.each; ++t)
    for (std::size_t at = static_cast<std::size_t>(t); at < taps.weights.size();
         at += static_cast<std::size_t>(taps.each))
      if (taps.weights[at] != 0) {
        used.push_back(t);
        break;
      }
  Taps kept = make_taps(taps.outputs, static_cast<int>(used.size()));
  std::size_t to = 0;
  for (int o = 0; o < taps.outputs; ++o)
    for (const int t : used) {
      const auto at = static_cast<std::size_t>(std::ptrdiff_t{o} * taps.each + t);
      kept.indices[to] = taps.indices[at];
      kept.weights[to++] = taps.weights[at];
    }
  taps = std::move(kept);
}

constexpr int kCubicTaps = 4;

// The first input of output `o` of an enlarged row, clamped to none.
int first_tap(int o, int factor) {
  return static_cast<int>(std::floor((o + 0.5) / factor - 0.5)) - 1;
}

}  // namespace

int resized_length(int length, double scale) {
  return static_cast<int>(std::ceil(length * scale - 1e-9));
}

Taps imresize_taps(int size, double scale, int length) {
  const double stretch = std::max(1.0, 1 / scale);
  Taps taps = make_taps(length, static_cast<int>(std::ceil(4 * stretch)) + 2);
  const std::int64_t period = 2 * std::int64_t{size};
  for (int o = 0; o < taps.outputs; ++o) {
    const double centre = (o + 0.5) / scale - 0.5;
    const auto first = static_cast<std::int64_t>(std::floor(centre - 2 * stretch));
    double* weights = taps.weights.data() + std::ptrdiff_t{o} * taps.each;
    double sum = 0;
    for (int t = 0; t < taps.each; ++t) {
      const std::int64_t position = first + t;
      weights[t] = keys_cubic((centre - static_cast<double>(position)) / stretch, -0.5);
      sum += weights[t];
      const std::int64_t mirrored = (position % period + period) % period;
      taps.indices[static_cast<std::size_t>(std::ptrdiff_t{o} * taps.each + t)] =
          static_cast<int>(std::min(mirrored, period - 1 - mirrored));
    }
    for (int t = 0; t < taps.each; ++t) weights[t] /= sum;
  }
  drop_unused(taps);
  return taps;
}

Taps cubic_taps(int size, int factor) {
  Taps taps = make_taps(size * factor, kCubicTaps);
  for (int o = 0; o < taps.outputs; ++o) {
    const double centre = (o + 0.5) / factor - 0.5;
    const int first = first_tap(o, factor);
    for (int t = 0; t < taps.each; ++t) {
      const auto at = static_cast<std::size_t>(std::ptrdiff_t{o} * taps.each + t);
      taps.weights[at] = keys_cubic(centre - (first + t), -0.75);
      taps.indices[at] = std::clamp(first + t, 0, size - 1);
    }
  }
  return taps;
}

namespace {

// Row `y` filtered along the columns only.
void mix_rows(const Plane& plane, const Taps& rows, int y, double* mixed) {
  constexpr int kBlock = 16;
  const auto at = static_cast<std::size_t>(std::ptrdiff_t{y} * rows.each);
  const int* index = rows.indices.data() + at;
  const double* weight = rows.weights.data() + at;
  int x = 0;
  for (; x + kBlock <= plane.width; x += kBlock) {
    double sums[kBlock] = {};
    for (int t = 0; t < rows.each; ++t) {
      const float* row = plane.values + index[t] * plane.stride + x;
      for (int i = 0; i < kBlock; ++i) sums[i] += row[i] * weight[t];
    }
    std::copy_n(sums, kBlock, mixed + x);
  }
  for (; x < plane.width; ++x) {
    double sum = 0;
    for (int t = 0; t < rows.each; ++t)
      sum += plane.values[index[t] * plane.stride + x] * weight[t];
    mixed[x] = sum;
  }
}

}  // namespace

void resample_row(const Plane& plane, const Taps& rows, const Taps& columns, int y,
                  std::vector<double>& scratch, float* result) {
  scratch.resize(static_cast<std::size_t>(plane.width));
  mix_rows(plane, rows, y, scratch.data());
  const int* index = columns.indices.data();
  const double* weight = columns.weights.data();
  for (int o = 0; o < columns.outputs; ++o, index += columns.each, weight += columns.each) {
    double sum = 0;
    for (int t = 0; t < columns.each; ++t)
      sum += scratch[static_cast<std::size_t>(index[t])] * weight[t];
    result[o] = static_cast<float>(sum);
  }
}

CubicEnlarger::CubicEnlarger(int height, int width, int factor)
    : width_(width),
      factor_(factor),
      rows_(cubic_taps(height, factor)),
      weights_(checked_product(factor, kCubicTaps, width)) {
  const Taps columns = cubic_taps(width, factor);
  for (int phase = 0; phase < factor; ++phase) {
    first_.push_back(first_tap(phase, factor));
    double* weights = weights_.data() + std::ptrdiff_t{phase} * kCubicTaps * width;
    for (int t = 0; t < kCubicTaps; ++t)
      for (int x = 0; x < width; ++x)
        weights[std::ptrdiff_t{t} * width + x] = columns.weights[static_cast<std::size_t>(
            (std::ptrdiff_t{x} * factor + phase) * kCubicTaps + t)];
  }
}

void CubicEnlarger::row(const Plane& plane, int y, std::vector<double>& scratch,
                        float* result) const {
  // Of the row's ends, so many copies as the taps reach beyond.
  constexpr int kBorder = kCubicTaps / 2;
  const std::ptrdiff_t width = width_;
  scratch.resize(static_cast<std::size_t>(width + 2 * kBorder));
  double* inner = scratch.data() + kBorder;
  mix_rows(plane, rows_, y, inner);
  std::fill_n(scratch.data(), kBorder, inner[0]);
  std::fill_n(inner + width, kBorder, inner[width - 1]);
  for (int phase = 0; phase < factor_; ++phase) {
    const double* in = inner + first_[static_cast<std::size_t>(phase)];
    const double* weights = weights_.data() + phase * kCubicTaps * width;
    float* out = result + phase;
    for (int x = 0; x < width_; ++x) {
      double sum = 0;
      for (int t = 0; t < kCubicTaps; ++t) sum += in[x + t] * weights[t * width + x];
      out[std::ptrdiff_t{x} * factor_] = static_cast<float>(sum);
    }
  }
}

}  // namespace bidiffsr
