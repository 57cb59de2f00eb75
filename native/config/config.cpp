#include "bidiffsr/config.h"

#include <algorithm>
#include <stdexcept>

namespace bidiffsr {

namespace {

// Those of the Python configuration; `int` counts the weights of any layer within them.
constexpr int kMostLevels = 8;
constexpr int kMostChannels = 1 << 14;  // of the widest level
constexpr int kLargestPatch = 8;
constexpr int kMostBlocks = 16;
constexpr int kMostTimesteps = 100'000;
constexpr int kMostTimeGroups = 1000;

[[noreturn]] void refuse(const std::string& key, const std::string& found,
                         const std::string& expected) {
  throw std::invalid_argument(key + ": got " + found + ", expected " + expected);
}

void check_range(const char* key, int value, int least, int most) {
  if (value < least || value > most)
    refuse(key, std::to_string(value), std::to_string(least) + " to " + std::to_string(most));
}

void check_levels(const NetworkConfig& config) {
  const std::vector<int>& multipliers = config.multipliers;
  if (multipliers.empty() || multipliers.size() > kMostLevels)
    refuse("multipliers", std::to_string(multipliers.size()) + " levels",
           "1 to " + std::to_string(kMostLevels));
  for (const int each : multipliers)
    check_range("multipliers", each, 1, kMostChannels / config.channels);
  if (multipliers[0] != 1)
    refuse("multipliers", std::to_string(multipliers[0]) + " first", "1, as the stem makes");
  for (std::size_t i = 1; config.consistent_resampling && i < multipliers.size(); ++i)
    if (multipliers[i] != 2 * multipliers[i - 1])
      refuse("multipliers", std::to_string(multipliers[i]),
             "twice the one before, as CP-Down makes");
  for (const int level : config.attention_levels)
    check_range("attention_levels", level, 0, config.levels() - 1);
  check_range("full_precision_up_levels", config.full_precision_up_levels, 0, config.levels());
}

}  // namespace

Fusion fusion_named(const std::string& name) {
  if (name == "cs") return Fusion::kShuffle;
  if (name == "split") return Fusion::kSplit;
  if (name == "concat") return Fusion::kConcat;
  if (name == "add") return Fusion::kAdd;
  refuse("fusion", "'" + name + "'", "cs, split, concat or add");
}

void NetworkConfig::validate() const {
  check_range("patch", patch, 1, kLargestPatch);
  check_range("channels", channels, 2, kMostChannels);
  if (channels % 2) refuse("channels", std::to_string(channels), "an even number");
  check_levels(*this);
  check_range("blocks_per_level", blocks_per_level, 1, kMostBlocks);
  check_range("norm_groups", norm_groups, 0, channels);
  if (norm_groups && channels % norm_groups)
    refuse("norm_groups", std::to_string(norm_groups),
           "a divisor of channels, " + std::to_string(channels));
  check_range("timesteps", timesteps, 1, kMostTimesteps);
  check_range("time_groups", time_groups, 1, kMostTimeGroups);
}

bool NetworkConfig::attends(int level) const {
  return std::find(attention_levels.begin(), attention_levels.end(), level) !=
         attention_levels.end();
}

}  // namespace bidiffsr
