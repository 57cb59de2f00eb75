// What network the weights are for: the engine's view of `bidiffsr.config.BiDiffSRConfig`.
#pragma once

#include <string>
#include <vector>

namespace bidiffsr {

enum class Fusion { kShuffle, kSplit, kConcat, kAdd };
// Throws std::invalid_argument for what is none of cs, split, concat, add.
Fusion fusion_named(const std::string& name);

struct NetworkConfig {
  int patch = 1;  // side of the squares of pixels that are channels inside the network
  int channels = 64;
  std::vector<int> multipliers{1, 2, 4, 8};
  int blocks_per_level = 2;
  int norm_groups = 16;  // 0: only a scale and a shift a channel, which need no sums
  std::vector<int> attention_levels;
  int full_precision_up_levels = 2;
  int timesteps = 2000;
  int time_groups = 5;
  std::string method = "bi-diffsr";   // of binarization, by its name (ops/methods.cpp)
  bool consistent_resampling = true;  // CP-Down and CP-Up, or strided and nearest
  Fusion fusion = Fusion::kShuffle;
  bool middle_attention = true;
  bool mean_condition = false;  // the stem sees the mean of each patch, or every pixel
  bool weight_gain = false;     // a factor for each output of a binarized convolution
  bool identity_shortcut = true;

  // Throws std::invalid_argument, naming the key, where a value is out of its range or two do not
  // go together. Everything below and every layer counts on it.
  void validate() const;

  int levels() const { return static_cast<int>(multipliers.size()); }
  int width(int level) const { return channels * multipliers[static_cast<std::size_t>(level)]; }
  // What height and width of a picture must be multiples of.
  int size_multiple() const { return patch << (levels() - 1); }
  // Channels of a picture inside the network, and those the stem reads of the condition.
  int patch_channels() const { return 3 * patch * patch; }
  int condition_channels() const { return mean_condition ? 3 : patch_channels(); }
  int stem_channels() const { return condition_channels() + patch_channels(); }
  bool attends(int level) const;
};

}  // namespace bidiffsr
