// A model ready to upscale, without Python: what `bidiffsr.Upscaler` does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "bidiffsr/engine.h"
#include "io/model_file.h"
#include "upscaling/picture.h"
#include "upscaling/sampling.h"

namespace bidiffsr {

// As `bidiffsr.upscaling.options.UpscaleOptions`.
struct UpscaleOptions {
  std::string quality;  // what the model asks for where it is empty
  int steps = 0;        // the quality's where it is 0
  std::uint64_t seed = 0;
  std::uint32_t sample = 0;
  double scale = 0;                // the model's where it is 0
  int tile = 0;                    // chosen by the size and the memory where it is 0
  std::uint64_t max_memory = 0;    // bytes; as much as it takes where it is 0
  std::function<void(double)> at;  // how much is done, 0 to 1, on the caller's thread; may throw
};

class Upscaler {
 public:
  // `fast`, `kernel` and `threads` as in Engine. Throws std::invalid_argument where the file does
  // not hold the network that it describes.
  Upscaler(const ModelFile& file, bool fast, const std::string& kernel, int threads);

  Engine& engine() { return engine_; }
  const Engine& engine() const { return engine_; }
  int scale() const { return config_.scale; }
  int timesteps() const { return config_.network.timesteps; }

  // The form of what `upscale` makes. Throws std::invalid_argument.
  PictureForm result_form(const PictureForm& source, double scale) const;

  // Safe to call from many threads. `samples` and `result` are as their forms say. Throws
  // std::invalid_argument, naming the option, std::length_error, std::bad_alloc, UnsoundResult, and
  // what `at` throws.
  void upscale(const PictureForm& form, const void* samples, const UpscaleOptions& options,
               void* result);

 private:
  double checked_scale(double scale) const;
  SamplingConfig sampling_of(const UpscaleOptions& options) const;
  Tiling plan(const PictureForm& form, const SamplingConfig& sampling,
              const UpscaleOptions& options);

  ModelConfig config_;
  Engine engine_;
  int multiple_;  // of the sides of what is sampled
};

}  // namespace bidiffsr
