// A model file in memory, made of a random network.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "random_model.h"

namespace bidiffsr::tests {

// A small network, and what a file says of it.
inline NetworkConfig small_network() {
  NetworkConfig config;
  config.channels = 8;
  config.multipliers = {1, 2};
  config.blocks_per_level = 1;
  config.norm_groups = 2;
  config.full_precision_up_levels = 1;
  config.timesteps = 4;
  config.time_groups = 2;
  return config;
}
inline const char* small_description() {
  return R"({"network": {"channels": 8, "multipliers": [1, 2], "blocks_per_level": 1,
 "norm_groups": 2, "full_precision_up_levels": 1, "timesteps": 4, "time_groups": 2},
 "diffusion": {"schedule": {"kind": "angular", "timesteps": 4}, "prediction": "sample",
 "variable": "residual", "residual_scale": 0.01, "clip": null, "input_scaling": "signal"},
 "sampling": {"steps": 2, "spacing": "trailing", "back_projections": 1},
 "qualities": {"fast": {"steps": 1, "spacing": "trailing", "back_projections": 2},
 "balanced": {"steps": 2, "spacing": "trailing", "mean_weight": 0.5}}, "scale": 2})";
}

inline std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') result += '\\';
    result += letter == '\n' ? ' ' : letter;
  }
  return result + '"';
}

// The bytes of a file whose tensors are those of `model`.
inline std::vector<std::byte> model_bytes(const RandomModel& model,
                                          const std::string& description = small_description()) {
  std::string header =
      R"({"__metadata__": {"bidiffsr.format": "1", "bidiffsr": )" + quoted(description) + "}";
  std::string data;
  for (const std::string& name : model.names()) {
    if (model.left_out.count(name)) continue;
    const TensorView view = model.view(name);
    const bool bytes = view.type == TensorView::Type::kUint8;
    std::size_t size = bytes ? 1 : 4;
    std::string shape;
    for (const std::int64_t side : view.shape) {
      size *= static_cast<std::size_t>(side);
      shape += (shape.empty() ? "" : ", ") + std::to_string(side);
    }
    const char* dtype = bytes ? "U8" : view.type == TensorView::Type::kFloat32 ? "F32" : "I32";
    header += ", " + quoted(name) + R"(: {"dtype": ")" + dtype + R"(", "shape": [)" + shape +
              R"(], "data_offsets": [)" + std::to_string(data.size()) + ", " +
              std::to_string(data.size() + size) + "]}";
    data.append(static_cast<const char*>(view.data), size);
  }
  header += "}";
  const std::uint64_t length = header.size();
  std::vector<std::byte> result(sizeof length + header.size() + data.size());
  std::memcpy(result.data(), &length, sizeof length);
  std::memcpy(result.data() + sizeof length, header.data(), header.size());
  std::memcpy(result.data() + sizeof length + header.size(), data.data(), data.size());
  return result;
}

inline std::vector<std::byte> small_model_bytes() {
  Random random(7);
  RandomModel model(random);
  model.network(small_network());
  return model_bytes(model);
}

}  // namespace bidiffsr::tests
