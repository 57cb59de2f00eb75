#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/layer_epilogue.h"
#include "ops/source_rows.h"

namespace bidiffsr {

namespace {

constexpr int kQueries = 48;  // a task; the result does not depend on who runs it
constexpr int kKeys = 128;    // a block of the streaming softmax, whose scores stay in cache
static_assert(kKeys % kPanel == 0);

Layer layer_of(const Tensor& x, double macs) {
  return {"attention", x.channels, x.height, x.width, macs};
}

// More than `int` counts, in pictures beyond the sizes that have been run.
std::int64_t positions_of(const Tensor& x) { return static_cast<std::int64_t>(x.height) * x.width; }

std::int64_t round_up(std::int64_t value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

// Queries, keys and values of all positions: queries in rows; keys as panels of 16 positions over
// the channels; values, for each block of keys, as panels of 16 channels over the positions
// (kernels/kernel.h, Gemm).
struct Projections {
  Projections(Context& context, std::int64_t positions, int channels)
      : channels(channels),
        values_width(padded(channels)),
        queries(context.arena, checked_product(positions, channels)),
        keys(context.arena, checked_product(round_up(positions, kPanel), channels)),
        values(context.arena, checked_product(round_up(positions, kKeys), values_width)) {
    // What lies behind the last position is multiplied by zero, which NaN would survive.
    if (!context.planning())
      std::memset(value_panel((positions - 1) / kKeys, 0), 0,
                  checked_bytes<float>(kKeys, values_width));
  }
  float* query(std::int64_t position) const { return queries.get() + position * channels; }
  float* key_panel(std::int64_t position) const {
    return keys.get() + position / kPanel * channels * kPanel;
  }
  float* value_panel(std::int64_t block, std::int64_t panel) const {
    return values.get() + block * kKeys * values_width + panel * kKeys * kPanel;
  }

  // Takes q, k, v of one position.
  void put(std::int64_t position, const float* qkv) const {
    std::copy_n(qkv, channels, query(position));
    float* key = key_panel(position) + position % kPanel;
    for (int c = 0; c < channels; ++c) key[c * kPanel] = qkv[channels + c];
    for (int c = 0; c < channels; ++c)
      value_panel(position / kKeys, c / kPanel)[position % kKeys * kPanel + c % kPanel] =
          qkv[2 * channels + c];
  }

  int channels, values_width;
  Block<float> queries, keys, values;
};

namespace {

// One task's queries against all keys. `sum` holds kQueries rows of x.stride floats, `scores`
// kQueries rows of kKeys.
class StreamingSoftmax {
 public:
  StreamingSoftmax(const Kernel& kernel, const Projections& all, int stride, int queries,
                   float* scores, float* sum)
      : kernel_(kernel), all_(all), stride_(stride), queries_(queries), scores_(scores), sum_(sum) {
    std::fill_n(maximum_, kQueries, -std::numeric_limits<float>::max());
    std::memset(sum_, 0, checked_bytes<float>(kQueries, stride));
  }

  // Takes `keys` positions from the block's first on.
  void add_block(std::int64_t first_query, std::int64_t block, int keys) {
    Gemm job{};
    job.parts = 1;
    job.a[0] = all_.query(first_query);
    job.a_stride = all_.channels;
    job.b = all_.key_panel(block * kKeys);
    job.c = scores_;
    job.c_stride = kKeys;
    job.m = queries_;
    job.n = padded(keys);
    job.k = all_.channels;
    kernel_.gemm_f32(job);
    kernel_.softmax_block(scores_, kKeys, queries_, keys, maximum_, total_, decay_);
    for (int q = 0; q < queries_; ++q) {
      std::fill(scores_ + q * kKeys + keys, scores_ + (q + 1) * kKeys, 0.0f);
      kernel_.scale_row(sum_ + q * stride_, stride_, decay_[q]);
    }
    job.a[0] = scores_;
    job.a_stride = kKeys;
    job.b = all_.value_panel(block, 0);
    job.c = sum_;
    job.c_stride = stride_;
    job.n = stride_;
    job.k = kKeys;
    job.accumulate = true;
    kernel_.gemm_f32(job);
  }
  void divide() {
    for (int q = 0; q < queries_; ++q)
      kernel_.scale_row(sum_ + q * stride_, stride_, 1 / total_[q]);
  }

 private:
  const Kernel& kernel_;
  const Projections& all_;
  int stride_, queries_;
  float *scores_, *sum_;
  float maximum_[kQueries], total_[kQueries] = {}, decay_[kQueries];
};

}  // namespace

Attention::Attention(const LoadContext& from, const std::string& name, int channels)
    : channels_(channels),
      norm_(from, name + ".norm", channels),
      bias_(static_cast<std::size_t>(padded(channels)), 0.0f) {
  const float* qkv = from.tensors.floats(name + ".qkv.weight", {3 * channels, channels, 1, 1});
  const float* out = from.tensors.floats(name + ".out.weight", {channels, channels, 1, 1});
  std::copy_n(from.tensors.floats(name + ".out.bias", {channels}), channels, bias_.begin());
  // Queries carry the scale of the scores.
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(channels)));
  qkv_ = Panels(3 * channels, channels, false, [&](int o, int i) {
    return qkv[o * channels + i] * (o < channels ? scale : 1.0f);
  });
  out_ = Panels(channels, channels, false, [&](int o, int i) { return out[o * channels + i]; });
}

void Attention::operator()(Context& context, Features& features, Skip* skip) const {
  const Tensor& x = features.x;
  const Projections all(context, positions_of(x), channels_);
  project(context, features, all);
  attend(context, features, all);

  Scratch scratch;
  const LayerEpilogue epilogue(context, features, scratch, skip);
  scratch.allocate(context);
  context.run(layer_of(x, 0), x.height,
              [&](std::int64_t y, int worker) { epilogue.run(static_cast<int>(y), 1, worker); });
}

void Attention::project(Context& context, const Features& features, const Projections& all) const {
  const Tensor& x = features.x;
  const Norm::Affine norm = norm_.fold(features);
  Scratch scratch;
  const std::size_t normal = scratch.reserve_array<float>(x.width, x.stride);
  const std::size_t projected = scratch.reserve_array<float>(x.width, qkv_.n());
  scratch.allocate(context);
  const double macs = 3.0 * x.height * x.width * channels_ * channels_;
  context.run(layer_of(x, macs), x.height, [&](std::int64_t y, int worker) {
    float* row = scratch.floats(worker, normal);
    normalize(context.kernel, x, static_cast<int>(y), norm.scale.data(), norm.shift.data(),
              Silu::kNone, row);
    float* qkv = scratch.floats(worker, projected);
    multiply(context.kernel, qkv_, row, x.stride, x.width, qkv, qkv_.n(), nullptr, false);
    for (int i = 0; i < x.width; ++i)
      all.put(y * x.width + i, qkv + static_cast<std::ptrdiff_t>(i) * qkv_.n());
  });
}

void Attention::attend(Context& context, Features& features, const Projections& all) const {
  const Tensor& x = features.x;
  const std::int64_t positions = positions_of(x);
  Scratch scratch;
  const std::size_t scores = scratch.reserve_array<float>(kQueries, kKeys);
  const std::size_t sums = scratch.reserve_array<float>(kQueries, x.stride);
  scratch.allocate(context);
  const auto count = static_cast<double>(positions);
  const double macs = (2 * count + channels_) * count * channels_;
  const std::int64_t tasks = (positions + kQueries - 1) / kQueries;
  context.run(layer_of(x, macs), tasks, [&](std::int64_t task, int worker) {
    const std::int64_t first = task * kQueries;
    const auto queries = static_cast<int>(std::min<std::int64_t>(kQueries, positions - first));
    float* sum = scratch.floats(worker, sums);
    StreamingSoftmax softmax(context.kernel, all, x.stride, queries, scratch.floats(worker, scores),
                             sum);
    for (std::int64_t block = 0; block * kKeys < positions; ++block)
      softmax.add_block(first, block,
                        static_cast<int>(std::min<std::int64_t>(kKeys, positions - block * kKeys)));
    softmax.divide();
    multiply(context.kernel, out_, sum, x.stride, queries, x.row(0) + first * x.stride, x.stride,
             bias_.data(), true);
  });
}

}  // namespace bidiffsr
