#include "measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "convs.h"
#include "kernels/registry.h"
#include "pass.h"
#include "threads.h"

namespace bidiffsr {

namespace {

// The best of a few trials of `loop`, which returns the work of one task.
template <class Loop>
double best_rate(ThreadPool& pool, const Loop& loop) {
  double best = 0;
  for (int trial = 0; trial < 5; ++trial) {
    std::vector<double> work(static_cast<std::size_t>(4 * pool.count()));
    const auto start = std::chrono::steady_clock::now();
    pool.run(static_cast<int>(work.size()),
             [&](int task, int) { work[static_cast<std::size_t>(task)] = loop(task); });
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
  ThreadPool pool(threads);
  const auto tasks = static_cast<std::size_t>(4 * pool.count());
  std::vector<std::byte> from(kCopy * tasks / 4, std::byte{1}), to(kCopy * tasks / 4);
  const std::size_t part = from.size() / tasks;
  Ceilings found{};
  found.binary = best_rate(pool, [&](int) { return kernel.peak_binary(kRounds); });
  found.f32 = best_rate(pool, [&](int) { return kernel.peak_f32(kRounds); });
  if (kernel.bfloat16) found.bf16 = best_rate(pool, [&](int) { return kernel.peak_bf16(kRounds); });
  found.copy = best_rate(pool, [&](int task) {
    const std::size_t at = part * static_cast<std::size_t>(task);
    std::memcpy(to.data() + at, from.data() + at, part);
    return 2.0 * static_cast<double>(part);
  });
  return found;
}

double measure_binary_conv(const std::string& name, int threads, int channels, int width) {
  constexpr int kRows = 200;
  const auto count = static_cast<std::size_t>(channels);
  std::vector<std::uint8_t> signs(count * ((count * 9 + 7) / 8));
  std::uint32_t state = 1;
  for (auto& byte : signs) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::uint8_t>(state >> 24);
  }
  const std::vector<float> ones(count, 1.0f);
  const std::int64_t c = channels, row_bytes = (c * 9 + 7) / 8;
  if (9 * c % 8 != 0) throw std::invalid_argument("channels must be a multiple of 8");
  Tensors tensors;
  const auto add = [&](const char* key, TensorView::Type type, std::vector<std::int64_t> shape,
                       const void* data) { tensors.add(key, {type, std::move(shape), data}); };
  add("c.conv.weight.signs", TensorView::Type::kUint8, {c, row_bytes}, signs.data());
  add("c.conv.weight.scale", TensorView::Type::kFloat32, {c}, ones.data());
  for (const char* key :
       {"c.shift.bias", "c.activation.bias_in", "c.activation.slope", "c.activation.bias_out"})
    add(key, TensorView::Type::kFloat32, {1, c}, ones.data());

  ThreadPool pool(threads);
  Arena arena;
  const Pass pass(choose_kernel(name), pool, arena);
  const std::unique_ptr<Conv> conv = load_conv({NetworkConfig(), tensors, pass.kernel, false}, "c",
                                               channels, channels, 3, 1, true);
  const auto stride = static_cast<std::size_t>(padded(channels));
  return best_rate(pool, [&](int) {
    const Aligned<float> input(stride * static_cast<std::size_t>(width + 1), 0.5f);
    Aligned<float> output(input.size()), sums(2 * stride);
    Aligned<std::byte> memory(conv->scratch(width));
    const std::unique_ptr<ConvRows> rows =
        conv->open(pass, width, 3, static_cast<std::ptrdiff_t>(stride), memory.data());
    for (int y = 0; y < 3; ++y) rows->push(y, input.data());
    RowsOut out{output.data(), 0,       static_cast<std::ptrdiff_t>(stride),
                conv->bias(0), nullptr, false};
    out.sums = sums.data();
    for (int i = 0; i < kRows; ++i) rows->emit(1, 1, out);
    return conv->macs(kRows * width);
  });
}

}  // namespace bidiffsr
