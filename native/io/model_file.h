// A packed model file (docs/format.md), read without trusting it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bidiffsr/tensors.h"
#include "io/model_config.h"

namespace bidiffsr {

class ModelFile {
 public:
  // Throws std::invalid_argument, naming tensor or key, for what docs/format.md has readers refuse;
  // that a tensor is missing or of another shape, the engine finds (`Tensors`).
  explicit ModelFile(std::span<const std::byte> bytes);
  ModelFile(ModelFile&&) = default;

  const ModelConfig& config() const { return config_; }
  // As the engine takes them, with what a method does not learn; views of what this holds.
  const Tensors& tensors() const { return tensors_; }

 private:
  struct Entry;
  void read_tensors(const std::vector<Entry>& entries, std::span<const std::byte> data);
  void read_signs(const Entry& entry, std::span<const std::byte> data, const Entry* zeros,
                  const std::vector<std::int32_t>& indices);
  void keep_floats(const std::string& name, std::vector<std::int64_t> shape,
                   std::vector<float> values);
  void check_time_groups(const std::string& name, std::int64_t groups) const;
  void add_constants(const std::string& block, std::int64_t inputs, std::int64_t outputs);

  ModelConfig config_;
  Tensors tensors_;
  std::list<std::vector<float>> floats_;
  std::list<std::vector<std::uint8_t>> bytes_;
  std::list<std::vector<std::int32_t>> integers_;
};

// Text from elsewhere for a message: one line, and not a long one.
std::string shortened(std::string_view text);

// Throws std::invalid_argument, naming the path, for what cannot be read or is no file.
std::vector<std::byte> read_file(const std::string& path);

}  // namespace bidiffsr
