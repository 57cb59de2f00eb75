#include "ops/binary_rows.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace bidiffsr {

BinaryRows::BinaryRows(const BinaryConv& conv, const Context& context, int width, int height,
                       std::ptrdiff_t pixel_stride, std::byte* scratch)
    : conv_(conv),
      context_(context),
      width_(width),
      height_(height),
      pixel_stride_(pixel_stride),
      row_words_(conv.row_words(width)) {
  auto* words = reinterpret_cast<std::uint64_t*>(scratch);
  std::memset(words, 0, conv.scratch(width));
  auto* floats =
      reinterpret_cast<float*>(words + static_cast<std::size_t>(conv.bit_rows()) * row_words_);
  for (std::uint64_t*& row : bits_) row = std::exchange(words, words + row_words_);
  outside_ = std::exchange(words, words + row_words_);
  if (conv.two_bits) {
    for (std::uint64_t*& row : twice_) row = std::exchange(words, words + row_words_);
    third_ = words;
  }
  for (float*& row : magnitudes_) row = std::exchange(floats, floats + conv.magnitudes(width));
  under_ = std::exchange(floats, floats + conv.magnitudes(width));
  pixel_scale_ = std::exchange(floats, floats + conv.magnitudes(width));
  window_ = reinterpret_cast<std::uint8_t*>(floats);
}

void BinaryRows::push(int y, const float* row) {
  rows_[y & 3] = row;
  if (!row) return;
  if (conv_.two_bits)
    push_two_bits(y, row);
  else
    take_signs(row, conv_.threshold, bits_[y & 3] + conv_.words);
  if (conv_.scaled_by_input)
    context_.kernel.magnitude_row(row, pixel_stride_, width_, conv_.in, magnitudes_[y & 3] + 1);
}

void BinaryRows::take_signs(const float* row, const TimeGroupVectors& threshold,
                            std::uint64_t* bits) const {
  context_.kernel.sign_row(row, pixel_stride_, width_, padded(conv_.in),
                           threshold.of(context_.time_group), bits, conv_.words);
}

// Step 12.
void BinaryRows::push_two_bits(int y, const float* row) {
  std::uint64_t *low = bits_[y & 3] + conv_.words, *high = twice_[y & 3] + conv_.words;
  take_signs(row, conv_.lower, low);
  take_signs(row, conv_.threshold, high);
  take_signs(row, conv_.upper, third_);
  const std::ptrdiff_t words = static_cast<std::ptrdiff_t>(width_) * conv_.words;
  for (std::ptrdiff_t i = 0; i < words; ++i) low[i] ^= high[i] ^ third_[i];
}

void BinaryRows::emit(int y, int rows, const RowsOut& out) {
  for (int i = 0; i < rows; ++i) {
    BinaryRow job = prepare(y + i);
    job.bias_out = out.bias;
    job.shortcut = conv_.shortcut ? rows_[(y + i) & 3] : nullptr;
    job.shortcut_stride = pixel_stride_;
    job.residual = out.residual ? out.residual + i * out.row_stride : nullptr;
    job.residual_stride = out.pixel_stride;
    job.output = out.output + i * out.row_stride;
    job.output_stride = out.pixel_stride;
    job.accumulate = out.accumulate;
    job.sums = out.sums;
    context_.kernel.binary_row(job);
  }
}

BinaryRow BinaryRows::prepare(int y) {
  BinaryRow job{};
  const int margin = conv_.kernel / 2;
  for (int tap = 0; tap < conv_.kernel; ++tap) {
    const int from = y * conv_.stride + tap - margin;
    job.row_inside[tap] = from >= 0 && from < height_;
    const std::uint64_t* row = job.row_inside[tap] ? bits_[from & 3] : outside_;
    job.rows[tap] = row + (1 - margin) * conv_.words;
  }
  const Edge edge = edge_at(y, conv_.stride, height_, conv_.kernel);
  job.kernel = conv_.kernel;
  job.stride = conv_.stride;
  job.words = conv_.words;
  job.width = width_ / conv_.stride;
  job.width_in = width_;
  job.channels = padded(conv_.out);
  job.weights = conv_.weights.data();
  job.base_first = conv_.base(edge, edge_at(0, conv_.stride, width_, conv_.kernel));
  job.base_inner = conv_.base(edge, kInner);
  job.base_last = conv_.base(edge, edge_at(job.width - 1, conv_.stride, width_, conv_.kernel));
  job.scale = conv_.epilogue.scale.data();
  job.bias_in = conv_.epilogue.bias_in.of(context_.time_group);
  job.slope = conv_.epilogue.slope.of(context_.time_group);
  job.bias_out = conv_.epilogue.bias_out.of(context_.time_group);
  job.zeros = conv_.zeros.data();
  job.zero_count = static_cast<int>(conv_.zeros.size());
  if (conv_.scaled_by_input) job.pixel_scale = scale_pixels(job, y);
  if (conv_.window_words) lay_windows(job, window_);
  if (conv_.two_bits) {
    second_ = job;
    for (int tap = 0; tap < conv_.kernel; ++tap) {
      if (!job.row_inside[tap]) continue;
      second_.rows[tap] =
          twice_[(y * conv_.stride + tap - margin) & 3] + (1 - margin) * conv_.words;
    }
    if (conv_.window_words) lay_windows(second_, window_ + conv_.window_bytes(width_));
    job.twice = &second_;
  }
  return job;
}

// Step 11.
const float* BinaryRows::scale_pixels(const BinaryRow& job, int y) {
  const int margin = conv_.kernel / 2;
  std::fill_n(under_, width_ + 2, 0.0f);
  for (int tap = 0; tap < conv_.kernel; ++tap) {
    if (!job.row_inside[tap]) continue;
    const float* row = magnitudes_[(y * conv_.stride + tap - margin) & 3];
    for (int x = 1; x <= width_; ++x) under_[x] += row[x];
  }
  const float share = 1.0f / static_cast<float>(conv_.in * conv_.kernel * conv_.kernel);
  for (int x = 0; x < job.width; ++x) {
    const float* at = under_ + 1 + x * conv_.stride;
    pixel_scale_[x] = share * (margin ? (at[-1] + at[0]) + at[1] : at[0]);
  }
  return pixel_scale_;
}

void BinaryRows::lay_windows(BinaryRow& job, std::uint8_t* window) const {
  const int bytes = conv_.in / 8, words = conv_.words;
  std::uint8_t* to = window;
  for (int column = 0; column < width_ + 2; ++column)
    for (const std::uint64_t* row : job.rows) {
      // Whole words are written; what they have too much is overwritten by the next.
      for (int word = 0; word < words; ++word)
        std::memcpy(to + 8 * word, row + column * words + word, sizeof *row);
      to += bytes;
    }
  job.window = window;
  job.window_step = static_cast<std::ptrdiff_t>(conv_.column_bytes()) * conv_.stride;
  job.window_words = conv_.window_words;
  const int rest = 9 * conv_.in % 64;
  job.window_mask = rest ? (std::uint64_t{1} << rest) - 1 : ~std::uint64_t{0};
}

}  // namespace bidiffsr
