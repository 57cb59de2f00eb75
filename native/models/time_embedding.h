// What every residual block is told of the timestep.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/linear.h"

namespace bidiffsr {

// Sines and cosines of the timestep, then two linear layers.
class TimeEmbedding {
 public:
  explicit TimeEmbedding(const LoadContext& from);
  // SiLU of the embedding, with which every block begins.
  std::vector<float> operator()(std::int64_t timestep) const;

 private:
  int frequencies_;
  Linear expand_, contract_;
};

}  // namespace bidiffsr
