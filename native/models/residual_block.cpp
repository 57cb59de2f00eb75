#include "models/residual_block.h"

#include <utility>

#include "ops/convolve.h"

namespace bidiffsr {

ResidualBlock::ResidualBlock(const LoadContext& from, const std::string& name, int channels,
                             bool binary, bool attention)
    : channels_(channels),
      norm1_(from, name + ".norm1", channels),
      norm2_(from, name + ".norm2", channels),
      conv1_(load_conv(from, name + ".conv1", channels, channels, 3, 1, binary)),
      conv2_(load_conv(from, name + ".conv2", channels, channels, 3, 1, binary)),
      time_(from, name + ".time", from.config.channels, channels) {
  if (attention) attention_.emplace(from, name + ".attention", channels);
}

FeaturesPtr ResidualBlock::operator()(Context& context, FeaturesPtr x,
                                      const std::vector<float>& time, Skip* skip,
                                      bool before_signs) const {
  const auto make = [&, height = x->x.height, width = x->x.width,
                     groups = x->sums.groups()](bool bfloat16) {
    return std::make_shared<Features>(context, height, width, channels_, groups, bfloat16);
  };
  const bool bfloat16 = x->x.bfloat16(), stays = bfloat16 && !before_signs && !attention_;
  const FeaturesPtr h = make(bfloat16);
  const Norm::Affine first = norm1_.fold(*x);
  const std::vector<float> shift = time_(time);
  const float* own = conv1_->bias(context.time_group);
  Aligned<float> bias(own, own + padded(channels_));
  for (std::size_t c = 0; c < shift.size(); ++c) bias[c] += shift[c];
  convolve(context, *conv1_, {&x->x, 0, first.scale.data(), first.shift.data()}, *h, nullptr,
           bias.data(), nullptr);

  const FeaturesPtr result = x.use_count() == 1 && stays == bfloat16 ? x : make(stays);
  const Norm::Affine second = norm2_.fold(*h);
  convolve(context, *conv2_, {&h->x, 0, second.scale.data(), second.shift.data()}, *result,
           attention_ ? nullptr : skip, conv2_->bias(context.time_group), &x->x);
  if (attention_) (*attention_)(context, *result, skip);
  return result;
}

}  // namespace bidiffsr
