// The U-Net of BI-DiffSR (paper, Fig. 2; spec of its layers in docs/method.md), one sample at a
// time.
#pragma once

#include <cstdint>
#include <memory>

#include "bidiffsr/config.h"
#include "bidiffsr/tensors.h"
#include "runtime/context.h"

namespace bidiffsr {

struct UNetWeights;

class UNet {
 public:
  // For passes of `kernel`. `fast`: plain convolutions whose results no sign depends on soon run in
  // bfloat16, if the kernel has it, and by larger Winograd tiles. Throws std::invalid_argument.
  UNet(const NetworkConfig& config, const Tensors& tensors, const Kernel& kernel, bool fast);
  ~UNet();

  // x_t, cond and prediction are (3, height, width), contiguous; a planning pass touches none.
  void forward(Context& context, const float* x_t, const float* cond, std::int64_t timestep,
               float* prediction, int height, int width) const;

  const NetworkConfig& config() const { return config_; }

 private:
  NetworkConfig config_;
  std::unique_ptr<UNetWeights> weights_;
};

}  // namespace bidiffsr
