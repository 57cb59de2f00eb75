#include "runtime/statistics.h"

#include <algorithm>

namespace bidiffsr {

Statistics::Statistics(const Context& context, int height, int groups) : groups_(groups) {
  if (!context.planning()) sums_.resize(checked_product(height, groups));
}

void Statistics::add(const Kernel& kernel, const Tensor& tensor, int y, const float* row,
                     float* scratch) {
  std::fill_n(scratch, 2 * tensor.stride, 0.0f);
  kernel.sum_row(row, tensor.width, tensor.stride, scratch, scratch + tensor.stride);
  add(tensor, y, 1, scratch);
}

void Statistics::add(const Tensor& tensor, int y, int rows, const float* sums) {
  const float* squares = sums + tensor.stride;
  const int size = tensor.channels / groups_;
  Moments* to = sums_.data() + static_cast<std::ptrdiff_t>(y) * groups_;
  std::fill_n(to, rows * groups_, Moments{});
  for (int g = 0; g < groups_; ++g)
    for (int c = g * size; c < (g + 1) * size; ++c) {
      to[g].sum += static_cast<double>(sums[c]);
      to[g].square += static_cast<double>(squares[c]);
    }
}

Statistics::Moments Statistics::total(int group) const {
  Moments total;
  for (std::size_t i = static_cast<std::size_t>(group); i < sums_.size();
       i += static_cast<std::size_t>(groups_)) {
    total.sum += sums_[i].sum;
    total.square += sums_[i].square;
  }
  return total;
}

}  // namespace bidiffsr
