#include "ops/conv.h"

#include "ops/binary_conv.h"
#include "ops/plain_conv.h"

namespace bidiffsr {

std::unique_ptr<Conv> load_conv(const LoadContext& from, const std::string& name, int in, int out,
                                int kernel, int stride, bool binary) {
  if (binary) return std::make_unique<BinaryConv>(from, name, in, out, kernel, stride);
  return load_plain_conv(from, name + ".conv", in, out, kernel, stride);
}

std::unique_ptr<Conv> load_plain_conv(const LoadContext& from, const std::string& name, int in,
                                      int out, int kernel, int stride) {
  if (kernel != 3 || stride != 1) return load_gathered_conv(from, name, in, out, kernel, stride);
  if (from.bfloat16() && from.kernel.direct_output_bf16)
    return load_direct_conv(from, name, in, out);
  return load_winograd_conv(from, name, in, out);
}

WinogradOutput results_at(const RowsOut& out, std::ptrdiff_t at, int column, int channels) {
  const auto moved = [at](auto* start) { return start ? start + at : nullptr; };
  WinogradOutput job{};
  job.bias = out.bias + column;
  job.residual = moved(out.residual);
  job.output = moved(out.output);
  job.bfloat16_residual = moved(out.bfloat16_residual);
  job.bfloat16_output = moved(out.bfloat16_output);
  job.row_stride = out.row_stride;
  job.pixel_stride = out.pixel_stride;
  job.accumulate = out.accumulate;
  job.sums = out.sums ? out.sums + column : nullptr;
  job.squares = out.sums ? out.sums + padded(channels) + column : nullptr;
  return job;
}

}  // namespace bidiffsr
