// A linear layer of one vector.
#pragma once

#include <string>
#include <vector>

#include "ops/load_context.h"

namespace bidiffsr {

class Linear {
 public:
  Linear(const LoadContext& from, const std::string& name, int in, int out);
  std::vector<float> operator()(const std::vector<float>& x) const;

 private:
  int in_, out_;
  std::vector<float> weight_, bias_;
};

}  // namespace bidiffsr
