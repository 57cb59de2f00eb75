// What every layer of one forward pass shares: kernel, threads, memory, time group, and the clock
// of a profile.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "bidiffsr/profile.h"
#include "kernels/kernel.h"
#include "runtime/arena.h"
#include "runtime/layout.h"
#include "runtime/threads.h"

namespace bidiffsr {

// What a layer is called in the profile: its kind and the size of what it reads; and its
// multiply-accumulates.
struct Layer {
  const char* kind;
  int channels, height, width;
  double macs;
};

class Context {
 public:
  // `profile`, which may be null, takes the cost of each layer; `poll`, which may be null, is
  // called before each task that the caller's own thread does.
  Context(const Kernel& kernel, ThreadPool& pool, Arena& arena, Profile* profile = nullptr,
          const std::function<void()>* poll = nullptr)
      : kernel(kernel), arena(arena), pool_(pool), profile_(profile), poll_(poll) {}

  const Kernel& kernel;
  Arena& arena;
  int time_group = 0;  // of the sample

  // Whether this pass only plans its memory: nothing may be read or written.
  bool planning() const { return arena.planning(); }
  int workers() const { return pool_.count(); }

  // Runs tasks on all threads, unless this pass only plans.
  void run(const Layer& layer, std::int64_t tasks, const ThreadPool::Task& task) {
    if (planning()) return;
    if (profile_)
      run_timed(layer, tasks, task);
    else
      run_polled(tasks, task);
  }

  // Rows [0, height) in bands of whole Winograd tiles, so that threads do not change the result:
  // body(first, last, worker).
  template <class Body>
  void run_bands(const Layer& layer, int height, const Body& body) {
    // Several bands a thread even out what else the machine does; each costs two rows of overlap.
    const int rows = round_up(std::max(1, height / (2 * workers())), WinogradF4::kOutputs);
    const int count = (height + rows - 1) / rows;
    run(layer, count, [&](std::int64_t task, int worker) {
      const int first = static_cast<int>(task) * rows;
      body(first, std::min(height, first + rows), worker);
    });
  }

 private:
  void run_polled(std::int64_t tasks, const ThreadPool::Task& task);
  void run_timed(const Layer& layer, std::int64_t tasks, const ThreadPool::Task& task);

  ThreadPool& pool_;
  Profile* profile_;
  const std::function<void()>* poll_;
};

}  // namespace bidiffsr
