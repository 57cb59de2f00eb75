#include "pass.h"

namespace bidiffsr {

void Statistics::add(const Kernel& kernel, const Tensor& tensor, int y, float* room) {
  float* squares = room + tensor.stride;
  kernel.sum_row(tensor.row(y), tensor.width, tensor.stride, room, squares);
  const int size = tensor.channels / groups_;
  Moments* sums = sums_.data() + static_cast<std::ptrdiff_t>(y) * groups_;
  for (int g = 0; g < groups_; ++g) {
    Moments moments;
    for (int c = g * size; c < (g + 1) * size; ++c) {
      moments.sum += static_cast<double>(room[c]);
      moments.square += static_cast<double>(squares[c]);
    }
    sums[g] = moments;
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
