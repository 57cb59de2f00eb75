// A network ready to run: weights, kernel, threads, and scratch memory that is kept between calls.
#pragma once

#include <cstddef>
#include <cstdint>
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

  // Safe to call from many threads. Writes (count, 3, height, width). Throws std::invalid_argument
  // for a size that is none, std::length_error for one beyond any memory, std::bad_alloc.
  void predict(const Batch& batch, float* prediction);
  // The same, and what it costs.
  Profile profile(const Batch& batch, float* prediction);

  // Bytes of scratch that a call takes.
  std::size_t scratch_bytes(int height, int width);

  std::string kernel() const;
  int threads() const;
  int size_multiple() const;

 private:
  struct State;
  void run(const Batch& batch, float* prediction, Profile* profile);

  std::unique_ptr<State> state_;
};

}  // namespace bidiffsr
