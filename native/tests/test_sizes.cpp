// Pictures larger than `int` counts: planned in full, and never allocated.
#include <cstdint>
#include <limits>

#include "bidiffsr/engine.h"
#include "check.h"
#include "random_model.h"
#include "runtime/arena.h"
#include "runtime/checked.h"

namespace bidiffsr::tests {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::ptrdiff_t>::max();

TEST(products_of_sizes_are_exact_or_refused) {
  CHECK(checked_product(1 << 20, 1 << 20, std::size_t{1} << 22) == std::size_t{1} << 62);
  CHECK(checked_product(0, kMost) == 0);
  CHECK(checked_product(kMost, 1) == static_cast<std::size_t>(kMost));
  CHECK(checked_bytes<float>(3, 1 << 30) == std::size_t{3} << 32);
  CHECK_THROWS(std::length_error, checked_product(kMost, 2), "");
  CHECK_THROWS(std::length_error, checked_product(std::int64_t{1} << 32, std::int64_t{1} << 32),
               "");
  CHECK_THROWS(std::length_error, checked_product(~std::size_t{0}, 1), "");
  CHECK_THROWS(std::length_error, checked_product(-1, 1), "");
  CHECK_THROWS(std::length_error, checked_product(-2, -3), "");
  CHECK_THROWS(std::length_error, checked_bytes<double>(kMost / 4), "");
}

TEST(arena_refuses_what_no_memory_holds) {
  Arena plan;
  const std::size_t half = static_cast<std::size_t>(kMost) / 4;
  CHECK_THROWS(std::length_error, plan.allocate(~std::size_t{0}), "");
  CHECK_THROWS(std::length_error, plan.allocate(static_cast<std::size_t>(kMost)), "");
  CHECK_THROWS(std::length_error, Block<float>(plan, ~std::size_t{0} / 2), "");
  plan.allocate(half);
  CHECK_THROWS(std::length_error, plan.allocate(half), "");
  CHECK(plan.peak() > half && plan.peak() < half + 1024);
}

// Feature maps and what attention keeps of them grow by the same for each row, the rest not at all:
// what large pictures need follows from small ones, in whole numbers.
TEST(scratch_of_any_height_follows_from_small_ones) {
  Random random(150);
  NetworkConfig config;
  config.channels = 16;
  config.multipliers = {1, 2};
  config.blocks_per_level = 1;
  config.norm_groups = 4;
  config.full_precision_up_levels = 1;
  config.attention_levels = {0, 1};
  config.time_groups = 1;
  RandomModel model(random);
  model.network(config);
  Engine engine(config, model.tensors(), false, "portable", 2);
  for (const std::int64_t width : {std::int64_t{8192}, std::int64_t{1} << 20}) {
    const auto bytes = [&](std::int64_t height) {
      return static_cast<std::int64_t>(
          engine.scratch_bytes(static_cast<int>(height), static_cast<int>(width)));
    };
    constexpr std::int64_t kStep = 1024;
    const std::int64_t least = bytes(kStep), more = bytes(2 * kStep) - least;
    // The features of the first level and a skip connection, at the very least.
    CHECK(more >= 2 * kStep * width * 16 * 4);
    for (const std::int64_t height : {4 * kStep, std::int64_t{1} << 18, std::int64_t{1} << 20})
      CHECK_THAT(bytes(height) == least + (height / kStep - 1) * more,
                 text("height", static_cast<double>(height)) +
                     text("bytes", static_cast<double>(bytes(height))));
  }
  constexpr int kTooLarge = (1 << 20) + 2;
  CHECK_THROWS(std::invalid_argument, engine.scratch_bytes(kTooLarge, 2), "");
  CHECK_THROWS(std::invalid_argument, engine.scratch_bytes(2, kTooLarge), "");
  CHECK_THROWS(std::invalid_argument, engine.scratch_bytes(2, (1 << 30) - 2), "");
}

}  // namespace
}  // namespace bidiffsr::tests
