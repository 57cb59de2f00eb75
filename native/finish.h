// What follows a layer when rows of its features are whole.
#pragma once

#include <algorithm>

#include "blocks.h"
#include "convs.h"
#include "sweep.h"

namespace bidiffsr {

// Where rows of a tensor go when nothing else happens to them.
inline RowsOut rows_of(const Tensor& tensor, int y, const float* bias) {
  RowsOut out{nullptr, tensor.row_stride(), tensor.stride, bias, nullptr, false};
  if (tensor.rounded())
    out.rounded_output = tensor.rounded_row(y);
  else
    out.output = tensor.row(y);
  return out;
}

// Sums for a normalization that wants them, a copy for a skip.
class Finish {
 public:
  Finish(Pass& pass, Features& features, Room& room, Skip* skip)
      : pass_(pass), features_(features), room_(room), skip_(skip) {
    sums_ = room.add(sizeof(float) * 2 * width());
  }
  // Rows that `conv` writes right into the features, which may sum them up as it goes.
  RowsOut begin(const Conv& conv, int y, int worker, const float* bias) const {
    RowsOut out = rows_of(features_.x, y, bias);
    if (!conv.sums() || !features_.sums.wanted()) return out;
    out.sums = room_.floats(worker, sums_);
    std::fill_n(out.sums, 2 * width(), 0.0f);
    return out;
  }
  void end(const Conv& conv, int y, int rows, int worker) const {
    if (conv.sums()) {
      if (features_.sums.wanted())
        features_.sums.add(features_.x, y, rows, room_.floats(worker, sums_));
      round(y, rows);
    } else {
      whole(y, rows, worker);
    }
  }
  // Rows that came about in any other way.
  void whole(int y, int rows, int worker) const {
    for (int i = y; i < y + rows; ++i) sums(i, features_.x.row(i), worker);
    round(y, rows);
  }
  void sums(int y, const float* row, int worker) const {
    if (!features_.sums.wanted()) return;
    features_.sums.add(pass_.kernel, features_.x, y, row, room_.floats(worker, sums_));
  }

 private:
  std::size_t width() const { return static_cast<std::size_t>(features_.x.stride); }
  void round(int y, int rows) const {
    const Tensor& x = features_.x;
    if (skip_ && skip_->rounded)
      pass_.kernel.round_bf16(x.row(y), skip_->rounded.get() + y * x.row_stride(),
                              static_cast<std::size_t>(rows * x.row_stride()));
  }

  Pass& pass_;
  Features& features_;
  Room& room_;
  Skip* skip_;
  std::size_t sums_;
};

}  // namespace bidiffsr
