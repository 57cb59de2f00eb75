#include "models/resample.h"

#include "ops/convolve.h"

namespace bidiffsr {

Down::Down(const LoadContext& from, const std::string& name, int in, int out)
    : out_(out), groups_(from.config.norm_groups) {
  const bool binary = from.method.binarized();
  if (from.config.consistent_resampling) {
    conv1_ = load_conv(from, name + ".conv1", in / 2, in / 2, 3, 1, binary);
    conv2_ = load_conv(from, name + ".conv2", in / 2, in / 2, 3, 1, binary);
  } else {
    conv1_ = load_conv(from, name + ".conv", in, out, 3, 2, binary);
  }
}

FeaturesPtr Down::operator()(Context& context, const FeaturesPtr& x, Skip* skip) const {
  const int width = x->x.width;
  const auto result =
      std::make_shared<Features>(context, x->x.height / 2, width / 2, out_, groups_);
  if (!conv2_) {
    convolve(context, *conv1_, {&x->x}, *result, skip, conv1_->bias(context.time_group), nullptr);
    return result;
  }
  Scratch scratch;
  const LayerEpilogue epilogue(context, *result, scratch, skip);
  // Both halves' results are added in rows of scratch, two of which become one row of sub-pixels.
  const int half = out_ / 4;
  const std::ptrdiff_t stride = padded(half), row = stride * width;
  const std::size_t sum = scratch.reserve_array<float>(conv1_->step(), row);
  row_loop(
      context, {{conv1_.get(), {&x->x}}, {conv2_.get(), {&x->x, half}}}, scratch,
      [&](std::size_t branch, int, int worker) {
        const Conv& conv = branch ? *conv2_ : *conv1_;
        return RowsOut{scratch.floats(worker, sum),   row,     stride,
                       conv.bias(context.time_group), nullptr, branch == 1};
      },
      [&](int y, int rows, int worker) {
        const float* from = scratch.floats(worker, sum);
        for (int i = 0; i < rows; i += 2)
          context.kernel.unshuffle_rows(from + i * row, from + (i + 1) * row, stride, width / 2,
                                        half, result->x.row((y + i) / 2), result->x.stride);
        epilogue.run(y / 2, rows / 2, worker);
      });
  return result;
}

Up::Up(const LoadContext& from, const std::string& name, int in, int out)
    : out_(out), groups_(from.config.norm_groups) {
  const bool binary = from.method.binarized();
  if (from.config.consistent_resampling) {
    conv1_ = load_conv(from, name + ".conv1", in, in, 3, 1, binary);
    conv2_ = load_conv(from, name + ".conv2", in, in, 3, 1, binary);
  } else {
    conv1_ = load_conv(from, name + ".conv", in, out, 3, 1, binary);
  }
}

FeaturesPtr Up::operator()(Context& context, const FeaturesPtr& x) const {
  const int width = x->x.width, in = x->x.channels;
  const auto result =
      std::make_shared<Features>(context, 2 * x->x.height, 2 * width, out_, groups_);
  if (!conv2_) {
    const Source enlarged{&x->x, 0, nullptr, nullptr, true};
    convolve(context, *conv1_, enlarged, *result, nullptr, conv1_->bias(context.time_group),
             nullptr);
    return result;
  }
  Scratch scratch;
  const LayerEpilogue epilogue(context, *result, scratch, nullptr);
  // The second conv's results begin where the first's channels end, over its padding.
  const std::ptrdiff_t stride = 2 * padded(in), row = stride * width;
  const std::size_t both = scratch.reserve_array<float>(conv1_->step(), row);
  row_loop(
      context, {{conv1_.get(), {&x->x}}, {conv2_.get(), {&x->x}}}, scratch,
      [&](std::size_t branch, int, int worker) {
        const Conv& conv = branch ? *conv2_ : *conv1_;
        float* to = scratch.floats(worker, both) + (branch ? in : 0);
        return RowsOut{to, row, stride, conv.bias(context.time_group), nullptr, false};
      },
      [&](int y, int rows, int worker) {
        const float* from = scratch.floats(worker, both);
        for (int i = 0; i < rows; ++i)
          context.kernel.shuffle_rows(from + i * row, stride, width, out_,
                                      result->x.row(2 * (y + i)), result->x.row(2 * (y + i) + 1),
                                      result->x.stride);
        epilogue.run(2 * y, 2 * rows, worker);
      });
  return result;
}

}  // namespace bidiffsr
