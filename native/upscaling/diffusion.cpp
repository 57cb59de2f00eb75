#include "upscaling/diffusion.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace bidiffsr {

namespace {

// Betas linear in t, rounded as in the published sampler's table: a float32 step, from the nearer
// end.
std::vector<Level> linear_levels(const ScheduleConfig& schedule) {
  const int count = schedule.timesteps;
  const auto start = static_cast<float>(schedule.beta_start);
  const auto end = static_cast<float>(schedule.beta_end);
  const double step = count > 1 ? (end - start) / static_cast<float>(count - 1) : 0.0;
  std::vector<Level> levels;
  double product = 1;
  for (int t = 0; t < count; ++t) {
    const bool nearer = count == 1 || t < count / 2;
    const double exact = nearer ? start + step * t : end - step * (count - 1 - t);
    const auto beta = static_cast<float>(exact);
    product *= 1 - beta;
    const double rounded = static_cast<float>(product);
    levels.push_back({std::sqrt(rounded), std::sqrt(1 - rounded)});
  }
  return levels;
}

// Equal angles; the last timestep holds no signal at all.
std::vector<Level> angular_levels(const ScheduleConfig& schedule) {
  const int count = schedule.timesteps;
  std::vector<Level> levels;
  for (int t = 1; t <= count; ++t) {
    const double angle = t * (std::numbers::pi / 2 / count);
    levels.push_back(t < count ? Level{std::cos(angle), std::sin(angle)} : Level{0, 1});
  }
  return levels;
}

int timestep_of(const SamplingConfig& sampling, int index, int count) {
  if (!sampling.trailing) return (sampling.steps - 1 - index) * (count / sampling.steps);
  const double exact = count - static_cast<double>(index) * count / sampling.steps;
  return static_cast<int>(std::nearbyint(exact)) - 1;
}

// Half the logarithm of the signal-to-noise ratio.
double lambda(const Level& level) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (level.signal == 0) return -kInfinity;
  return level.noise == 0 ? kInfinity : std::log(level.signal / level.noise);
}

}  // namespace

std::vector<Transition> chain_of(const ScheduleConfig& schedule, const SamplingConfig& sampling) {
  const std::vector<Level> levels = schedule.kind == ScheduleConfig::Kind::kAngular
                                        ? angular_levels(schedule)
                                        : linear_levels(schedule);
  std::vector<Transition> chain;
  for (int index = 0; index < sampling.steps; ++index) {
    Transition step{index, timestep_of(sampling, index, schedule.timesteps), {}, {}, {}};
    step.here = levels[static_cast<std::size_t>(step.timestep)];
    if (index) {
      step.before = chain.back().here;
      chain.back().there = step.here;
    }
    chain.push_back(step);
  }
  return chain;
}

Interpreter::Interpreter(const DiffusionConfig& diffusion, const Level& level)
    : prediction_(diffusion.prediction),
      signal_(static_cast<float>(level.signal)),
      noise_(static_cast<float>(level.noise)),
      clip_(static_cast<float>(diffusion.clip.value_or(0))),
      clips_(diffusion.clip.has_value()) {}

Update::Update(const SamplingConfig& sampling, const Transition& step)
    : multistep_(sampling.sampler == SamplingConfig::Sampler::kDpmSolver) {
  const auto [signal, noise] = step.here;
  const auto [next_signal, next_noise] = step.there;
  if (!multistep_) {
    const double ratio = noise != 0 ? next_noise / noise : 0.0;
    const double quotient = signal / next_signal;
    const double drawn = sampling.eta * ratio * std::sqrt(std::max(0.0, 1 - quotient * quotient));
    kept_ = static_cast<float>(std::sqrt(std::max(0.0, next_noise * next_noise - drawn * drawn)));
    fresh = static_cast<float>(drawn);
    next_signal_ = static_cast<float>(next_signal);
    return;
  }
  const double next_lambda = lambda(step.there);
  const double last_lambda = step.index ? lambda(step.before) : -INFINITY;
  looks_back = step.index && std::isfinite(last_lambda) && std::isfinite(next_lambda);
  if (looks_back) {
    const double ratio = (lambda(step.here) - last_lambda) / (next_lambda - lambda(step.here));
    newer_ = static_cast<float>(1 + 1 / (2 * ratio));
    older_ = static_cast<float>(1 / (2 * ratio));
  }
  const double decay = noise != 0 ? (next_noise * signal) / (noise * next_signal) : 0.0;
  kept_ = static_cast<float>(next_noise / noise);
  next_signal_ = static_cast<float>(next_signal * (1 - decay));
}

}  // namespace bidiffsr
