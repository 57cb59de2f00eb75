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
#include "runtime/memory.h"
#include "runtime/tensor.h"

namespace bidiffsr {

namespace {

constexpr int kLargestSide = 1 << 20;

// Memory planned for one size.
struct PlannedArena {
  int height = 0, width = 0;
  std::unique_ptr<Arena> arena;
};

// The memory that was given back last: as much as calls that ran at once had, but no more than
// `most`, so that many callers find theirs again.
class ArenaCache {
 public:
  explicit ArenaCache(int most) : most_(static_cast<std::size_t>(most)) {
    kept_.reserve(most_ + 1);  // so that giving back cannot fail
  }

  // Null where none of this size is kept. What is of another size makes room for it.
  std::unique_ptr<Arena> take(int height, int width) {
    const std::lock_guard lock(mutex_);
    wanted_ = std::min(most_, std::max(wanted_, ++taken_));
    for (PlannedArena& kept : kept_)
      if (kept.height == height && kept.width == width) {
        std::swap(kept, kept_.back());
        std::unique_ptr<Arena> found = std::move(kept_.back().arena);
        kept_.pop_back();
        return found;
      }
    drop_oldest(wanted_ - 1);
    return nullptr;
  }
  // Null where the call got none.
  void give_back(PlannedArena planned) {
    const std::lock_guard lock(mutex_);
    --taken_;
    if (!planned.arena) return;
    kept_.push_back(std::move(planned));
    drop_oldest(wanted_);
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    kept_.clear();
    wanted_ = std::min(most_, taken_);
  }

 private:
  void drop_oldest(std::size_t most) {
    if (kept_.size() > most)
      kept_.erase(kept_.begin(), kept_.end() - static_cast<std::ptrdiff_t>(most));
  }

  const std::size_t most_;
  std::mutex mutex_;
  std::vector<PlannedArena> kept_;  // given back last at the end
  std::size_t taken_ = 0;           // by calls under way
  std::size_t wanted_ = 0;          // the most that calls held at once
};

// The memory of one call.
class TakenArena {
 public:
  TakenArena(ArenaCache& cache, int height, int width)
      : cache_(cache), planned_{height, width, cache.take(height, width)} {}
  ~TakenArena() { cache_.give_back(std::move(planned_)); }
  TakenArena(const TakenArena&) = delete;
  TakenArena& operator=(const TakenArena&) = delete;

  std::unique_ptr<Arena>& arena() { return planned_.arena; }

 private:
  ArenaCache& cache_;
  PlannedArena planned_;
};

}  // namespace

struct Engine::State {
  State(const NetworkConfig& config, const Tensors& tensors, bool fast, const Kernel& kernel,
        int threads)
      : kernel(kernel),
        unet(config, tensors, kernel, fast),
        pool(threads),
        arenas(std::max(pool.count(), available_cpus())) {}

  const Kernel& kernel;
  UNet unet;
  ThreadPool pool;
  ArenaCache arenas;
};

Engine::Engine(const NetworkConfig& config, const Tensors& tensors, bool fast,
               const std::string& kernel, int threads)
    : state_(std::make_unique<State>(config, tensors, fast, choose_kernel(kernel),
                                     checked_threads(threads))) {
  keep_freed_blocks();
}
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

void Engine::run(const Batch& batch, float* prediction, Profile* profile, const Poll& poll) {
  const int height = batch.height, width = batch.width;
  TakenArena taken(state_->arenas, height, width);
  std::unique_ptr<Arena>& arena = taken.arena();
  if (!arena) arena = std::make_unique<Arena>(scratch_bytes(height, width));
  const auto sample = static_cast<std::ptrdiff_t>(checked_product(3, height, width));
  for (std::int64_t i = 0; i < batch.count; ++i) {
    Context context(state_->kernel, state_->pool, *arena, profile, poll ? &poll : nullptr);
    state_->unet.forward(context, batch.x_t + i * sample, batch.cond + i * sample,
                         batch.timesteps[i], prediction + i * sample, height, width);
  }
}

void Engine::for_each(std::int64_t tasks, const std::function<void(std::int64_t)>& task,
                      const Poll& poll) {
  state_->pool.run(tasks, [&](std::int64_t i, int worker) {
    if (worker == 0 && poll) poll();
    task(i);
  });
}

void Engine::release_memory() {
  state_->arenas.clear();
  return_freed_memory();
}

void Engine::predict(const Batch& batch, float* prediction, const Poll& poll) {
  run(batch, prediction, nullptr, poll);
}

Profile Engine::profile(const Batch& batch, float* prediction, const Poll& poll) {
  Profile profile;
  run(batch, prediction, &profile, poll);
  return profile;
}

}  // namespace bidiffsr
