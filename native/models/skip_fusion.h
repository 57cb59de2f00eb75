// Where a skip connection comes in.
#pragma once

#include <memory>
#include <string>

#include "ops/features.h"
#include "ops/load_context.h"

namespace bidiffsr {

class SkipFusion {
 public:
  virtual ~SkipFusion() = default;
  // Overwrites the features if nobody else holds them.
  FeaturesPtr operator()(Context& context, FeaturesPtr x, const Skip& skip) const;
  // Whether it takes skips in bfloat16, and gives features of that type.
  virtual bool bfloat16() const { return false; }

 protected:
  // `result` may be `x`.
  virtual void run(Context& context, const Features& x, const Skip& skip,
                   Features& result) const = 0;
};

std::unique_ptr<SkipFusion> load_skip_fusion(const LoadContext& from, const std::string& name,
                                             int channels, bool binary);

}  // namespace bidiffsr
