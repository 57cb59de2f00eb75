#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "blocks.h"
#include "finish.h"
#include "sweep.h"

namespace bidiffsr {

namespace {
constexpr int kQueries = 48;  // a task; the result does not depend on who runs it
constexpr int kKeys = 128;    // a block of the streaming softmax, whose scores stay in cache
static_assert(kKeys % kPanel == 0);

Layer layer_of(const Tensor& x) { return {"attention", x.channels, x.height, x.width}; }

}  // namespace

// Queries, keys and values of all positions: queries in rows; keys as panels of 16 positions over
// the channels; values, for each block of keys, as panels of 16 channels over the positions
// (kernels/kernel.h, Gemm).
struct Projections {
  Projections(Pass& pass, int positions, int channels)
      : channels(channels),
        values_width(padded(channels)),
        queries(pass.arena, size(positions, channels)),
        keys(pass.arena, size(round_up(positions, kPanel), channels)),
        values(pass.arena, size(round_up(positions, kKeys), values_width)) {
    // What lies behind the last position is multiplied by zero, which NaN would survive.
    if (!pass.planning())
      std::memset(value_panel((positions - 1) / kKeys, 0), 0,
                  sizeof(float) * size(kKeys, values_width));
  }
  static std::size_t size(int rows, int columns) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  }
  float* query(int position) const {
    return queries.get() + static_cast<std::ptrdiff_t>(position) * channels;
  }
  float* key_panel(int position) const {
    return keys.get() + static_cast<std::ptrdiff_t>(position / kPanel) * channels * kPanel;
  }
  float* value_panel(int block, int panel) const {
    return values.get() + static_cast<std::ptrdiff_t>(block) * kKeys * values_width +
           static_cast<std::ptrdiff_t>(panel) * kKeys * kPanel;
  }

  // Takes q, k, v of one position.
  void put(int position, const float* qkv) const {
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

Attention::Attention(const Loading& from, const std::string& name, int channels)
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

void Attention::operator()(Pass& pass, Features& features, Skip* skip) const {
  const Tensor& x = features.x;
  const int positions = x.height * x.width;
  const Projections all(pass, positions, channels_);
  project(pass, features, all);
  attend(pass, features, all);

  Room room;
  const Finish finish(pass, features, room, skip);
  room.allocate(pass);
  pass.run(layer_of(x), 0, x.height, [&](int y, int worker) { finish.whole(y, 1, worker); });
}

void Attention::project(Pass& pass, const Features& features, const Projections& all) const {
  const Tensor& x = features.x;
  const Norm::Affine norm = norm_.fold(features);
  Room room;
  const std::size_t normal = room.add(sizeof(float) * Projections::size(x.width, x.stride));
  const std::size_t projected = room.add(sizeof(float) * Projections::size(x.width, qkv_.n()));
  room.allocate(pass);
  const double macs = 3.0 * x.height * x.width * channels_ * channels_;
  pass.run(layer_of(x), macs, x.height, [&](int y, int worker) {
    float* row = room.floats(worker, normal);
    normalize(pass.kernel, x, y, norm.scale.data(), norm.shift.data(), false, row);
    float* qkv = room.floats(worker, projected);
    multiply(pass.kernel, qkv_, row, x.stride, x.width, qkv, qkv_.n(), nullptr, false);
    for (int i = 0; i < x.width; ++i)
      all.put(y * x.width + i, qkv + static_cast<std::ptrdiff_t>(i) * qkv_.n());
  });
}

void Attention::attend(Pass& pass, Features& features, const Projections& all) const {
  const Kernel& kernel = pass.kernel;
  const Tensor& x = features.x;
  const int positions = x.height * x.width, stride = x.stride;
  Room room;
  const std::size_t scores = room.add(sizeof(float) * kQueries * kKeys);
  const std::size_t result = room.add(sizeof(float) * Projections::size(kQueries, stride));
  room.allocate(pass);
  const double macs = (2.0 * positions + channels_) * positions * channels_;
  const int tasks = (positions + kQueries - 1) / kQueries;
  pass.run(layer_of(x), macs, tasks, [&](int task, int worker) {
    const int first = task * kQueries, queries = std::min(kQueries, positions - first);
    float* score = room.floats(worker, scores);
    float* sum = room.floats(worker, result);
    float maximum[kQueries], total[kQueries] = {}, decay[kQueries];
    std::fill_n(maximum, kQueries, -std::numeric_limits<float>::max());
    std::memset(sum, 0, sizeof(float) * Projections::size(kQueries, stride));
    for (int block = 0; block * kKeys < positions; ++block) {
      const int keys = std::min(kKeys, positions - block * kKeys);
      Gemm job{};
      job.a = all.query(first);
      job.a_stride = channels_;
      job.b = all.key_panel(block * kKeys);
      job.c = score;
      job.c_stride = kKeys;
      job.m = queries;
      job.n = padded(keys);
      job.k = channels_;
      kernel.gemm_f32(job);
      kernel.softmax_block(score, kKeys, queries, keys, maximum, total, decay);
      for (int q = 0; q < queries; ++q) {
        std::fill(score + q * kKeys + keys, score + (q + 1) * kKeys, 0.0f);
        kernel.scale_row(sum + q * stride, stride, decay[q]);
      }
      job.a = score;
      job.a_stride = kKeys;
      job.b = all.value_panel(block, 0);
      job.c = sum;
      job.c_stride = stride;
      job.n = stride;
      job.k = kKeys;
      job.accumulate = true;
      kernel.gemm_f32(job);
    }
    for (int q = 0; q < queries; ++q) kernel.scale_row(sum + q * stride, stride, 1 / total[q]);
    multiply(kernel, out_, sum, stride, queries,
             x.row(0) + static_cast<std::ptrdiff_t>(first) * stride, stride, bias_.data(), true);
  });
}

}  // namespace bidiffsr
