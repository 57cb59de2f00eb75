// From features to a picture.
#pragma once

#include <memory>

#include "models/patches.h"
#include "ops/features.h"
#include "ops/load_context.h"

namespace bidiffsr {

// Norm, SiLU, full-precision 3×3 to the picture.
class Tail {
 public:
  virtual ~Tail() = default;
  virtual void operator()(Context& context, const Features& features, const Patches& patches,
                          float* output) const = 0;
};

std::unique_ptr<Tail> load_tail(const LoadContext& from);

}  // namespace bidiffsr
