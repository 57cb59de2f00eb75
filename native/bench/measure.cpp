#include "bidiffsr/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bidiffsr/kernels.h"
#include "ops/conv.h"
#include "runtime/aligned.h"
#include "runtime/context.h"
#include "runtime/layout.h"

namespace bidiffsr {

namespace {

// The best of a few trials of `loop`, which returns the work of one task.
template <class Loop>
double best_rate(ThreadPool& pool, const Loop& loop) {
  double best = 0;
  for (int trial = 0; trial < 5; ++trial) {
    std::vector<double> work(static_cast<std::size_t>(4 * pool.count()));
    const auto start = std::chrono::steady_clock::now();
    pool.run(static_cast<std::int64_t>(work.size()),
             [&](std::int64_t task, int) { work[static_cast<std::size_t>(task)] = loop(task); });
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    double sum = 0;
    for (const double each : work) sum += each;
    best = std::max(best, sum / time.count());
  }
  return best;
}

}  // namespace

Ceilings measure_ceilings(const std::string& name, int threads) {
  constexpr int kRounds = 2'000'000;
  constexpr std::size_t kCopy = 32u << 20;  // more than the caches of a core
  const Kernel& kernel = choose_kernel(name);
  ThreadPool pool(checked_threads(threads));
  const auto tasks = static_cast<std::size_t>(4 * pool.count());
  std::vector<std::byte> from(kCopy * tasks / 4, std::byte{1}), to(kCopy * tasks / 4);
  const std::size_t part = from.size() / tasks;
  Ceilings found{};
  found.binary = best_rate(pool, [&](std::int64_t) { return kernel.peak_binary(kRounds); });
  found.f32 = best_rate(pool, [&](std::int64_t) { return kernel.peak_f32(kRounds); });
  if (kernel.bfloat16)
    found.bf16 = best_rate(pool, [&](std::int64_t) { return kernel.peak_bf16(kRounds); });
  found.copy = best_rate(pool, [&](std::int64_t task) {
    const std::size_t at = part * static_cast<std::size_t>(task);
    std::memcpy(to.data() + at, from.data() + at, part);
    return 2.0 * static_cast<double>(part);
  });
  return found;
}

namespace {

// A binarized block of 3×3 with arbitrary signs; everything else is 1.
class ArbitraryBlock {
 public:
  explicit ArbitraryBlock(int channels)
      : signs_(static_cast<std::size_t>(channels) * static_cast<std::size_t>(channels * 9 / 8)),
        ones_(static_cast<std::size_t>(channels), 1.0f) {
    std::uint32_t state = 1;
    for (auto& byte : signs_) {
      state = state * 1664525u + 1013904223u;
      byte = static_cast<std::uint8_t>(state >> 24);
    }
    const std::int64_t c = channels;
    using Type = TensorView::Type;
    tensors_.add("c.conv.weight.signs", {Type::kUint8, {c, c * 9 / 8}, signs_.data()});
    tensors_.add("c.conv.weight.scale", {Type::kFloat32, {c}, ones_.data()});
    for (const char* key :
         {"c.shift.bias", "c.activation.bias_in", "c.activation.slope", "c.activation.bias_out"})
      tensors_.add(key, {Type::kFloat32, {1, c}, ones_.data()});
  }
  const Tensors& tensors() const { return tensors_; }

 private:
  std::vector<std::uint8_t> signs_;
  std::vector<float> ones_;
  Tensors tensors_;
};

}  // namespace

double measure_binary_conv(const std::string& name, int threads, int channels, int width) {
  constexpr int kRows = 200, kMostChannels = 1 << 14, kWidest = 1 << 20;
  if (channels < 8 || channels % 8 || channels > kMostChannels)
    throw std::invalid_argument("channels: got " + std::to_string(channels) +
                                ", expected a multiple of 8 up to " +
                                std::to_string(kMostChannels));
  if (width < 1 || width > kWidest)
    throw std::invalid_argument("width: got " + std::to_string(width) + ", expected 1 to " +
                                std::to_string(kWidest));
  const ArbitraryBlock block(channels);
  ThreadPool pool(checked_threads(threads));
  Arena arena;
  const Context context(choose_kernel(name), pool, arena);
  const NetworkConfig config;
  const std::unique_ptr<Conv> conv = load_conv({config, block.tensors(), context.kernel, false},
                                               "c", channels, channels, 3, 1, true);
  const auto stride = static_cast<std::size_t>(padded(channels));
  return best_rate(pool, [&](std::int64_t) {
    const Aligned<float> input(stride * static_cast<std::size_t>(width + 1), 0.5f);
    Aligned<float> output(input.size()), sums(2 * stride);
    Aligned<std::byte> scratch(conv->scratch(width));
    const std::unique_ptr<ConvRows> rows =
        conv->open(context, width, 3, static_cast<std::ptrdiff_t>(stride), scratch.data());
    for (int y = 0; y < 3; ++y) rows->push(y, input.data());
    RowsOut out{output.data(), 0,       static_cast<std::ptrdiff_t>(stride),
                conv->bias(0), nullptr, false};
    out.sums = sums.data();
    for (int i = 0; i < kRows; ++i) rows->emit(1, 1, out);
    return conv->macs(static_cast<std::int64_t>(kRows) * width);
  });
}

}  // namespace bidiffsr
