#include "ops/norm.h"

#include <algorithm>
#include <cmath>

namespace bidiffsr {

namespace {

constexpr double kNormEpsilon = 1e-5;

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
    const double variance = std::max(0.0, moments.square / count - mean * mean);
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
