#include "ops/accumulators.h"

#include <stdexcept>

#include "bidiffsr/accumulators.h"
#include "bidiffsr/kernels.h"
#include "ops/binary_rows.h"

namespace bidiffsr {

namespace {

void check(const char* name, int value, bool right, const char* expected) {
  if (!right)
    throw std::invalid_argument(std::string(name) + ": got " + std::to_string(value) +
                                ", expected " + expected);
}

void check_shape(const BinaryConvShape& shape) {
  constexpr int kMost = 1 << 20;
  const auto in_range = [](int value) { return value >= 1 && value <= kMost; };
  const int size = shape.kernel_size, stride = shape.stride;
  check("in", shape.in, in_range(shape.in), "1 to 2^20");
  check("out", shape.out, in_range(shape.out), "1 to 2^20");
  check("kernel_size", size, size == 1 || size == 3, "1 or 3");
  check("stride", stride, stride == 1 || (stride == 2 && size == 3), "1, or 2 with 3×3");
  for (const int side : {shape.height, shape.width})
    check("size", side, in_range(side) && side % stride == 0,
          "height and width from 1 to 2^20, multiples of the stride");
}

}  // namespace

std::vector<std::int32_t> accumulators(const Conv& conv, const Context& context, const float* x,
                                       int height, int width) {
  const auto* binary = dynamic_cast<const BinaryConv*>(&conv);
  if (!binary) throw std::invalid_argument("accumulators: this convolution is not binarized");
  Aligned<std::byte> scratch(binary->scratch(width));
  const std::ptrdiff_t stride = padded(conv.in);
  BinaryRows rows(*binary, context, width, height, stride, scratch.data());
  const int width_out = width / conv.stride, height_out = height / conv.stride;
  const std::ptrdiff_t row_size = static_cast<std::ptrdiff_t>(width_out) * padded(conv.out);
  std::vector<std::int32_t> result(checked_product(height_out, row_size));
  int pushed = 0;
  for (int y = 0; y < height_out; ++y) {
    for (; pushed < height && pushed <= y * conv.stride + conv.kernel / 2; ++pushed)
      rows.push(pushed, x + pushed * (width * stride));
    BinaryRow job = rows.prepare(y);
    job.accumulators = result.data() + y * row_size;
    context.kernel.binary_row(job);
  }
  return result;
}

std::vector<std::int32_t> binary_accumulators(const float* x, const BinaryConvShape& shape,
                                              const Tensors& tensors, const std::string& kernel) {
  check_shape(shape);
  ThreadPool pool(1);
  Arena arena;
  const Context context(choose_kernel(kernel), pool, arena);
  NetworkConfig config;
  config.method = shape.method;
  const std::unique_ptr<Conv> conv =
      load_conv({config, tensors, context.kernel, false}, "block", shape.in, shape.out,
                shape.kernel_size, shape.stride, true);
  const std::size_t area = checked_product(shape.height, shape.width);
  const auto channels = static_cast<std::size_t>(shape.in);
  const auto pixel = static_cast<std::size_t>(padded(shape.in));
  Aligned<float> features(checked_product(area, pixel) + kPanel, 0.0f);
  for (std::size_t c = 0; c < channels; ++c)
    for (std::size_t i = 0; i < area; ++i) features[i * pixel + c] = x[c * area + i];
  const std::vector<std::int32_t> sums =
      accumulators(*conv, context, features.data(), shape.height, shape.width);
  const auto outputs = static_cast<std::size_t>(shape.out);
  const auto step = static_cast<std::size_t>(padded(shape.out));
  const std::size_t area_out = sums.size() / step;
  std::vector<std::int32_t> result(outputs * area_out);
  for (std::size_t c = 0; c < outputs; ++c)
    for (std::size_t i = 0; i < area_out; ++i) result[c * area_out + i] = sums[i * step + c];
  return result;
}

}  // namespace bidiffsr
