// What a model file says of itself: the engine's view of `bidiffsr.config.ModelConfig`.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "bidiffsr/config.h"

namespace bidiffsr {

struct ScheduleConfig {
  enum class Kind { kLinear, kAngular } kind = Kind::kLinear;
  int timesteps = 2000;
  double beta_start = 1e-6, beta_end = 1e-2;  // of a linear one
};

struct DiffusionConfig {
  enum class Prediction { kEpsilon, kVelocity, kSample };
  ScheduleConfig schedule;
  Prediction prediction = Prediction::kEpsilon;
  bool residual = false;  // over the upscaled picture, or the picture itself
  double residual_scale = 0.1;
  std::optional<double> clip = 1.0;
  bool scaled_input = false;  // the network sees the variable times its signal level
};

struct SamplingConfig {
  enum class Sampler { kDdim, kDpmSolver };
  Sampler sampler = Sampler::kDdim;
  int steps = 50;
  bool trailing = false;
  double eta = 0;
  double noise_scale = 1;
  double mean_weight = 0;  // of the first step's clean prediction in the last step's
  int back_projections = 0;

  // Whether the sampler looks at the clean prediction of the step before, and whether the result
  // holds some of the first step's.
  bool keeps_previous() const { return sampler == Sampler::kDpmSolver; }
  bool keeps_first() const { return mean_weight > 0 && steps > 1; }
};

struct ModelConfig {
  NetworkConfig network;
  bool shift_by_time = true;       // time groups have thresholds of their own (TaR)
  bool activation_by_time = true;  // and RPReLUs (TaA)
  DiffusionConfig diffusion;
  SamplingConfig sampling;
  std::map<std::string, SamplingConfig> qualities;
  int scale = 4;
};

// Reads the JSON of the metadata key `bidiffsr` (docs/format.md). Throws std::invalid_argument,
// naming the key, for what is not valid; `NetworkConfig::validate` is called here.
ModelConfig read_model_config(std::string_view json);

}  // namespace bidiffsr
