// Vectors over channels, padded as feature maps are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

#include "bidiffsr/tensors.h"
#include "runtime/aligned.h"

namespace bidiffsr {

// `groups` vectors one after another, with `filler` behind the channels of each.
Aligned<float> pad_channels(const float* values, int channels, int groups, float filler);

// One vector of channels for each time group, or one for all.
struct TimeGroupVectors {
  Aligned<float> values;
  int groups = 1;
  int width = 0;
  const float* of(int group) const {
    return values.data() + static_cast<std::ptrdiff_t>(std::min(group, groups - 1)) * width;
  }
};

// Reads the tensor called `name`, (groups, channels), times `factor`.
TimeGroupVectors load_time_groups(const Tensors& tensors, const std::string& name, int channels,
                                  float filler, float factor = 1.0f);

}  // namespace bidiffsr
