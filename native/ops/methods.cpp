#include <stdexcept>

#include "ops/load_context.h"
#include "ops/method.h"

namespace bidiffsr {

namespace {

// alpha, the mean magnitude of an output's weights, with its gain, then RPReLU by time group (TaA).
BinaryEpilogue load_rprelu(const LoadContext& from, const std::string& name, int outputs) {
  const Tensors& tensors = from.tensors;
  const float* alpha = tensors.floats(name + ".conv.weight.scale", {outputs});
  BinaryEpilogue epilogue{pad_channels(alpha, outputs, 1, 0.0f), {}, {}, {}};
  if (from.config.weight_gain) {
    const float* gain = tensors.floats(name + ".gain", {outputs});
    for (int o = 0; o < outputs; ++o) epilogue.scale[static_cast<std::size_t>(o)] *= gain[o];
  }
  epilogue.bias_in = load_time_groups(tensors, name + ".activation.bias_in", outputs, 0.0f);
  epilogue.slope = load_time_groups(tensors, name + ".activation.slope", outputs, 0.0f);
  epilogue.bias_out = load_time_groups(tensors, name + ".activation.bias_out", outputs, 0.0f);
  return epilogue;
}

constexpr Method kMethods[] = {
    {"bi-diffsr", Method::Bits::kSigns, load_rprelu},
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
