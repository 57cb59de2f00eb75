// Sums of a picture's features, from which group norm takes mean and variance.
#pragma once

#include <vector>

#include "runtime/tensor.h"

namespace bidiffsr {

// Sums over each row and group of channels. Rows are added up in order, so that threads do not
// change the result. Without groups nobody wants them.
class Statistics {
 public:
  Statistics(const Context& context, int height, int groups);
  // Takes a row of the tensor, before it was rounded; `scratch` holds 2 · stride floats.
  void add(const Kernel& kernel, const Tensor& tensor, int y, const float* row, float* scratch);
  // Takes the sums of `rows` rows from y on, [2][stride].
  void add(const Tensor& tensor, int y, int rows, const float* sums);
  struct Moments {
    double sum = 0;
    double square = 0;
  };
  Moments total(int group) const;
  int groups() const { return groups_; }
  bool wanted() const { return groups_ > 0; }

 private:
  int groups_;
  std::vector<Moments> sums_;
};

}  // namespace bidiffsr
