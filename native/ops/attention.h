// Single-head self-attention over all positions.
#pragma once

#include <string>

#include "ops/features.h"
#include "ops/norm.h"
#include "ops/panels.h"

namespace bidiffsr {

struct Projections;

// By streaming softmax (Rabe and Staats 2021): the matrix of scores is never whole.
class Attention {
 public:
  Attention(const LoadContext& from, const std::string& name, int channels);
  // In place, and brings the sums up to date; `skip`, which may be null, is filled in.
  void operator()(Context& context, Features& features, Skip* skip) const;

 private:
  void project(Context& context, const Features& features, const Projections& all) const;
  void attend(Context& context, Features& features, const Projections& all) const;

  int channels_;
  Norm norm_;
  Panels qkv_, out_;
  Aligned<float> bias_;
};

}  // namespace bidiffsr
