// A network ready to run: weights, kernel, threads, and scratch memory that is kept between calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "bidiffsr/config.h"
#include "bidiffsr/profile.h"
#include "bidiffsr/tensors.h"

namespace bidiffsr {

// What the network is asked: `count` samples of one size. x_t and cond are (count, 3, height,
// width), contiguous; height and width multiples of `size_multiple`.
struct Batch {
  const float* x_t;
  const float* cond;
  const std::int64_t* timesteps;
  std::int64_t count;
  int height, width;
};

class Engine {
 public:
  // `fast` as in UNet; `kernel` as in `choose_kernel`; up to 1024 threads, 0 for one on each CPU.
  // Throws std::invalid_argument for what does not fit together or is out of range.
  Engine(const NetworkConfig& config, const Tensors& tensors, bool fast, const std::string& kernel,
         int threads);
  ~Engine();

  // Is called again and again by the caller's own thread; what it throws ends the call.
  using Poll = std::function<void()>;

  // Safe to call from many threads. Writes (count, 3, height, width). Throws std::invalid_argument
  // for a size that is none, std::length_error for one beyond any memory, std::bad_alloc, and what
  // `poll` does.
  void predict(const Batch& batch, float* prediction, const Poll& poll = {});
  // The same, and what it costs.
  Profile profile(const Batch& batch, float* prediction, const Poll& poll = {});

  // Tasks 0 to `tasks` - 1, in any order, on the threads that share a call.
  void for_each(std::int64_t tasks, const std::function<void(std::int64_t)>& task,
                const Poll& poll = {});

  // Scratch memory is kept for the next calls of the same size, as many as ran at once; this gives
  // back what no call under way holds.
  void release_memory();

  // Bytes of scratch that a call takes.
  std::size_t scratch_bytes(int height, int width);

  std::string kernel() const;
  int threads() const;
  int size_multiple() const;

 private:
  struct State;
  void run(const Batch& batch, float* prediction, Profile* profile, const Poll& poll);

  std::unique_ptr<State> state_;
};

}  // namespace bidiffsr
