#include "bidiffsr/engine.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bidiffsr/kernels.h"
#include "models/unet.h"
#include "runtime/checked.h"
#include "runtime/context.h"
#include "runtime/tensor.h"

namespace bidiffsr {

namespace {

constexpr int kLargestSide = 1 << 20;

// Memory planned for one size.
struct PlannedArena {
  int height, width;
  std::unique_ptr<Arena> arena;
};

// The memory that was given back last.
class ArenaCache {
 public:
  // Null where another size was kept, which then only takes memory.
  std::unique_ptr<Arena> take(int height, int width) {
    const std::lock_guard lock(mutex_);
    PlannedArena found = std::exchange(kept_, {});
    if (found.height != height || found.width != width) return nullptr;
    return std::move(found.arena);
  }
  void give_back(PlannedArena planned) {
    const std::lock_guard lock(mutex_);
    kept_ = std::move(planned);
  }

 private:
  std::mutex mutex_;
  PlannedArena kept_{};
};

}  // namespace

struct Engine::State {
  State(const NetworkConfig& config, const Tensors& tensors, bool fast, const Kernel& kernel,
        int threads)
      : kernel(kernel), unet(config, tensors, kernel, fast), pool(threads) {}

  const Kernel& kernel;
  UNet unet;
  ThreadPool pool;
  ArenaCache arenas;
};

Engine::Engine(const NetworkConfig& config, const Tensors& tensors, bool fast,
               const std::string& kernel, int threads)
    : state_(std::make_unique<State>(config, tensors, fast, choose_kernel(kernel),
                                     checked_threads(threads))) {}
Engine::~Engine() = default;

std::string Engine::kernel() const { return state_->kernel.name; }
int Engine::threads() const { return state_->pool.count(); }
int Engine::size_multiple() const { return state_->unet.config().size_multiple(); }

std::size_t Engine::scratch_bytes(int height, int width) {
  const int multiple = size_multiple();
  const std::string size = "size " + std::to_string(width) + "x" + std::to_string(height);
  if (height <= 0 || width <= 0 || height % multiple || width % multiple)
    throw std::invalid_argument(size + ": both must be positive multiples of " +
                                std::to_string(multiple));
  // Kernels count the numbers of one row in int, and so do bands the rows.
  const NetworkConfig& config = state_->unet.config();
  std::int64_t widest = config.stem_channels();
  for (int level = 0; level < config.levels(); ++level)
    widest = std::max<std::int64_t>(widest, padded(config.width(level)));
  const std::int64_t row = 18 * widest * (width / config.patch + std::int64_t{64});
  if (std::max(height, width) > kLargestSide || row > std::numeric_limits<int>::max())
    throw std::invalid_argument(size + ": too large for one call; cut the picture into tiles");
  Arena plan;
  Context context(state_->kernel, state_->pool, plan);
  state_->unet.forward(context, nullptr, nullptr, 0, nullptr, height, width);
  return plan.peak();
}

void Engine::run(const Batch& batch, float* prediction, Profile* profile) {
  const int height = batch.height, width = batch.width;
  std::unique_ptr<Arena> arena = state_->arenas.take(height, width);
  if (!arena) arena = std::make_unique<Arena>(scratch_bytes(height, width));
  const auto sample = static_cast<std::ptrdiff_t>(checked_product(3, height, width));
  for (std::int64_t i = 0; i < batch.count; ++i) {
    Context context(state_->kernel, state_->pool, *arena, profile);
    state_->unet.forward(context, batch.x_t + i * sample, batch.cond + i * sample,
                         batch.timesteps[i], prediction + i * sample, height, width);
  }
  state_->arenas.give_back({height, width, std::move(arena)});
}

void Engine::predict(const Batch& batch, float* prediction) { run(batch, prediction, nullptr); }

Profile Engine::profile(const Batch& batch, float* prediction) {
  Profile profile;
  run(batch, prediction, &profile);
  return profile;
}

}  // namespace bidiffsr
