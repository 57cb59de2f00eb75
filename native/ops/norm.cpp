#include "ops/norm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace bidiffsr {

namespace {

constexpr double kNormEpsilon = 1e-5;

// Sums of squares in float32 are good to some 1e-6 of themselves: where the variance is a smaller
// part of them than this, it is computed anew, from the deviations.
constexpr double kSmallVariance = 1e-3;

float widened(std::uint16_t bfloat16) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bfloat16) << 16);
}

// The sum of the squared deviations of a group's features from their mean.
double squared_deviation(const Tensor& x, int first, int size, double mean) {
  double total = 0;
  for (int y = 0; y < x.height; ++y)
    for (int column = 0; column < x.width; ++column) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(column) * x.stride + first;
      for (int c = 0; c < size; ++c) {
        const float value = x.bfloat16() ? widened(x.bfloat16_row(y)[at + c]) : x.row(y)[at + c];
        const double deviation = static_cast<double>(value) - mean;
        total += deviation * deviation;
      }
    }
  return total;
}

}  // namespace

Norm::Norm(const LoadContext& from, const std::string& name, int channels)
    : channels_(channels),
      gamma_(from.tensors.copy(name + ".weight", {channels})),
      beta_(from.tensors.copy(name + ".bias", {channels})) {}

Norm::Affine Norm::fold(const Features& features) const {
  const auto width = static_cast<std::size_t>(padded(channels_));
  Affine affine{Aligned<float>(width, 0.0f), Aligned<float>(width, 0.0f)};
  if (!features.sums.wanted()) {
    std::copy(gamma_.begin(), gamma_.end(), affine.scale.begin());
    std::copy(beta_.begin(), beta_.end(), affine.shift.begin());
    return affine;
  }
  const int groups = features.sums.groups(), size = channels_ / groups;
  const double count =
      static_cast<double>(features.x.height) * features.x.width * static_cast<double>(size);
  for (int g = 0; g < groups; ++g) {
    const Statistics::Moments moments = features.sums.total(g);
    const double mean = moments.sum / count;
    double variance = std::max(0.0, moments.square / count - mean * mean);
    if (variance + kNormEpsilon < kSmallVariance * mean * mean)
      variance = squared_deviation(features.x, g * size, size, mean) / count;
    const double scale = 1 / std::sqrt(variance + kNormEpsilon);
    for (int c = g * size; c < (g + 1) * size; ++c) {
      const auto at = static_cast<std::size_t>(c);
      affine.scale[at] = static_cast<float>(scale * static_cast<double>(gamma_[at]));
      affine.shift[at] = static_cast<float>(static_cast<double>(beta_[at]) -
                                            mean * scale * static_cast<double>(gamma_[at]));
    }
  }
  return affine;
}

}  // namespace bidiffsr
