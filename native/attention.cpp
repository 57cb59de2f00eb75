#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "blocks.h"
#include "sweep.h"

namespace bidiffsr {

namespace {
constexpr int kQueries = 24;  // a task; the result does not depend on who runs it
constexpr int kKeys = 128;    // a block of the streaming softmax, whose scores stay in cache
static_assert(kKeys % kPanel == 0);

// Queries, keys and values of all positions, float32 or bfloat16: queries in rows; keys as panels
// of 16 positions over the channels; values, for each block of keys, as panels of 16 channels over
// the positions (kernels/kernel.h, Gemm).
template <class T>
struct Projections {
  Projections(Pass& pass, int positions, int channels)
      : channels(channels),
        values_width(padded(channels)),
        queries(pass.arena, size(positions, round_up(channels, 2))),
        keys(pass.arena, size(round_up(positions, kPanel), round_up(channels, 2))),
        values(pass.arena, size(round_up(positions, kKeys), padded(channels))) {
    // What lies behind the last position is multiplied by zero, which NaN would survive.
    if (!pass.planning())
      std::memset(value_panel((positions - 1) / kKeys, 0), 0,
                  sizeof(T) * size(kKeys, values_width));
  }
  static std::size_t size(int rows, int columns) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  }
  static constexpr int kStep = sizeof(T) == sizeof(float) ? 1 : 2;  // positions that interleave
  static T convert(float value) {
    if constexpr (kStep == 1)
      return value;
    else
      return to_bfloat16(value);
  }
  int depth() const { return round_up(channels, kStep); }

  T* key_panel(int position) const {
    return keys.get() + static_cast<std::ptrdiff_t>(position / kPanel) * depth() * kPanel;
  }
  static std::ptrdiff_t in_panel(int k, int column) {
    return static_cast<std::ptrdiff_t>(k / kStep * kPanel + column) * kStep + k % kStep;
  }
  T* value_panel(int block, int panel) const {
    return values.get() + static_cast<std::ptrdiff_t>(block) * kKeys * values_width +
           static_cast<std::ptrdiff_t>(panel) * kKeys * kPanel;
  }

  // Takes q, k, v of one position.
  void put(int position, const float* qkv) const {
    const int depth_all = depth();
    T* query = queries.get() + static_cast<std::ptrdiff_t>(position) * depth_all;
    T* key = key_panel(position);
    for (int c = 0; c < depth_all; ++c) {
      query[c] = convert(c < channels ? qkv[c] : 0.0f);
      key[in_panel(c, position % kPanel)] = convert(c < channels ? qkv[channels + c] : 0.0f);
    }
    for (int c = 0; c < values_width; ++c)
      value_panel(position / kKeys, c / kPanel)[in_panel(position % kKeys, c % kPanel)] =
          convert(c < channels ? qkv[2 * channels + c] : 0.0f);
  }

  int channels, values_width;
  Block<T> queries, keys, values;
};

}  // namespace

Attention::Attention(const Loading& from, const std::string& name, int channels)
    : channels_(channels),
      bfloat16_(from.bfloat16),
      norm_(from, name + ".norm", channels),
      bias_(static_cast<std::size_t>(padded(channels)), 0.0f) {
  const float* qkv = from.tensors.floats(name + ".qkv.weight", {3 * channels, channels, 1, 1});
  const float* out = from.tensors.floats(name + ".out.weight", {channels, channels, 1, 1});
  std::copy_n(from.tensors.floats(name + ".out.bias", {channels}), channels, bias_.begin());
  // Queries carry the scale of the scores.
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(channels)));
  qkv_ = Panels(3 * channels, channels, bfloat16_, [&](int o, int i) {
    return qkv[o * channels + i] * (o < channels ? scale : 1.0f);
  });
  out_ = Panels(channels, channels, bfloat16_, [&](int o, int i) { return out[o * channels + i]; });
}

void Attention::operator()(Pass& pass, Features& features) const {
  if (bfloat16_)
    attend<std::uint16_t>(pass, features);
  else
    attend<float>(pass, features);
}

template <class T>
void Attention::attend(Pass& pass, Features& features) const {
  const Kernel& kernel = pass.kernel;
  const Tensor& x = features.x;
  const int positions = x.height * x.width, stride = x.stride;
  const GroupNorm::Affine norm = norm_.fold(features);
  const Projections<T> all(pass, positions, channels_);
  const int depth = all.depth();
  const auto count = [](int rows, int columns) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  };
  const auto rounded = [&](const float* from, std::byte* to, std::size_t size) -> const void* {
    if constexpr (sizeof(T) == sizeof(float)) return from;
    kernel.round_bf16(from, reinterpret_cast<std::uint16_t*>(to), size);
    return to;
  };

  {
    Room room;
    const std::size_t normal = room.add(sizeof(float) * count(x.width, stride));
    const std::size_t half = room.add(sizeof(T) * count(x.width, stride));
    const std::size_t projected = room.add(sizeof(float) * count(x.width, qkv_.n()));
    room.allocate(pass);
    const double macs = 3.0 * positions * channels_ * channels_;
    pass.run(Kind::kAttention, macs, x.height, [&](int y, int worker) {
      float* row = room.floats(worker, normal);
      kernel.normalize_row(x.row(y), row, x.width, stride, norm.scale.data(), norm.shift.data(),
                           false);
      const void* a = rounded(row, room.of(worker, half), count(x.width, stride));
      float* qkv = room.floats(worker, projected);
      multiply(kernel, qkv_, a, stride, x.width, qkv, qkv_.n(), nullptr, false);
      for (int i = 0; i < x.width; ++i)
        all.put(y * x.width + i, qkv + static_cast<std::ptrdiff_t>(i) * qkv_.n());
    });
  }

  Room room;
  const std::size_t scores = room.add(sizeof(float) * kQueries * kKeys);
  const std::size_t weights = room.add(sizeof(T) * kQueries * kKeys);
  const std::size_t result = room.add(sizeof(float) * count(kQueries, stride));
  const std::size_t half = room.add(sizeof(T) * count(kQueries, stride));
  const std::size_t sums = room.add(sizeof(float) * 2 * static_cast<std::size_t>(stride));
  room.allocate(pass);
  const double macs = 2.0 * positions * positions * channels_ +
                      static_cast<double>(positions) * channels_ * channels_;
  const int tasks = (positions + kQueries - 1) / kQueries;
  pass.run(Kind::kAttention, macs, tasks, [&](int task, int worker) {
    const int first = task * kQueries, queries = std::min(kQueries, positions - first);
    float* score = room.floats(worker, scores);
    float* sum = room.floats(worker, result);
    float maximum[kQueries], total[kQueries] = {}, decay[kQueries];
    std::fill_n(maximum, kQueries, -std::numeric_limits<float>::max());
    std::memset(sum, 0, sizeof(float) * count(kQueries, stride));
    for (int block = 0; block * kKeys < positions; ++block) {
      const int keys = std::min(kKeys, positions - block * kKeys);
      Gemm job{};
      job.a = all.queries.get() + static_cast<std::ptrdiff_t>(first) * depth;
      job.a_stride = depth;
      job.b = all.key_panel(block * kKeys);
      job.c = score;
      job.c_stride = kKeys;
      job.m = queries;
      job.n = padded(keys);
      job.k = depth;
      const auto product = sizeof(T) == sizeof(float) ? kernel.gemm_f32 : kernel.gemm_bf16;
      product(job);
      kernel.softmax_block(score, kKeys, queries, keys, maximum, total, decay);
      for (int q = 0; q < queries; ++q) {
        std::fill(score + q * kKeys + keys, score + (q + 1) * kKeys, 0.0f);
        kernel.scale_row(sum + q * stride, stride, decay[q]);
      }
      job.a = rounded(score, room.of(worker, weights), count(queries, kKeys));
      job.a_stride = kKeys;
      job.b = all.value_panel(block, 0);
      job.c = sum;
      job.c_stride = stride;
      job.n = stride;
      job.k = kKeys;
      job.accumulate = true;
      product(job);
    }
    for (int q = 0; q < queries; ++q) kernel.scale_row(sum + q * stride, stride, 1 / total[q]);
    const void* a = rounded(sum, room.of(worker, half), count(queries, stride));
    multiply(kernel, out_, a, stride, queries,
             x.row(0) + static_cast<std::ptrdiff_t>(first) * stride, stride, bias_.data(), true);
  });
  pass.run(Kind::kAttention, 0, x.height,
           [&](int y, int worker) { features.sums.add(kernel, x, y, room.floats(worker, sums)); });
}

}  // namespace bidiffsr
