// Normalization: group norm, or a scale and a shift a channel.
#pragma once

#include <string>
#include <vector>

#include "ops/features.h"
#include "ops/load_context.h"
#include "runtime/aligned.h"

namespace bidiffsr {

class Norm {
 public:
  Norm(const LoadContext& from, const std::string& name, int channels);
  // y = scale x + shift per channel.
  struct Affine {
    Aligned<float> scale, shift;
  };
  // With the mean and variance of these features, where there are groups.
  Affine fold(const Features& features) const;

 private:
  int channels_;
  std::vector<float> gamma_, beta_;
};

}  // namespace bidiffsr
