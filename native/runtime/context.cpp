#include "runtime/context.h"

#include <chrono>
#include <string>

namespace bidiffsr {

void Context::run_polled(std::int64_t tasks, const ThreadPool::Task& task) {
  if (!poll_) return pool_.run(tasks, task);
  pool_.run(tasks, [&](std::int64_t i, int worker) {
    if (worker == 0) (*poll_)();
    task(i, worker);
  });
}

void Context::run_timed(const Layer& layer, std::int64_t tasks, const ThreadPool::Task& task) {
  const auto start = std::chrono::steady_clock::now();
  run_polled(tasks, task);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  const std::string name = std::string(layer.kind) + ", " + std::to_string(layer.channels) +
                           " channels at " + std::to_string(layer.width) + "x" +
                           std::to_string(layer.height);
  LayerCost& cost = (*profile_)[name];
  cost.seconds += time.count();
  cost.macs += layer.macs;
}

}  // namespace bidiffsr
