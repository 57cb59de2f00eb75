#include "models/stem.h"

#include <algorithm>
#include <cstring>

#include "ops/layer_epilogue.h"

namespace bidiffsr {

namespace {

constexpr int kTaps = 9;
constexpr int kRing = 4;  // rows of positions that are kept

// Floats of a row with a margin of one position on either side.
std::size_t row_size(int inputs, int width) { return checked_product(width + 2, inputs); }

}  // namespace

Stem::Stem(const LoadContext& from)
    : channels_(from.config.channels),
      groups_(from.config.norm_groups),
      mean_(from.config.mean_condition),
      condition_(from, from.config.condition_channels()),
      both_(from, from.config.stem_channels()),
      bias_(static_cast<std::size_t>(padded(channels_)), 0.0f) {
  std::copy_n(from.tensors.floats("stem.bias", {channels_}), channels_, bias_.begin());
}

Stem::Weights::Weights(const LoadContext& from, int inputs) : inputs(inputs) {
  const int channels = from.config.channels, all = from.config.stem_channels();
  const float* weight = from.tensors.floats("stem.weight", {channels, all, 3, 3});
  for (int row = 0; row < 3; ++row)
    rows[row] = Panels(channels, 3 * inputs, false, [&](int o, int i) {
      return weight[(o * all + i % inputs) * kTaps + row * 3 + i / inputs];
    });
}

void Stem::read_row(const Patches& patches, const float* x_t, const float* cond, int y, int inputs,
                    float* to) const {
  if (y < 0 || y >= patches.height) {
    std::memset(to, 0, checked_bytes<float>(patches.width, inputs));
    return;
  }
  if (mean_)
    patches.read_means(cond, y, to, inputs);
  else
    patches.read(cond, y, to, inputs);
  if (inputs > condition_.inputs) patches.read(x_t, y, to + condition_.inputs, inputs);
}

FeaturesPtr Stem::operator()(Context& context, const float* x_t, const float* cond,
                             const Patches& patches, Skip& skip) const {
  const int height = patches.height, width = patches.width;
  auto result = std::make_shared<Features>(context, height, width, channels_, groups_);
  Scratch scratch;
  const std::size_t rows = scratch.reserve_array<float>(kRing, row_size(both_.inputs, width));
  const LayerEpilogue epilogue(context, *result, scratch, &skip);
  scratch.allocate(context);
  // Where a chain scales the variable by its signal, it begins with zeros, which add nothing.
  const bool zero = !context.planning() && patches.is_zero(x_t);
  const Weights& weights = zero ? condition_ : both_;
  const int inputs = weights.inputs;
  const std::size_t size = row_size(inputs, width);
  const double macs = static_cast<double>(height) * width * kTaps * inputs * channels_;
  context.run_bands(
      {"stem", inputs, height, width, macs}, height, [&](int first, int last, int worker) {
        float* ring = scratch.floats(worker, rows);
        std::memset(ring, 0, sizeof(float) * kRing * size);
        const auto slot = [&](int y) { return ring + static_cast<std::size_t>(y & 3) * size; };
        const auto read = [&](int y) { read_row(patches, x_t, cond, y, inputs, slot(y) + inputs); };
        read(first - 1);
        read(first);
        for (int y = first; y < last; ++y) {
          read(y + 1);
          for (int row = 0; row < 3; ++row)
            multiply(context.kernel, weights.rows[row], slot(y + row - 1), inputs, width,
                     result->x.row(y), result->x.stride, row == 0 ? bias_.data() : nullptr,
                     row > 0);
          epilogue.run(y, 1, worker);
        }
      });
  return result;
}

}  // namespace bidiffsr
