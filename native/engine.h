// A network ready to run: weights, kernel, threads, and scratch memory that is kept between calls.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "arena.h"
#include "kernels/registry.h"
#include "pass.h"
#include "threads.h"
#include "unet.h"

namespace bidiffsr {

class Engine {
 public:
  // `fast` as in UNet. Throws std::invalid_argument.
  Engine(const NetworkConfig& config, const Tensors& tensors, bool fast, const std::string& kernel,
         int threads);

  // Safe to call from many threads. x_t, cond, prediction: (batch, 3, height, width), contiguous;
  // height and width multiples of `size_multiple`, else std::invalid_argument.
  Profile predict(const float* x_t, const float* cond, const std::int64_t* timesteps,
                  float* prediction, int batch, int height, int width);

  // Bytes of scratch that a call takes.
  std::size_t scratch_bytes(int height, int width);

  const Kernel& kernel() const { return kernel_; }
  int threads() const { return pool_.count(); }
  int size_multiple() const { return unet_.config().size_multiple(); }

 private:
  // Scratch for one size. The last one given back is kept.
  struct Scratch {
    int height, width;
    std::unique_ptr<Arena> arena;
  };
  Scratch borrow(int height, int width);
  void give_back(Scratch scratch);

  const Kernel& kernel_;
  UNet unet_;
  ThreadPool pool_;
  std::mutex mutex_;
  std::vector<Scratch> kept_;
};

}  // namespace bidiffsr
