// The residual block of the U-Net.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/features.h"
#include "ops/linear.h"
#include "ops/norm.h"

namespace bidiffsr {

class ResidualBlock {
 public:
  ResidualBlock(const LoadContext& from, const std::string& name, int channels, bool binary,
                bool attention);
  // `time` is SiLU of the embedding. Overwrites the features if nobody else holds them. The result
  // of bfloat16 features is of that type too, unless signs or attention will read it.
  FeaturesPtr operator()(Context& context, FeaturesPtr x, const std::vector<float>& time,
                         Skip* skip, bool before_signs = true) const;

 private:
  int channels_;
  Norm norm1_, norm2_;
  std::unique_ptr<Conv> conv1_, conv2_;
  Linear time_;
  std::optional<Attention> attention_;
};

}  // namespace bidiffsr
