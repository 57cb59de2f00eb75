// The blocks of the U-Net: time embedding, residual block, attention, resampling, fusion.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config.h"
#include "convs.h"
#include "pass.h"

namespace bidiffsr {

// Features with the sums that a following normalization needs.
struct Features {
  Features(Pass& pass, int height, int width, int channels, int groups, bool rounded = false)
      : x(pass, height, width, channels, rounded), sums(height, groups) {}
  Tensor x;
  Statistics sums;
};
using FeaturesPtr = std::shared_ptr<Features>;

// A skip connection: the features themselves, or a bfloat16 copy where a plain fusion in bfloat16
// is all that will look at them.
struct Skip {
  FeaturesPtr features;
  Block<std::uint16_t> rounded;
};

// Group norm, or a scale and a shift a channel.
class Norm {
 public:
  Norm(const Loading& from, const std::string& name, int channels);
  // y = scale x + shift per channel.
  struct Affine {
    Aligned<float> scale, shift;
  };
  Affine fold(const Features& features) const;

 private:
  int channels_;
  std::vector<float> gamma_, beta_;
};

class Linear {
 public:
  Linear(const Loading& from, const std::string& name, int in, int out);
  std::vector<float> operator()(const std::vector<float>& x) const;

 private:
  int in_, out_;
  std::vector<float> weight_, bias_;
};

// Sines and cosines of the timestep, then two linear layers.
class TimeEmbedding {
 public:
  explicit TimeEmbedding(const Loading& from);
  std::vector<float> operator()(std::int64_t timestep) const;

 private:
  int frequencies_;
  Linear expand_, contract_;
};

struct Projections;

// Single-head self-attention over all positions, by streaming softmax (Rabe and Staats 2021): the
// matrix of scores is never whole.
class Attention {
 public:
  Attention(const Loading& from, const std::string& name, int channels);
  // In place, and brings the sums up to date; `skip`, which may be null, is filled in.
  void operator()(Pass& pass, Features& features, Skip* skip) const;

 private:
  void project(Pass& pass, const Features& features, const Projections& all) const;
  void attend(Pass& pass, Features& features, const Projections& all) const;

  int channels_;
  Norm norm_;
  Panels qkv_, out_;
  Aligned<float> bias_;
};

class ResidualBlock {
 public:
  ResidualBlock(const Loading& from, const std::string& name, int channels, bool binary,
                bool attention);
  // `time` is SiLU of the embedding. Overwrites the features if nobody else holds them. The result
  // of bfloat16 features is of that type too, unless signs or attention will read it.
  FeaturesPtr operator()(Pass& pass, FeaturesPtr x, const std::vector<float>& time, Skip* skip,
                         bool before_signs = true) const;

 private:
  int channels_;
  Norm norm1_, norm2_;
  std::unique_ptr<Conv> conv1_, conv2_;
  Linear time_;
  std::optional<Attention> attention_;
};

// CP-Down or a strided convolution; CP-Up or nearest neighbour and a convolution.
class Down {
 public:
  Down(const Loading& from, const std::string& name, int in, int out);
  FeaturesPtr operator()(Pass& pass, const FeaturesPtr& x, Skip* skip) const;

 private:
  int out_, groups_;
  std::unique_ptr<Conv> conv1_, conv2_;  // one only: strided
};

class Up {
 public:
  Up(const Loading& from, const std::string& name, int in, int out);
  FeaturesPtr operator()(Pass& pass, const FeaturesPtr& x) const;

 private:
  int out_, groups_;
  std::unique_ptr<Conv> conv1_, conv2_;  // one only: nearest
};

// Brings a skip connection in.
class Fuse {
 public:
  Fuse(const Loading& from, const std::string& name, int channels, bool binary);
  // Overwrites the features if nobody else holds them.
  FeaturesPtr operator()(Pass& pass, FeaturesPtr x, const Skip& skip) const;
  // Whether it takes skips in bfloat16.
  bool bfloat16() const { return merged_.bfloat16(); }

 private:
  void merge(const Loading& from, const std::string& name);
  void plain(Pass& pass, const Features& x, const Skip& skip, Features& result) const;
  void add(Pass& pass, const Features& x, const Skip& skip, Features& result) const;
  void binary(Pass& pass, const Features& x, const Skip& skip, Features& result) const;

  int channels_, groups_;
  Fusion kind_;
  std::unique_ptr<Conv> conv1_, conv2_;
  // Without activations in between, every plain fusion is one product of [x, skip].
  Panels merged_;
  Aligned<float> bias_;
};

}  // namespace bidiffsr
