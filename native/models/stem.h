// From pictures to features.
#pragma once

#include "models/patches.h"
#include "ops/features.h"
#include "ops/load_context.h"
#include "ops/panels.h"

namespace bidiffsr {

// Full-precision 3×3 of the two pictures, the condition's channels first. float32 always: every
// sign comes after it.
class Stem {
 public:
  explicit Stem(const LoadContext& from);
  FeaturesPtr operator()(Context& context, const float* x_t, const float* cond,
                         const Patches& patches, Skip& skip) const;

 private:
  // Of the first inputs. A row of taps over all of them is contiguous in a row of positions.
  struct Weights {
    Weights(const LoadContext& from, int inputs);
    int inputs;
    Panels rows[3];
  };
  // Channels of one row of positions, zeros for one outside the pictures.
  void read_row(const Patches& patches, const float* x_t, const float* cond, int y, int inputs,
                float* to) const;

  int channels_, groups_;
  bool mean_;
  Weights condition_, both_;
  Aligned<float> bias_;
};

}  // namespace bidiffsr
