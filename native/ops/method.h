// Binarization methods by name: what their bits mean and what follows their accumulators.
#pragma once

#include <string>

#include "ops/channel_vectors.h"

namespace bidiffsr {

struct LoadContext;

// What follows an accumulator, as kernels compute it: scale · accumulator + bias_in, times the
// slope where that is negative, + bias_out.
struct BinaryEpilogue {
  Aligned<float> scale;
  TimeGroupVectors bias_in, slope, bias_out;
};

struct Method {
  const char* name;  // as the configuration's key `method` has it
  // What a bit of a weight and of an activation says.
  enum class Bits {
    kNone,         // there are none: every convolution is a plain one
    kSigns,        // +1 or -1; of an activation, whether it reaches a threshold
    kSteps,        // of a weight +1 or -1; of an activation 1 or 0, whether it reaches a threshold
    kTwoBitSteps,  // as kSteps, but of an activation 0 to 3, how many thresholds it reaches
  } bits;
  // Reads the epilogue of the block called `name`; null without bits.
  BinaryEpilogue (*load_epilogue)(const LoadContext& from, const std::string& name, int outputs);
  // Whether outputs are also multiplied by the mean magnitude of the inputs under the kernel.
  bool magnitudes = false;

  bool binarized() const { return bits != Bits::kNone; }
};

constexpr bool are_steps(Method::Bits bits) {
  return bits == Method::Bits::kSteps || bits == Method::Bits::kTwoBitSteps;
}

// Throws std::invalid_argument for an unknown name, listing those there are.
const Method& method_named(const std::string& name);

}  // namespace bidiffsr
