#include "engine.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>

namespace bidiffsr {

Engine::Engine(const NetworkConfig& config, const Tensors& tensors, bool fast,
               const std::string& kernel, int threads)
    : kernel_(choose_kernel(kernel)), unet_(config, tensors, kernel_, fast), pool_(threads) {}

std::size_t Engine::scratch_bytes(int height, int width) {
  const int multiple = size_multiple();
  if (height <= 0 || width <= 0 || height % multiple || width % multiple)
    throw std::invalid_argument("size " + std::to_string(width) + "x" + std::to_string(height) +
                                ": both must be positive multiples of " + std::to_string(multiple));
  // Lengths of rows are counted in int.
  const NetworkConfig& config = unet_.config();
  std::int64_t widest = config.stem_channels();
  for (int level = 0; level < config.levels(); ++level)
    widest = std::max<std::int64_t>(widest, padded(config.width(level)));
  if (18 * widest * (width / config.patch + std::int64_t{64}) > std::numeric_limits<int>::max())
    throw std::invalid_argument("width " + std::to_string(width) +
                                ": too large for one call; cut the picture into tiles");
  Arena plan;
  Pass pass(kernel_, pool_, plan);
  unet_.forward(pass, nullptr, nullptr, 0, nullptr, height, width);
  return plan.peak();
}

Engine::Scratch Engine::borrow(int height, int width) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Scratch& each) {
      return each.height == height && each.width == width;
    });
    Scratch scratch{height, width, nullptr};
    if (found != kept_.end()) scratch = std::move(*found);
    kept_.clear();  // another size has come: what was kept only takes room
    if (scratch.arena) return scratch;
  }
  return {height, width, std::make_unique<Arena>(scratch_bytes(height, width))};
}

void Engine::give_back(Scratch scratch) {
  const std::lock_guard lock(mutex_);
  kept_.clear();
  kept_.push_back(std::move(scratch));
}

Profile Engine::predict(const float* x_t, const float* cond, const std::int64_t* timesteps,
                        float* prediction, int batch, int height, int width) {
  Scratch scratch = borrow(height, width);
  Profile profile;
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(3) * height * width;
  for (int i = 0; i < batch; ++i) {
    Pass pass(kernel_, pool_, *scratch.arena);
    unet_.forward(pass, x_t + i * size, cond + i * size, timesteps[i], prediction + i * size,
                  height, width);
    for (const auto& [layer, cost] : pass.profile) {
      profile[layer].seconds += cost.seconds;
      profile[layer].macs += cost.macs;
    }
  }
  give_back(std::move(scratch));
  return profile;
}

}  // namespace bidiffsr
