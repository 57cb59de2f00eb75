#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace bidiffsr {

Engine::Engine(const NetworkConfig& config, const Tensors& tensors, bool bfloat16,
               const std::string& kernel, int threads)
    : kernel_(choose_kernel(kernel)),
      bfloat16_(bfloat16 && kernel_.bfloat16),
      unet_(config, tensors, bfloat16_),
      pool_(threads) {}

std::size_t Engine::scratch_bytes(int height, int width) {
  const int multiple = size_multiple();
  if (height <= 0 || width <= 0 || height % multiple || width % multiple)
    throw std::invalid_argument("size " + std::to_string(width) + "x" + std::to_string(height) +
                                ": both must be positive multiples of " + std::to_string(multiple));
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
  Profile profile{};
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(3) * height * width;
  for (int i = 0; i < batch; ++i) {
    Pass pass(kernel_, pool_, *scratch.arena);
    unet_.forward(pass, x_t + i * size, cond + i * size, timesteps[i], prediction + i * size,
                  height, width);
    for (std::size_t kind = 0; kind < profile.size(); ++kind) {
      profile[kind].seconds += pass.profile[kind].seconds;
      profile[kind].macs += pass.profile[kind].macs;
    }
  }
  give_back(std::move(scratch));
  return profile;
}

namespace {

// The best of a few trials of `loop`, which returns the work of one task.
template <class Loop>
double best_rate(ThreadPool& pool, const Loop& loop) {
  double best = 0;
  for (int trial = 0; trial < 5; ++trial) {
    std::vector<double> work(static_cast<std::size_t>(4 * pool.count()));
    const auto start = std::chrono::steady_clock::now();
    pool.run(static_cast<int>(work.size()),
             [&](int task, int) { work[static_cast<std::size_t>(task)] = loop(task); });
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    double sum = 0;
    for (const double each : work) sum += each;
    best = std::max(best, sum / time.count());
  }
  return best;
}

}  // namespace

Ceilings measure_ceilings(const std::string& name, int threads) {
  constexpr int kRounds = 2'000'000;
  constexpr std::size_t kCopy = 32u << 20;  // more than the caches of a core
  const Kernel& kernel = choose_kernel(name);
  ThreadPool pool(threads);
  const auto tasks = static_cast<std::size_t>(4 * pool.count());
  std::vector<std::byte> from(kCopy * tasks / 4, std::byte{1}), to(kCopy * tasks / 4);
  const std::size_t part = from.size() / tasks;
  Ceilings found{};
  found.binary = best_rate(pool, [&](int) { return kernel.peak_binary(kRounds); });
  found.f32 = best_rate(pool, [&](int) { return kernel.peak_f32(kRounds); });
  if (kernel.bfloat16) found.bf16 = best_rate(pool, [&](int) { return kernel.peak_bf16(kRounds); });
  found.copy = best_rate(pool, [&](int task) {
    const std::size_t at = part * static_cast<std::size_t>(task);
    std::memcpy(to.data() + at, from.data() + at, part);
    return 2.0 * static_cast<double>(part);
  });
  return found;
}

}  // namespace bidiffsr
