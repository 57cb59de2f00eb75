#include "ops/source_rows.h"

#include <cstring>

namespace bidiffsr {

namespace {

// Floats of a row with its margins.
std::size_t row_size(const Source& source, int channels) {
  return checked_product(1 + source.width() + kRightMargin, padded(channels));
}

}  // namespace

SourceRows::SourceRows(const Kernel& kernel, const Source& source, const Conv& conv,
                       std::byte* scratch)
    : kernel_(kernel),
      source_(source),
      channels_(conv.in),
      kept_(conv.rows_seen()),
      silu_(conv.rounds() ? Silu::kRough : Silu::kExact),
      copied_(source.scale || source.enlarged || conv.wants_margin()),
      stride_(copied_ ? padded(channels_) : source.features->stride),
      slot_size_(static_cast<std::ptrdiff_t>(row_size(source, channels_))) {
  if (!copied_) return;
  slots_ = reinterpret_cast<float*>(scratch);
  for (int y = 0; y < kept_; ++y) {
    std::memset(slot(y) - stride_, 0, sizeof(float) * static_cast<std::size_t>(stride_));
    std::memset(slot(y) + source.width() * stride_, 0,
                sizeof(float) * static_cast<std::size_t>(kRightMargin * stride_));
  }
}

std::size_t SourceRows::scratch(const Source& source, const Conv& conv) {
  return checked_bytes<float>(conv.rows_seen(), row_size(source, conv.in));
}

const float* SourceRows::row(int y) {
  if (y < 0 || y >= source_.height()) return nullptr;
  const Tensor& x = *source_.features;
  if (source_.scale) {
    float* to = slot(y);
    normalize(kernel_, x, y, source_.scale, source_.shift, silu_, to);
    return to;
  }
  const float* from = x.row(source_.enlarged ? y / 2 : y) + source_.first_channel;
  if (!copied_) return from;
  float* to = slot(y);
  copy_row(from, x.stride, to);
  return to;
}

void SourceRows::copy_row(const float* from, std::ptrdiff_t from_stride, float* to) const {
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(channels_);
  for (int pixel = 0; pixel < source_.width(); ++pixel)
    std::memcpy(to + pixel * stride_, from + (source_.enlarged ? pixel / 2 : pixel) * from_stride,
                bytes);
  // A product of bfloat16 pairs looks at an even number of channels.
  for (int pixel = 0; channels_ % 2 && pixel < source_.width(); ++pixel)
    to[pixel * stride_ + channels_] = 0;
}

}  // namespace bidiffsr
