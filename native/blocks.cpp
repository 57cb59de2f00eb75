#include "blocks.h"

#include <algorithm>
#include <cmath>

#include "finish.h"
#include "sweep.h"

namespace bidiffsr {

namespace {

constexpr double kNormEpsilon = 1e-5;

std::vector<float> copy(const float* values, int count) { return {values, values + count}; }

double silu(double x) { return x / (1 + std::exp(-x)); }

FeaturesPtr make(Pass& pass, int height, int width, int channels, int groups,
                 bool rounded = false) {
  return std::make_shared<Features>(pass, height, width, channels, groups, rounded);
}

// One convolution from `source` right into the features.
void convolve(Pass& pass, const Conv& conv, const Source& source, Features& features, Skip* skip,
              const float* bias, const Tensor* residual) {
  Room room;
  const Finish finish(pass, features, room, skip);
  sweep(
      pass, {{&conv, source}}, room,
      [&](std::size_t, int y, int worker) {
        RowsOut out = finish.begin(conv, y, worker, bias);
        if (residual && residual->rounded())
          out.rounded_residual = residual->rounded_row(y);
        else if (residual)
          out.residual = residual->row(y);
        return out;
      },
      [&](int y, int rows, int worker) { finish.end(conv, y, rows, worker); });
}

}  // namespace

Norm::Norm(const Loading& from, const std::string& name, int channels)
    : channels_(channels),
      gamma_(copy(from.tensors.floats(name + ".weight", {channels}), channels)),
      beta_(copy(from.tensors.floats(name + ".bias", {channels}), channels)) {}

Norm::Affine Norm::fold(const Features& features) const {
  const auto width = static_cast<std::size_t>(padded(channels_));
  Affine affine{Aligned<float>(width, 0.0f), Aligned<float>(width, 0.0f)};
  if (!features.sums.wanted()) {
    std::copy(gamma_.begin(), gamma_.end(), affine.scale.begin());
    std::copy(beta_.begin(), beta_.end(), affine.shift.begin());
    return affine;
  }
  const int groups = features.sums.groups(), size = channels_ / groups;
  const double count =
      static_cast<double>(features.x.height) * features.x.width * static_cast<double>(size);
  for (int g = 0; g < groups; ++g) {
    const Statistics::Moments moments = features.sums.total(g);
    const double mean = moments.sum / count;
    const double variance = std::max(0.0, moments.square / count - mean * mean);
    const double scale = 1 / std::sqrt(variance + kNormEpsilon);
    for (int c = g * size; c < (g + 1) * size; ++c) {
      const auto at = static_cast<std::size_t>(c);
      affine.scale[at] = static_cast<float>(scale * static_cast<double>(gamma_[at]));
      affine.shift[at] = static_cast<float>(static_cast<double>(beta_[at]) -
                                            mean * scale * static_cast<double>(gamma_[at]));
    }
  }
  return affine;
}

Linear::Linear(const Loading& from, const std::string& name, int in, int out)
    : in_(in),
      out_(out),
      weight_(copy(from.tensors.floats(name + ".weight", {out, in}), in * out)),
      bias_(copy(from.tensors.floats(name + ".bias", {out}), out)) {}

std::vector<float> Linear::operator()(const std::vector<float>& x) const {
  std::vector<float> result(bias_);
  for (int o = 0; o < out_; ++o) {
    double sum = 0;
    for (int i = 0; i < in_; ++i)
      sum += static_cast<double>(weight_[static_cast<std::size_t>(o * in_ + i)]) *
             static_cast<double>(x[static_cast<std::size_t>(i)]);
    result[static_cast<std::size_t>(o)] += static_cast<float>(sum);
  }
  return result;
}

TimeEmbedding::TimeEmbedding(const Loading& from)
    : frequencies_(from.config.channels / 2),
      expand_(from, "time_embedding.expand", from.config.channels, 4 * from.config.channels),
      contract_(from, "time_embedding.contract", 4 * from.config.channels, from.config.channels) {}

std::vector<float> TimeEmbedding::operator()(std::int64_t timestep) const {
  std::vector<float> encoding(static_cast<std::size_t>(2 * frequencies_));
  const auto rate = static_cast<float>(-std::log(1e4) / frequencies_);
  for (int i = 0; i < frequencies_; ++i) {
    // Rounded where float32 arithmetic rounds: the sine of a large angle shows it.
    const auto frequency =
        static_cast<float>(std::exp(static_cast<double>(rate * static_cast<float>(i))));
    const auto angle = static_cast<double>(static_cast<float>(timestep) * frequency);
    encoding[static_cast<std::size_t>(i)] = static_cast<float>(std::sin(angle));
    encoding[static_cast<std::size_t>(frequencies_ + i)] = static_cast<float>(std::cos(angle));
  }
  std::vector<float> hidden = expand_(encoding);
  for (auto& value : hidden) value = static_cast<float>(silu(static_cast<double>(value)));
  std::vector<float> result = contract_(hidden);
  // Every block begins with SiLU of it.
  for (auto& value : result) value = static_cast<float>(silu(static_cast<double>(value)));
  return result;
}

ResidualBlock::ResidualBlock(const Loading& from, const std::string& name, int channels,
                             bool binary, bool attention)
    : channels_(channels),
      norm1_(from, name + ".norm1", channels),
      norm2_(from, name + ".norm2", channels),
      conv1_(load_conv(from, name + ".conv1", channels, channels, 3, 1, binary)),
      conv2_(load_conv(from, name + ".conv2", channels, channels, 3, 1, binary)),
      time_(from, name + ".time", from.config.channels, channels) {
  if (attention) attention_.emplace(from, name + ".attention", channels);
}

FeaturesPtr ResidualBlock::operator()(Pass& pass, FeaturesPtr x, const std::vector<float>& time,
                                      Skip* skip, bool before_signs) const {
  const int height = x->x.height, width = x->x.width, groups = x->sums.groups();
  const bool rounded = x->x.rounded(), stays = rounded && !before_signs && !attention_;
  const FeaturesPtr h = make(pass, height, width, channels_, groups, rounded);
  const Norm::Affine first = norm1_.fold(*x);
  const std::vector<float> shift = time_(time);
  Aligned<float> bias(conv1_->bias(pass.group), conv1_->bias(pass.group) + padded(channels_));
  for (std::size_t c = 0; c < shift.size(); ++c) bias[c] += shift[c];
  convolve(pass, *conv1_, {&x->x, 0, first.scale.data(), first.shift.data()}, *h, nullptr,
           bias.data(), nullptr);

  const FeaturesPtr result = x.use_count() == 1 && stays == rounded
                                 ? x
                                 : make(pass, height, width, channels_, groups, stays);
  const Norm::Affine second = norm2_.fold(*h);
  convolve(pass, *conv2_, {&h->x, 0, second.scale.data(), second.shift.data()}, *result,
           attention_ ? nullptr : skip, conv2_->bias(pass.group), &x->x);
  if (attention_) (*attention_)(pass, *result, skip);
  return result;
}

Down::Down(const Loading& from, const std::string& name, int in, int out)
    : out_(out), groups_(from.config.norm_groups) {
  const bool binary = from.config.binarized;
  if (from.config.consistent_resampling) {
    conv1_ = load_conv(from, name + ".conv1", in / 2, in / 2, 3, 1, binary);
    conv2_ = load_conv(from, name + ".conv2", in / 2, in / 2, 3, 1, binary);
  } else {
    conv1_ = load_conv(from, name + ".conv", in, out, 3, 2, binary);
  }
}

FeaturesPtr Down::operator()(Pass& pass, const FeaturesPtr& x, Skip* skip) const {
  const int width = x->x.width;
  const FeaturesPtr result = make(pass, x->x.height / 2, width / 2, out_, groups_);
  if (!conv2_) {
    convolve(pass, *conv1_, {&x->x}, *result, skip, conv1_->bias(pass.group), nullptr);
    return result;
  }
  Room room;
  const Finish finish(pass, *result, room, skip);
  // Both halves' results are added in rows of scratch, two of which become one row of sub-pixels.
  const int half = out_ / 4;
  const std::ptrdiff_t stride = padded(half), row = stride * width;
  const std::size_t sum = room.add(sizeof(float) * static_cast<std::size_t>(conv1_->step() * row));
  sweep(
      pass, {{conv1_.get(), {&x->x}}, {conv2_.get(), {&x->x, half}}}, room,
      [&](std::size_t branch, int, int worker) {
        const Conv& conv = branch ? *conv2_ : *conv1_;
        return RowsOut{room.floats(worker, sum), row,     stride,
                       conv.bias(pass.group),    nullptr, branch == 1};
      },
      [&](int y, int rows, int worker) {
        const float* from = room.floats(worker, sum);
        for (int i = 0; i < rows; i += 2)
          pass.kernel.unshuffle_rows(from + i * row, from + (i + 1) * row, stride, width / 2, half,
                                     result->x.row((y + i) / 2), result->x.stride);
        finish.whole(y / 2, rows / 2, worker);
      });
  return result;
}

Up::Up(const Loading& from, const std::string& name, int in, int out)
    : out_(out), groups_(from.config.norm_groups) {
  const bool binary = from.config.binarized;
  if (from.config.consistent_resampling) {
    conv1_ = load_conv(from, name + ".conv1", in, in, 3, 1, binary);
    conv2_ = load_conv(from, name + ".conv2", in, in, 3, 1, binary);
  } else {
    conv1_ = load_conv(from, name + ".conv", in, out, 3, 1, binary);
  }
}

FeaturesPtr Up::operator()(Pass& pass, const FeaturesPtr& x) const {
  const int width = x->x.width, in = x->x.channels;
  const FeaturesPtr result = make(pass, 2 * x->x.height, 2 * width, out_, groups_);
  if (!conv2_) {
    const Source enlarged{&x->x, 0, nullptr, nullptr, true};
    convolve(pass, *conv1_, enlarged, *result, nullptr, conv1_->bias(pass.group), nullptr);
    return result;
  }
  Room room;
  const Finish finish(pass, *result, room, nullptr);
  // The second conv's results begin where the first's channels end, over its padding.
  const std::ptrdiff_t stride = 2 * padded(in), row = stride * width;
  const std::size_t both = room.add(sizeof(float) * static_cast<std::size_t>(conv1_->step() * row));
  sweep(
      pass, {{conv1_.get(), {&x->x}}, {conv2_.get(), {&x->x}}}, room,
      [&](std::size_t branch, int, int worker) {
        const Conv& conv = branch ? *conv2_ : *conv1_;
        return RowsOut{room.floats(worker, both) + (branch ? in : 0),
                       row,
                       stride,
                       conv.bias(pass.group),
                       nullptr,
                       false};
      },
      [&](int y, int rows, int worker) {
        const float* from = room.floats(worker, both);
        for (int i = 0; i < rows; ++i)
          pass.kernel.shuffle_rows(from + i * row, stride, width, out_, result->x.row(2 * (y + i)),
                                   result->x.row(2 * (y + i) + 1), result->x.stride);
        finish.whole(2 * y, 2 * rows, worker);
      });
  return result;
}

Fuse::Fuse(const Loading& from, const std::string& name, int channels, bool binary)
    : channels_(channels), groups_(from.config.norm_groups), kind_(from.config.fusion) {
  if (kind_ == Fusion::kAdd) return;
  if (!binary) {
    merge(from, name);
    return;
  }
  if (kind_ == Fusion::kConcat) {
    conv1_ = load_conv(from, name + ".conv", 2 * channels, channels, 1, 1, true);
    return;
  }
  conv1_ = load_conv(from, name + ".conv1", channels, channels, 1, 1, true);
  conv2_ = load_conv(from, name + ".conv2", channels, channels, 1, 1, true);
}

void Fuse::merge(const Loading& from, const std::string& name) {
  const int c = channels_, half = c / 2;
  bias_.assign(static_cast<std::size_t>(padded(c)), 0.0f);
  const auto weight = [&](const char* conv, int in) {
    const float* bias = from.tensors.floats(name + conv + ".conv.bias", {c});
    for (int o = 0; o < c; ++o) bias_[static_cast<std::size_t>(o)] += bias[o];
    return from.tensors.floats(name + conv + ".conv.weight", {c, in, 1, 1});
  };
  if (kind_ == Fusion::kConcat) {
    const float* w = weight(".conv", 2 * c);
    merged_ = Panels(c, 2 * c, from.bfloat16(), [&](int o, int i) { return w[o * 2 * c + i]; });
    return;
  }
  const float* first = weight(".conv1", c);
  const float* second = weight(".conv2", c);
  merged_ = Panels(c, 2 * c, from.bfloat16(), [&](int o, int i) {
    const bool skip = i >= c;
    const int channel = skip ? i - c : i;
    if (kind_ == Fusion::kSplit) return (skip ? second : first)[o * c + channel];
    // CS-Fusion: f1 = [x odd, skip even], f2 = [x even, skip odd].
    const bool in_first = (channel % 2 == 1) != skip;
    return (in_first ? first : second)[o * c + channel / 2 + (skip ? half : 0)];
  });
}

FeaturesPtr Fuse::operator()(Pass& pass, FeaturesPtr x, const Skip& skip) const {
  // Each row is gathered before it is overwritten.
  const bool rounded = merged_.bfloat16();
  const FeaturesPtr result = x.use_count() == 1 && x->x.rounded() == rounded
                                 ? x
                                 : make(pass, x->x.height, x->x.width, channels_, groups_, rounded);
  if (conv1_)
    binary(pass, *x, skip, *result);
  else if (kind_ == Fusion::kAdd)
    add(pass, *x, skip, *result);
  else
    plain(pass, *x, skip, *result);
  return result;
}

void Fuse::add(Pass& pass, const Features& x, const Skip& skip, Features& result) const {
  Room room;
  const Finish finish(pass, result, room, nullptr);
  room.allocate(pass);
  const Layer layer{"fusion", 2 * channels_, x.x.height, x.x.width};
  pass.bands(layer, 0, x.x.height, [&](int first, int last, int worker) {
    for (int y = first; y < last; ++y) {
      const float *a = x.x.row(y), *b = skip.features->x.row(y);
      float* to = result.x.row(y);
      for (std::ptrdiff_t i = 0; i < x.x.row_stride(); ++i) to[i] = a[i] + b[i];
      finish.whole(y, 1, worker);
    }
  });
}

void Fuse::plain(Pass& pass, const Features& x, const Skip& skip, Features& result) const {
  const int width = x.x.width, c = channels_, stride = x.x.stride;
  const bool rounded = merged_.bfloat16();
  const std::size_t element = rounded ? sizeof(std::uint16_t) : sizeof(float);
  const auto size = static_cast<std::size_t>(x.x.row_stride());
  Room room;
  const Finish finish(pass, result, room, nullptr);
  const std::size_t both = room.add(element * static_cast<std::size_t>(width * 2 * c));
  const std::size_t own = room.add(element * size);
  const std::size_t products = room.add(rounded ? sizeof(float) * size : 0);
  room.allocate(pass);
  const auto append = [&](std::byte* to, const void* row) {
    const auto* from = static_cast<const std::byte*>(row);
    const std::size_t bytes = element * static_cast<std::size_t>(c);
    for (int pixel = 0; pixel < width; ++pixel, to += 2 * bytes)
      std::memcpy(to, from + element * static_cast<std::size_t>(pixel * stride), bytes);
  };
  // A row of the features in the type of the products.
  const auto row_of = [&](int y, int worker) -> const void* {
    if (x.x.rounded()) return x.x.rounded_row(y);
    if (!rounded) return x.x.row(y);
    auto* to = reinterpret_cast<std::uint16_t*>(room.of(worker, own));
    pass.kernel.round_bf16(x.x.row(y), to, size);
    return to;
  };
  const double macs = static_cast<double>(x.x.height) * width * 2 * c * c;
  const Layer layer{"float 1x1", 2 * c, x.x.height, width};
  pass.bands(layer, macs, x.x.height, [&](int first, int last, int worker) {
    for (int y = first; y < last; ++y) {
      std::byte* rows = room.of(worker, both);
      append(rows, row_of(y, worker));
      append(rows + element * static_cast<std::size_t>(c),
             rounded ? static_cast<const void*>(skip.rounded.get() + y * x.x.row_stride())
                     : skip.features->x.row(y));
      float* to = rounded ? room.floats(worker, products) : result.x.row(y);
      multiply(pass.kernel, merged_, rows, 2 * c, width, to, stride, bias_.data(), false);
      if (rounded) {
        finish.sums(y, to, worker);
        pass.kernel.round_bf16(to, result.x.rounded_row(y), size);
      } else {
        finish.whole(y, 1, worker);
      }
    }
  });
}

void Fuse::binary(Pass& pass, const Features& x, const Skip& skip, Features& result) const {
  const Tensor &a = x.x, &b = skip.features->x;
  const int width = a.width, c = channels_;
  Room room;
  const Finish finish(pass, result, room, nullptr);
  const bool concat = kind_ == Fusion::kConcat, shuffle = kind_ == Fusion::kShuffle;
  const int inputs = concat ? 2 * c : c;
  const std::ptrdiff_t stride = padded(inputs);
  // A row for each conv, and what a vector may write past the end of one.
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>((width + 1) * stride);
  const std::size_t gathered[2] = {room.add(bytes), room.add(bytes)};
  const Conv* convs[2] = {conv1_.get(), conv2_.get()};
  const int count = concat ? 1 : 2;
  const std::size_t scratch[2] = {room.add(conv1_->scratch(width)),
                                  room.add(conv1_->scratch(width))};
  room.allocate(pass);
  const double macs = count * conv1_->macs(a.height * width);
  pass.bands(
      {"binary 1x1", inputs, a.height, width}, macs, a.height,
      [&](int first, int last, int worker) {
        float* rows[2] = {room.floats(worker, gathered[0]), room.floats(worker, gathered[1])};
        std::unique_ptr<ConvRows> running[2];
        for (int i = 0; i < count; ++i)
          running[i] = convs[i]->open(pass, width, a.height, stride, room.of(worker, scratch[i]));
        for (int y = first; y < last; ++y) {
          if (shuffle) {  // f1 = [x odd, skip even], f2 = [x even, skip odd]
            pass.kernel.split_row(a.row(y), a.stride, width, c / 2, rows[1], rows[0], stride);
            pass.kernel.split_row(b.row(y), b.stride, width, c / 2, rows[0] + c / 2,
                                  rows[1] + c / 2, stride);
          } else {
            for (int pixel = 0; pixel < width; ++pixel) {
              std::copy_n(a.row(y) + pixel * a.stride, c, rows[0] + pixel * stride);
              std::copy_n(b.row(y) + pixel * b.stride, c,
                          concat ? rows[0] + pixel * stride + c : rows[1] + pixel * stride);
            }
          }
          for (int i = 0; i < count; ++i) {
            RowsOut out = rows_of(result.x, y, convs[i]->bias(pass.group));
            out.accumulate = i == 1;
            running[i]->push(y, rows[i]);
            running[i]->emit(y, 1, out);
          }
          finish.whole(y, 1, worker);
        }
      });
}

}  // namespace bidiffsr
