// What every layer of one forward pass shares: kernel, threads, scratch memory, and the clock.
#pragma once

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "arena.h"
#include "kernels/kernel.h"
#include "threads.h"

namespace bidiffsr {

// What a layer is called in the profile: its kind, and the size of what it reads.
struct Layer {
  const char* kind;
  int channels, height, width;
};

// Seconds and multiply-accumulates by layer, those of one name together.
struct Cost {
  double seconds = 0;
  double macs = 0;
};
using Profile = std::map<std::string, Cost>;

constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
// Floats from one pixel to the next.
constexpr int padded(int channels) { return round_up(channels, kPanel); }

class Pass {
 public:
  Pass(const Kernel& kernel, ThreadPool& pool, Arena& arena)
      : kernel(kernel), arena(arena), pool_(pool) {}

  const Kernel& kernel;
  Arena& arena;
  Profile profile;
  int group = 0;  // time group of the sample

  bool planning() const { return arena.planning(); }
  int workers() const { return pool_.count(); }

  // Runs tasks on all threads, unless this pass only plans its memory.
  void run(const Layer& layer, double macs, int tasks, const ThreadPool::Task& task) {
    if (planning()) return;
    const auto start = std::chrono::steady_clock::now();
    pool_.run(tasks, task);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    Cost& cost =
        profile[std::string(layer.kind) + ", " + std::to_string(layer.channels) + " channels at " +
                std::to_string(layer.width) + "x" + std::to_string(layer.height)];
    cost.seconds += time.count();
    cost.macs += macs;
  }

  // Rows [0, height) in bands of whole Winograd tiles, so that threads do not change the result:
  // body(first, last, worker).
  template <class Body>
  void bands(const Layer& layer, double macs, int height, const Body& body) {
    // Several bands a thread even out what else the machine does; each costs two rows of overlap.
    const int rows = round_up(std::max(1, height / (2 * workers())), WinogradF4::kOutputs);
    const int count = (height + rows - 1) / rows;
    run(layer, macs, count, [&](int task, int worker) {
      body(task * rows, std::min(height, task * rows + rows), worker);
    });
  }

 private:
  ThreadPool& pool_;
};

// Features of one sample, (height, width, channels), float32 or, where only products in bfloat16
// will read them, bfloat16; what lies between `channels` and `stride` is undefined.
struct Tensor {
  Tensor(Pass& pass, int height, int width, int channels, bool rounded)
      : height(height), width(width), channels(channels), stride(padded(channels)) {
    const auto size = static_cast<std::size_t>(height) * static_cast<std::size_t>(width) *
                      static_cast<std::size_t>(stride);
    if (rounded)
      halves = Block<std::uint16_t>(pass.arena, size);
    else
      floats = Block<float>(pass.arena, size);
  }

  int height, width, channels, stride;
  Block<float> floats;
  Block<std::uint16_t> halves;

  bool rounded() const { return static_cast<bool>(halves); }
  std::ptrdiff_t row_stride() const { return static_cast<std::ptrdiff_t>(width) * stride; }
  float* row(int y) const { return floats.get() + y * row_stride(); }
  std::uint16_t* rounded_row(int y) const { return halves.get() + y * row_stride(); }
};

// Sums over each row and group of channels, from which group norm takes mean and variance. Rows are
// added up in order, so that threads do not change the result. Without groups nobody wants them.
class Statistics {
 public:
  Statistics(int height, int groups)
      : groups_(groups),
        sums_(static_cast<std::size_t>(height) * static_cast<std::size_t>(groups)) {}
  // Takes a row of the tensor, before it was rounded; `room` holds 2 · stride floats.
  void add(const Kernel& kernel, const Tensor& tensor, int y, const float* row, float* room);
  // Takes the sums of `rows` rows from y on, [2][stride].
  void add(const Tensor& tensor, int y, int rows, const float* sums);
  struct Moments {
    double sum = 0;
    double square = 0;
  };
  Moments total(int group) const;
  int groups() const { return groups_; }
  bool wanted() const { return groups_ > 0; }

 private:
  int groups_;
  std::vector<Moments> sums_;
};

}  // namespace bidiffsr
