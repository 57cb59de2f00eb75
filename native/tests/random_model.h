// Tensors of a network with random weights, by the names of docs/format.md.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "bidiffsr/config.h"
#include "bidiffsr/tensors.h"
#include "check.h"

namespace bidiffsr::tests {

// Signs as numbers: 1, -1, or 0 where the file lists a zero.
struct BinaryWeights {
  int columns = 0;
  std::vector<std::int8_t> values;
  int at(int output, int column) const {
    return values[static_cast<std::size_t>(output * columns + column)];
  }
};

inline bool is_binarized(const NetworkConfig& config) { return config.method != "full-precision"; }

class RandomModel {
 public:
  explicit RandomModel(Random& random) : random_(&random) {}

  int time_groups = 1;
  bool weight_gain = false;
  std::map<std::string, BinaryWeights> binary;

  const std::vector<float>& values(const std::string& name) const {
    return floats_.at(name).second;
  }
  void floats(const std::string& name, const std::vector<std::int64_t>& shape, float low = -1,
              float high = 1) {
    std::size_t count = 1;
    for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
    floats_[name] = {shape, random_->floats(count, low, high)};
  }
  void keep(const std::string& name, const std::vector<std::int64_t>& shape,
            const std::vector<float>& list) {
    floats_[name] = {shape, list};
  }
  void integers(const std::string& name, const std::vector<std::int32_t>& list) {
    integers_[name] = list;
  }

  // `zeros` of a binarized convolution's weights are zero.
  void conv(const std::string& name, int in, int out, int kernel, bool is_binary, int zeros = 0) {
    const float scale = 1 / std::sqrt(static_cast<float>(in * kernel * kernel));
    if (!is_binary) {
      floats(name + ".conv.weight", {out, in, kernel, kernel}, -2 * scale, 2 * scale);
      floats(name + ".conv.bias", {out}, -0.1f, 0.1f);
      return;
    }
    signs(name, out, in * kernel * kernel, zeros);
    floats(name + ".conv.weight.scale", {out}, 0.5f * scale, scale);
    if (weight_gain) floats(name + ".gain", {out}, -1.5f, 1.5f);
    floats(name + ".shift.bias", {time_groups, in}, -0.3f, 0.3f);
    floats(name + ".activation.bias_in", {time_groups, out}, -0.3f, 0.3f);
    floats(name + ".activation.slope", {time_groups, out}, 0.1f, 0.4f);
    floats(name + ".activation.bias_out", {time_groups, out}, -0.3f, 0.3f);
  }
  void network(const NetworkConfig& config);

  // Views of what this model holds.
  Tensors tensors() const {
    Tensors all;
    for (const std::string& name : names())
      if (!left_out.count(name)) all.add(name, view(name));
    return all;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& each : floats_) all.push_back(each.first);
    for (const auto& each : bytes_) all.push_back(each.first);
    for (const auto& each : integers_) all.push_back(each.first);
    return all;
  }
  TensorView view(const std::string& name) const {
    if (const auto found = floats_.find(name); found != floats_.end())
      return {TensorView::Type::kFloat32, found->second.first, found->second.second.data()};
    if (const auto found = bytes_.find(name); found != bytes_.end())
      return {TensorView::Type::kUint8, found->second.first, found->second.second.data()};
    const auto& list = integers_.at(name);
    return {TensorView::Type::kInt32, {static_cast<std::int64_t>(list.size())}, list.data()};
  }
  std::set<std::string> left_out;

 private:
  void signs(const std::string& name, int out, int columns, int zeros) {
    BinaryWeights& weights = binary[name];
    weights = {columns, std::vector<std::int8_t>(static_cast<std::size_t>(out * columns))};
    const int row_bytes = (columns + 7) / 8;
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(out * row_bytes));
    for (int o = 0; o < out; ++o)
      for (int i = 0; i < columns; ++i) {
        const bool plus = random_->below(2);
        weights.values[static_cast<std::size_t>(o * columns + i)] = plus ? 1 : -1;
        if (plus) bytes[static_cast<std::size_t>(o * row_bytes + i / 8)] |= 0x80 >> i % 8;
      }
    // The bit of a zero says +1.
    std::set<std::int32_t> chosen;
    for (int i = 0; i < zeros; ++i) chosen.insert(random_->below(out * columns));
    for (const std::int32_t index : chosen) {
      weights.values[static_cast<std::size_t>(index)] = 0;
      const int o = index / columns, column = index % columns;
      bytes[static_cast<std::size_t>(o * row_bytes + column / 8)] |=
          static_cast<std::uint8_t>(0x80 >> column % 8);
    }
    bytes_[name + ".conv.weight.signs"] = {{out, row_bytes}, bytes};
    if (!chosen.empty()) integers(name + ".conv.weight.zeros", {chosen.begin(), chosen.end()});
  }
  void norm(const std::string& name, int channels) {
    floats(name + ".weight", {channels}, 0.5f, 1.5f);
    floats(name + ".bias", {channels}, -0.5f, 0.5f);
  }
  void linear(const std::string& name, int in, int out) {
    const float scale = 1 / std::sqrt(static_cast<float>(in));
    floats(name + ".weight", {out, in}, -scale, scale);
    floats(name + ".bias", {out}, -0.1f, 0.1f);
  }
  void residual_block(const NetworkConfig& config, const std::string& name, int channels,
                      bool is_binary, bool attention);
  void fusion(const NetworkConfig& config, const std::string& name, int channels, bool is_binary);

  Random* random_;
  std::map<std::string, std::pair<std::vector<std::int64_t>, std::vector<float>>> floats_;
  std::map<std::string, std::pair<std::vector<std::int64_t>, std::vector<std::uint8_t>>> bytes_;
  std::map<std::string, std::vector<std::int32_t>> integers_;
};

inline void RandomModel::residual_block(const NetworkConfig& config, const std::string& name,
                                        int channels, bool is_binary, bool attention) {
  norm(name + ".norm1", channels);
  norm(name + ".norm2", channels);
  // A zero weight in some of them.
  conv(name + ".conv1", channels, channels, 3, is_binary, random_->below(2));
  conv(name + ".conv2", channels, channels, 3, is_binary);
  linear(name + ".time", config.channels, channels);
  if (!attention) return;
  norm(name + ".attention.norm", channels);
  const float scale = 1 / std::sqrt(static_cast<float>(channels));
  floats(name + ".attention.qkv.weight", {3 * channels, channels, 1, 1}, -3 * scale, 3 * scale);
  floats(name + ".attention.out.weight", {channels, channels, 1, 1}, -scale, scale);
  floats(name + ".attention.out.bias", {channels}, -0.1f, 0.1f);
}

inline void RandomModel::fusion(const NetworkConfig& config, const std::string& name, int channels,
                                bool is_binary) {
  if (config.fusion == Fusion::kAdd) return;
  if (config.fusion == Fusion::kConcat) {
    conv(name + ".conv", 2 * channels, channels, 1, is_binary);
    return;
  }
  conv(name + ".conv1", channels, channels, 1, is_binary);
  conv(name + ".conv2", channels, channels, 1, is_binary);
}

inline void RandomModel::network(const NetworkConfig& config) {
  time_groups = config.time_groups;
  weight_gain = config.weight_gain;
  const int levels = config.levels();
  const auto resample = [&](const std::string& name, int in, int out, bool down) {
    if (!config.consistent_resampling) {
      conv(name + ".conv", in, out, 3, is_binarized(config));
      return;
    }
    for (const char* each : {".conv1", ".conv2"})
      conv(name + each, down ? in / 2 : in, down ? in / 2 : in, 3, is_binarized(config));
  };
  linear("time_embedding.expand", config.channels, 4 * config.channels);
  linear("time_embedding.contract", 4 * config.channels, config.channels);
  floats("stem.weight", {config.channels, config.stem_channels(), 3, 3}, -0.3f, 0.3f);
  floats("stem.bias", {config.channels}, -0.1f, 0.1f);
  for (int level = 0; level < levels; ++level) {
    const std::string name = "down." + std::to_string(level);
    for (int i = 0; i < config.blocks_per_level; ++i)
      residual_block(config, name + ".blocks." + std::to_string(i), config.width(level),
                     is_binarized(config), config.attends(level));
    if (level + 1 < levels)
      resample(name + ".resample", config.width(level), config.width(level + 1), true);
  }
  for (int i = 0; i < 2; ++i)
    residual_block(config, "middle." + std::to_string(i), config.width(levels - 1),
                   is_binarized(config), i == 0 && config.middle_attention);
  for (int level = levels - 1; level >= 0; --level) {
    const std::string name = "up." + std::to_string(levels - 1 - level);
    const bool is_binary = is_binarized(config) && level >= config.full_precision_up_levels;
    for (int i = 0; i <= config.blocks_per_level; ++i) {
      fusion(config, name + ".fusions." + std::to_string(i), config.width(level), is_binary);
      residual_block(config, name + ".blocks." + std::to_string(i), config.width(level), is_binary,
                     config.attends(level));
    }
    if (level > 0)
      resample(name + ".resample", config.width(level), config.width(level - 1), false);
  }
  norm("tail_norm", config.channels);
  floats("tail.weight", {config.patch_channels(), config.channels, 3, 3}, -0.2f, 0.2f);
  floats("tail.bias", {config.patch_channels()}, -0.1f, 0.1f);
}

}  // namespace bidiffsr::tests
