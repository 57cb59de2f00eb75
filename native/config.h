// What network the weights are for: the engine's view of `bidiffsr.config.BiDiffSRConfig`.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bidiffsr {

enum class Fusion { kShuffle, kSplit, kConcat, kAdd };

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
  bool binarized = true;              // false: every convolution is a plain one
  bool consistent_resampling = true;  // CP-Down and CP-Up, or strided and nearest
  Fusion fusion = Fusion::kShuffle;
  bool middle_attention = true;
  bool mean_condition = false;  // the stem sees the mean of each patch, or every pixel
  bool weight_gain = false;     // a factor for each output of a binarized convolution
  bool identity_shortcut = true;

  int levels() const { return static_cast<int>(multipliers.size()); }
  int width(int level) const { return channels * multipliers[static_cast<std::size_t>(level)]; }
  // What height and width of a picture must be multiples of.
  int size_multiple() const { return patch << (levels() - 1); }
  // Channels of a picture inside the network, and those the stem reads of the condition.
  int patch_channels() const { return 3 * patch * patch; }
  int condition_channels() const { return mean_condition ? 3 : patch_channels(); }
  int stem_channels() const { return condition_channels() + patch_channels(); }
  bool attends(int level) const {
    for (const int each : attention_levels)
      if (each == level) return true;
    return false;
  }
};

// A named array of the packed file, whose memory belongs to somebody else.
struct TensorView {
  enum class Type { kFloat32, kUint8, kInt32 };
  Type type;
  std::vector<std::int64_t> shape;
  const void* data;
};

// By the names of docs/format.md. Whoever asks for a tensor says what it must be;
// std::invalid_argument is thrown if it is missing or something else.
class Tensors {
 public:
  void add(std::string name, TensorView view) { views_[std::move(name)] = std::move(view); }
  bool has(const std::string& name) const { return views_.count(name) != 0; }
  const float* floats(const std::string& name, const std::vector<std::int64_t>& shape) const;
  const std::uint8_t* bytes(const std::string& name, const std::vector<std::int64_t>& shape) const;
  // A list of any length.
  std::vector<std::int32_t> integers(const std::string& name) const;
  // First dimension of a tensor that has two.
  std::int64_t rows(const std::string& name) const;

 private:
  const TensorView& find(const std::string& name) const;
  const void* get(const std::string& name, TensorView::Type type,
                  const std::vector<std::int64_t>& shape) const;

  std::map<std::string, TensorView> views_;
};

}  // namespace bidiffsr
