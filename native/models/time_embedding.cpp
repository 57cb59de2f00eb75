#include "models/time_embedding.h"

#include <cmath>

namespace bidiffsr {

namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

TimeEmbedding::TimeEmbedding(const LoadContext& from)
    : frequencies_(from.config.channels / 2),
      expand_(from, "time_embedding.expand", from.config.channels, 4 * from.config.channels),
      contract_(from, "time_embedding.contract", 4 * from.config.channels, from.config.channels) {}

std::vector<float> TimeEmbedding::operator()(std::int64_t timestep) const {
  std::vector<float> encoding(static_cast<std::size_t>(2 * frequencies_));
  const auto rate = static_cast<float>(-std::log(1e4) / frequencies_);
  for (int i = 0; i < frequencies_; ++i) {
    // Rounded where float32 arithmetic rounds: the sine of a large angle shows it.
    const auto frequency =
        static_cast<float>(std::exp(static_cast<double>(rate * static_cast<float>(i))));
    const auto angle = static_cast<double>(static_cast<float>(timestep) * frequency);
    encoding[static_cast<std::size_t>(i)] = static_cast<float>(std::sin(angle));
    encoding[static_cast<std::size_t>(frequencies_ + i)] = static_cast<float>(std::cos(angle));
  }
  std::vector<float> hidden = expand_(encoding);
  for (auto& value : hidden) value = static_cast<float>(silu(static_cast<double>(value)));
  std::vector<float> result = contract_(hidden);
  for (auto& value : result) value = static_cast<float>(silu(static_cast<double>(value)));
  return result;
}

}  // namespace bidiffsr
