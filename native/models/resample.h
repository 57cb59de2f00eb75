// From level to level of the U-Net.
#pragma once

#include <memory>
#include <string>

#include "ops/conv.h"
#include "ops/features.h"

namespace bidiffsr {

// CP-Down, or a strided convolution.
class Down {
 public:
  Down(const LoadContext& from, const std::string& name, int in, int out);
  FeaturesPtr operator()(Context& context, const FeaturesPtr& x, Skip* skip) const;

 private:
  int out_, groups_;
  std::unique_ptr<Conv> conv1_, conv2_;  // one only: strided
};

// CP-Up, or nearest neighbour and a convolution.
class Up {
 public:
  Up(const LoadContext& from, const std::string& name, int in, int out);
  FeaturesPtr operator()(Context& context, const FeaturesPtr& x) const;

 private:
  int out_, groups_;
  std::unique_ptr<Conv> conv1_, conv2_;  // one only: nearest
};

}  // namespace bidiffsr
