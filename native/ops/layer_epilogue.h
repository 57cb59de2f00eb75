// What follows a layer when rows of its features are whole.
#pragma once

#include <algorithm>
#include <cstddef>

#include "ops/conv.h"
#include "ops/features.h"
#include "runtime/scratch.h"

namespace bidiffsr {

// Where rows of a tensor go when nothing else happens to them.
inline RowsOut rows_of(const Tensor& tensor, int y, const float* bias) {
  RowsOut out{nullptr, tensor.row_stride(), tensor.stride, bias, nullptr, false};
  if (tensor.bfloat16())
    out.bfloat16_output = tensor.bfloat16_row(y);
  else
    out.output = tensor.row(y);
  return out;
}

// Sums for a normalization that wants them, a bfloat16 copy for a skip connection.
class LayerEpilogue {
 public:
  // `skip` may be null. Its own part of `scratch` is reserved here.
  LayerEpilogue(Context& context, Features& features, Scratch& scratch, Skip* skip)
      : context_(context), features_(features), scratch_(scratch), skip_(skip) {
    sums_ = scratch.reserve_array<float>(2, width());
  }
  // Rows that `conv` writes right into the features, which may sum them up as it goes.
  RowsOut begin(const Conv& conv, int y, int worker, const float* bias) const {
    RowsOut out = rows_of(features_.x, y, bias);
    if (!conv.sums() || !features_.sums.wanted()) return out;
    out.sums = scratch_.floats(worker, sums_);
    std::fill_n(out.sums, 2 * width(), 0.0f);
    return out;
  }
  void end(const Conv& conv, int y, int rows, int worker) const {
    if (!conv.sums()) {
      run(y, rows, worker);
      return;
    }
    if (features_.sums.wanted())
      features_.sums.add(features_.x, y, rows, scratch_.floats(worker, sums_));
    copy_to_skip(y, rows);
  }
  // For rows that came about in any other way.
  void run(int y, int rows, int worker) const {
    for (int i = y; features_.sums.wanted() && i < y + rows; ++i)
      features_.sums.add(context_.kernel, features_.x, i, features_.x.row(i),
                         scratch_.floats(worker, sums_));
    copy_to_skip(y, rows);
  }

 private:
  std::size_t width() const { return static_cast<std::size_t>(features_.x.stride); }
  void copy_to_skip(int y, int rows) const {
    const Tensor& x = features_.x;
    if (skip_ && skip_->bfloat16)
      context_.kernel.round_bf16(x.row(y), skip_->bfloat16.get() + y * x.row_stride(),
                                 static_cast<std::size_t>(rows * x.row_stride()));
  }

  Context& context_;
  Features& features_;
  Scratch& scratch_;
  Skip* skip_;
  std::size_t sums_;
};

}  // namespace bidiffsr
