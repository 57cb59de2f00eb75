// Feature maps on their way from layer to layer.
#pragma once

#include <memory>

#include "runtime/statistics.h"
#include "runtime/tensor.h"

namespace bidiffsr {

// Features with the sums that a following normalization needs.
struct Features {
  Features(Context& context, int height, int width, int channels, int groups, bool bfloat16 = false)
      : x(context, height, width, channels, bfloat16), sums(context, height, groups) {}
  Tensor x;
  Statistics sums;
};
using FeaturesPtr = std::shared_ptr<Features>;

// A skip connection: the features themselves, or a bfloat16 copy where a plain fusion in bfloat16
// is all that will look at them.
struct Skip {
  FeaturesPtr features;
  Block<std::uint16_t> bfloat16;
};

}  // namespace bidiffsr
