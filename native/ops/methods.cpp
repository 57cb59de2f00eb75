#include <stdexcept>

#include "ops/load_context.h"
#include "ops/method.h"

namespace bidiffsr {

namespace {

// The scale of an output's weights, with its gain, then RPReLU by time group (TaA).
BinaryEpilogue load(const LoadContext& from, const std::string& name, int outputs, bool gained) {
  const Tensors& tensors = from.tensors;
  const float* alpha = tensors.floats(name + ".conv.weight.scale", {outputs});
  BinaryEpilogue epilogue{pad_channels(alpha, outputs, 1, 0.0f), {}, {}, {}};
  if (gained) {
    const float* gain = tensors.floats(name + ".gain", {outputs});
    for (int o = 0; o < outputs; ++o) epilogue.scale[static_cast<std::size_t>(o)] *= gain[o];
  }
  epilogue.bias_in = load_time_groups(tensors, name + ".activation.bias_in", outputs, 0.0f);
  epilogue.slope = load_time_groups(tensors, name + ".activation.slope", outputs, 0.0f);
  epilogue.bias_out = load_time_groups(tensors, name + ".activation.bias_out", outputs, 0.0f);
  return epilogue;
}

BinaryEpilogue load_rprelu(const LoadContext& from, const std::string& name, int outputs) {
  return load(from, name, outputs, from.config.weight_gain);
}

// The gain is the method's, whether or not the network's other methods would have one.
BinaryEpilogue load_gained(const LoadContext& from, const std::string& name, int outputs) {
  return load(from, name, outputs, true);
}

// Accumulators of steps are twice the sums, times the highest level where that stands for 1.
template <int Highest>
BinaryEpilogue load_levels(const LoadContext& from, const std::string& name, int outputs) {
  BinaryEpilogue epilogue = load_rprelu(from, name, outputs);
  for (float& scale : epilogue.scale) scale /= 2.0f * Highest;
  return epilogue;
}

constexpr Method kMethods[] = {
    {"bi-diffsr", Method::Bits::kSigns, load_rprelu},
    {"dorefa", Method::Bits::kSteps, load_levels<1>},
    {"dorefa-w1a2", Method::Bits::kTwoBitSteps, load_levels<3>},
    {"xnor-net", Method::Bits::kSigns, load_rprelu, true},
    {"recu", Method::Bits::kSigns, load_gained},
    {"full-precision", Method::Bits::kNone, nullptr},
};

}  // namespace

const Method& method_named(const std::string& name) {
  std::string known;
  for (const Method& method : kMethods) {
    if (name == method.name) return method;
    known += std::string(known.empty() ? "" : ", ") + method.name;
  }
  throw std::invalid_argument("method: got '" + name + "', expected one of " + known);
}

}  // namespace bidiffsr
