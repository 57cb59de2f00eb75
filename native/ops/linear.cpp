#include "ops/linear.h"

namespace bidiffsr {

Linear::Linear(const LoadContext& from, const std::string& name, int in, int out)
    : in_(in),
      out_(out),
      weight_(from.tensors.copy(name + ".weight", {out, in})),
      bias_(from.tensors.copy(name + ".bias", {out})) {}

std::vector<float> Linear::operator()(const std::vector<float>& x) const {
  std::vector<float> result(bias_);
  for (int o = 0; o < out_; ++o) {
    double sum = 0;
    for (int i = 0; i < in_; ++i)
      sum += static_cast<double>(
                 weight_[static_cast<std::size_t>(static_cast<std::ptrdiff_t>(o) * in_ + i)]) *
             static_cast<double>(x[static_cast<std::size_t>(i)]);
    result[static_cast<std::size_t>(o)] += static_cast<float>(sum);
  }
  return result;
}

}  // namespace bidiffsr
