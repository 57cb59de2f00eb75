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
  if (kernel == 3 && stride == 1) return load_winograd_conv(from, name, in, out);
  return load_gathered_conv(from, name, in, out, kernel, stride);
}

}  // namespace bidiffsr
