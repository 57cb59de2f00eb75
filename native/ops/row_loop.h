// One layer over a picture: rows of features in, through one or more convolutions, rows out.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "ops/conv.h"
#include "ops/source_rows.h"
#include "runtime/scratch.h"

namespace bidiffsr {

// A convolution and what it looks at.
struct Branch {
  const Conv* conv;
  Source source;
};

// The branches of one layer on their way down a band of rows, on one worker.
class BranchRows {
 public:
  // What one worker needs for a branch.
  struct Parts {
    std::size_t source, conv;
  };
  static std::vector<Parts> reserve(const std::vector<Branch>& branches, Scratch& scratch);

  BranchRows(const Context& context, const std::vector<Branch>& branches, const Scratch& scratch,
             const std::vector<Parts>& parts, int worker);

  // Outputs from row `first` on, step by step; callbacks as in `row_loop`.
  template <class Destination, class Completed>
  void run(int first, int last, int worker, const Destination& destination,
           const Completed& completed) {
    const int halo = like_.kernel / 2;
    int next = first * like_.stride - halo;
    for (int y = first; y < last; y += like_.step()) {
      const int rows = std::min(like_.step(), last - y);
      for (; next <= (y + rows - 1) * like_.stride + halo; ++next) push(next);
      for (std::size_t i = 0; i < convs_.size(); ++i)
        convs_[i]->emit(y, rows, destination(i, y, worker));
      completed(y, rows, worker);
    }
  }

 private:
  void push(int y) {
    for (std::size_t i = 0; i < convs_.size(); ++i) convs_[i]->push(y, sources_[i].row(y));
  }

  const Conv& like_;  // all have its size and stride
  std::vector<SourceRows> sources_;
  std::vector<std::unique_ptr<ConvRows>> convs_;
};

// The layer that the branches make, called `kind` or, where that is null, by its convolutions.
Layer layer_of(const std::vector<Branch>& branches, const char* kind);

// Runs `branches`, which all have the same size and stride, over the picture, in bands of rows on
// all threads. destination(branch, y, worker) says where output row y and those after it go;
// completed(y, rows, worker) follows when all branches have made them. `scratch` may hold parts
// already and is allocated here. `kind` is what the profile calls it, if not by its convolutions.
template <class Destination, class Completed>
void row_loop(Context& context, const std::vector<Branch>& branches, Scratch& scratch,
              const Destination& destination, const Completed& completed,
              const char* kind = nullptr) {
  const auto parts = BranchRows::reserve(branches, scratch);
  scratch.allocate(context);
  const int height_out = branches[0].source.height() / branches[0].conv->stride;
  context.run_bands(layer_of(branches, kind), height_out, [&](int first, int last, int worker) {
    BranchRows rows(context, branches, scratch, parts, worker);
    rows.run(first, last, worker, destination, completed);
  });
}

}  // namespace bidiffsr
