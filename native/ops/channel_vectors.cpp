#include "ops/channel_vectors.h"

#include <stdexcept>

#include "runtime/checked.h"
#include "runtime/layout.h"

namespace bidiffsr {

Aligned<float> pad_channels(const float* values, int channels, int groups, float filler) {
  const int width = padded(channels);
  Aligned<float> result(checked_product(width, groups), filler);
  for (int g = 0; g < groups; ++g)
    std::copy_n(values + static_cast<std::ptrdiff_t>(g) * channels, channels,
                result.begin() + static_cast<std::ptrdiff_t>(g) * width);
  return result;
}

TimeGroupVectors load_time_groups(const Tensors& tensors, const std::string& name, int channels,
                                  float filler, float factor) {
  constexpr std::int64_t kMostGroups = 1 << 16;
  const std::int64_t groups = tensors.rows(name);
  if (groups < 1 || groups > kMostGroups)
    throw std::invalid_argument(name + ": has " + std::to_string(groups) +
                                " time groups, expected 1 to " + std::to_string(kMostGroups));
  const float* values = tensors.floats(name, {groups, channels});
  TimeGroupVectors result{pad_channels(values, channels, static_cast<int>(groups), filler),
                          static_cast<int>(groups), padded(channels)};
  for (auto& value : result.values) value *= factor;
  return result;
}

}  // namespace bidiffsr
