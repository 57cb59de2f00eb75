// What every layer has to know while it reads its weights.
#pragma once

#include "bidiffsr/config.h"
#include "bidiffsr/tensors.h"
#include "kernels/kernel.h"
#include "ops/method.h"

namespace bidiffsr {

struct LoadContext {
  // Throws std::invalid_argument for an unknown method.
  LoadContext(const NetworkConfig& config, const Tensors& tensors, const Kernel& kernel, bool fast)
      : config(config),
        method(method_named(config.method)),
        tensors(tensors),
        kernel(kernel),
        fast(fast) {}

  const NetworkConfig& config;
  const Method& method;
  const Tensors& tensors;
  const Kernel& kernel;  // that will run the layer
  bool fast;             // plain convolutions in bfloat16, if the kernel has it, or by larger tiles
  bool bfloat16() const { return fast && kernel.bfloat16; }
};

}  // namespace bidiffsr
