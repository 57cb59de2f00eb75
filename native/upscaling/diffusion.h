// The diffusion that a model was trained in: levels, predictions and samplers, on single values, as
// `bidiffsr.diffusion` has them. Levels are double, values float32.
#pragma once

#include <utility>
#include <vector>

#include "io/model_config.h"

namespace bidiffsr {

// How much signal and noise a variable holds at a timestep; signal² + noise² = 1.
struct Level {
  double signal = 1, noise = 0;  // the clean end
};

// One step of a chain.
struct Transition {
  int index = 0;  // from 0
  int timestep = 0;
  Level here, there;
  Level before;  // of the step before, where index > 0
  // Whether it leads to the clean end: the result is then its clean value.
  bool is_last() const { return there.noise == 0; }
};

// The steps of a chain as a model is to be sampled, noisiest first; the last leads to the clean
// end.
std::vector<Transition> chain_of(const ScheduleConfig& schedule, const SamplingConfig& sampling);

// What the network's prediction of a noisy value says.
struct Interpreted {
  float clean, noise;
};
class Interpreter {
 public:
  Interpreter(const DiffusionConfig& diffusion, const Level& level);
  Interpreted operator()(float prediction, float x) const {
    Interpreted result{};
    switch (prediction_) {
      case DiffusionConfig::Prediction::kEpsilon:
        result = {(x - noise_ * prediction) / signal_, prediction};
        break;
      case DiffusionConfig::Prediction::kVelocity:
        result = {signal_ * x - noise_ * prediction, signal_ * prediction + noise_ * x};
        break;
      case DiffusionConfig::Prediction::kSample:
        result = {prediction, (x - signal_ * prediction) / noise_};
        break;
    }
    if (clips_ && result.clean < -clip_) result.clean = -clip_;
    if (clips_ && result.clean > clip_) result.clean = clip_;
    return result;
  }

 private:
  DiffusionConfig::Prediction prediction_;
  float signal_, noise_, clip_ = 0;
  bool clips_;
};

// The value at the next timestep: a sum of what is known, by one factor each.
struct Update {
  // DDIM (Song et al. 2021, eq. 12 and 16) or DPM-Solver++(2M) (Lu et al. 2022, algorithm 2).
  Update(const SamplingConfig& sampling, const Transition& step);

  bool looks_back = false;  // at the clean value of the step before
  float fresh = 0;          // of noise drawn anew; 0: none is
  float operator()(float x, const Interpreted& now, float previous, float drawn) const {
    if (!multistep_) {
      const float kept = next_signal_ * now.clean + kept_ * now.noise;
      return fresh > 0 ? kept + fresh * drawn : kept;
    }
    const float estimate = looks_back ? newer_ * now.clean - older_ * previous : now.clean;
    return kept_ * x + next_signal_ * estimate;
  }

 private:
  bool multistep_;
  float next_signal_ = 0, kept_ = 0, newer_ = 0, older_ = 0;
};

}  // namespace bidiffsr
