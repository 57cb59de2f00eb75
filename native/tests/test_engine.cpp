// Whole networks with random weights: kernels agree, threads change nothing, scratch is enough.
#include "bidiffsr/engine.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>

#include "bidiffsr/kernels.h"
#include "check.h"
#include "models/unet.h"
#include "random_model.h"

namespace bidiffsr::tests {
namespace {

struct Example {
  std::string name;
  NetworkConfig config;
};

std::vector<Example> examples() {
  NetworkConfig plain;
  plain.channels = 16;
  plain.multipliers = {1, 2};
  plain.blocks_per_level = 1;
  plain.norm_groups = 4;
  plain.full_precision_up_levels = 1;
  plain.timesteps = 20;
  plain.time_groups = 3;
  std::vector<Example> all{{"plain", plain}};
  const auto add = [&](const char* name, const auto& change) {
    all.push_back({name, plain});
    change(all.back().config);
  };
  add("odd channels", [](NetworkConfig& c) {
    c.channels = 6;
    c.norm_groups = 2;
    c.multipliers = {1, 2, 4};
  });
  add("more than a word", [](NetworkConfig& c) { c.channels = 70, c.norm_groups = 5; });
  add("attention everywhere", [](NetworkConfig& c) { c.attention_levels = {0, 1}; });
  add("odd attention", [](NetworkConfig& c) {
    c.channels = 10;
    c.norm_groups = 5;
    c.attention_levels = {0};
  });
  add("binarized throughout", [](NetworkConfig& c) { c.full_precision_up_levels = 0; });
  add("split", [](NetworkConfig& c) { c.fusion = Fusion::kSplit, c.full_precision_up_levels = 0; });
  add("concat",
      [](NetworkConfig& c) { c.fusion = Fusion::kConcat, c.full_precision_up_levels = 0; });
  add("add", [](NetworkConfig& c) { c.fusion = Fusion::kAdd; });
  add("split in float", [](NetworkConfig& c) { c.fusion = Fusion::kSplit; });
  add("concat in float", [](NetworkConfig& c) { c.fusion = Fusion::kConcat; });
  add("strided", [](NetworkConfig& c) {
    c.consistent_resampling = false;
    c.multipliers = {1, 3};
    c.channels = 6;
    c.norm_groups = 3;
  });
  add("no shortcut", [](NetworkConfig& c) { c.identity_shortcut = false; });
  add("full precision", [](NetworkConfig& c) { c.binarized = false; });
  add("full precision, odd, strided", [](NetworkConfig& c) {
    c.binarized = false;
    c.channels = 6;
    c.norm_groups = 2;
    c.consistent_resampling = false;
    c.attention_levels = {1};
  });
  add("full precision, odd", [](NetworkConfig& c) {
    c.binarized = false;
    c.channels = 6;
    c.norm_groups = 2;
    c.multipliers = {1, 2, 4};
  });
  add("one level", [](NetworkConfig& c) { c.multipliers = {1}; });
  add("patches", [](NetworkConfig& c) { c.patch = 2; });
  add("patches in full precision", [](NetworkConfig& c) {
    c.binarized = false;
    c.patch = 2;
    c.attention_levels = {0};
  });
  add("affine in full precision", [](NetworkConfig& c) {
    c.binarized = false;
    c.norm_groups = 0;
    c.middle_attention = false;  // which large features make a choice of one
  });
  add("straight body", [](NetworkConfig& c) {
    c.patch = 4;
    c.multipliers = {1};
    c.fusion = Fusion::kAdd;
    c.full_precision_up_levels = 0;
    c.norm_groups = 0;
    c.mean_condition = true;
    c.middle_attention = false;
    c.weight_gain = true;
  });
  return all;
}

// A network and pictures for it.
struct Run {
  explicit Run(const NetworkConfig& config, std::uint64_t seed, int height_ = 12, int width_ = 20)
      : random(seed), model(random), height(height_), width(width_) {
    model.network(config);
    const auto count = static_cast<std::size_t>(kBatch * 3 * height * width);
    x_t = random.floats(count, -2, 2);
    cond = random.floats(count, 0, 1);
    for (int i = 0; i < kBatch; ++i) timesteps.push_back(i * config.timesteps / kBatch);
  }
  static constexpr int kBatch = 3;
  std::size_t sample() const { return static_cast<std::size_t>(3 * height * width); }
  Batch batch() const { return {x_t.data(), cond.data(), timesteps.data(), kBatch, height, width}; }
  std::vector<float> operator()(Engine& engine) const {
    std::vector<float> prediction(x_t.size());
    engine.predict(batch(), prediction.data());
    return prediction;
  }
  Random random;
  RandomModel model;
  int height, width;
  std::vector<float> x_t, cond;
  std::vector<std::int64_t> timesteps;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The largest difference of one sample, as a part of the largest value.
double difference(const std::vector<float>& a, const std::vector<float>& b, std::size_t first,
                  std::size_t count) {
  double largest = 0, apart = 0;
  for (std::size_t i = first; i < first + count; ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a[i])));
    const double gap = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    apart = gap <= apart ? apart : gap;  // NaN stays
  }
  return apart / largest;
}

TEST(engine_agrees_on_all_kernels) {
  std::uint64_t seed = 40;
  for (const Example& each : examples()) {
    const Run run(each.config, ++seed);
    const Tensors tensors = run.model.tensors();
    Engine portable(each.config, tensors, false, "portable", 1);
    const std::vector<float> wanted = run(portable);
    for (const float value : wanted) CHECK_THAT(std::isfinite(value), each.name);
    for_each_kernel([&](const Kernel& kernel) {
      Engine engine(each.config, tensors, false, kernel.name, 2);
      CHECK(engine.kernel() == kernel.name);
      const std::vector<float> found = run(engine);
      // A value so near its threshold that rounding decides the sign may lie in one sample; hardly
      // in two.
      int differ = 0;
      std::string about = each.name;
      for (int i = 0; i < Run::kBatch; ++i) {
        const double apart =
            difference(wanted, found, static_cast<std::size_t>(i) * run.sample(), run.sample());
        about += text(", apart", apart);
        differ += apart <= 1e-5 ? 0 : 1;
      }
      CHECK_THAT(differ <= (each.config.binarized ? 1 : 0), about);
    });
  }
}

TEST(engine_made_fast_stays_close) {
  std::uint64_t seed = 60;
  for (const Example& each : examples()) {
    const Run run(each.config, ++seed);
    const Tensors tensors = run.model.tensors();
    for_each_kernel([&](const Kernel& kernel) {
      Engine fast(each.config, tensors, true, kernel.name, 1);
      Engine exact(each.config, tensors, false, kernel.name, 1);
      const std::vector<float> wanted = run(exact), found = run(fast);
      for (const float value : found) CHECK_THAT(std::isfinite(value), each.name);
      // With signs after it, rounding shows; only networks without any have a narrow bound.
      const double apart = difference(wanted, found, 0, wanted.size());
      const double bound = kernel.bfloat16 ? 0.05 : 1e-4;
      CHECK_THAT(each.config.binarized || apart < bound, each.name + text(", apart", apart));
    });
  }
}

TEST(engine_gives_the_same_bits_with_any_threads) {
  std::uint64_t seed = 80;
  for (const Example& each : examples())
    for (const bool fast : {false, true}) {
      const Run run(each.config, ++seed, 28, 8);
      const Tensors tensors = run.model.tensors();
      Engine one(each.config, tensors, fast, "", 1);
      const std::vector<float> wanted = run(one);
      for (const int threads : {2, 3}) {
        Engine more(each.config, tensors, fast, "", threads);
        CHECK(more.threads() == threads);
        CHECK_THAT(same_bits(run(more), wanted), each.name + text(", threads", threads));
      }
    }
}

TEST(engine_takes_callers_that_come_together) {
  const Example each = examples()[1];
  const Run run(each.config, 100), other(each.config, 101, 4, 8);
  Engine engine(each.config, run.model.tensors(), true, "", 2);
  const std::vector<float> wanted = run(engine), wanted_other = other(engine);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&, i] {
      for (int call = 0; call < 3; ++call) {
        const bool first = (i + call) % 2 == 0;
        wrong += same_bits((first ? run : other)(engine), first ? wanted : wanted_other) ? 0 : 1;
      }
    });
  for (auto& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST(engine_runs_samples_one_by_one) {
  const Example each = examples()[0];
  const Run run(each.config, 102);
  Engine engine(each.config, run.model.tensors(), false, "", 2);
  const std::vector<float> wanted = run(engine);
  for (std::size_t i = 0; i < Run::kBatch; ++i) {
    std::vector<float> found(run.sample());
    const std::size_t at = i * run.sample();
    engine.predict({run.x_t.data() + at, run.cond.data() + at, run.timesteps.data() + i, 1,
                    run.height, run.width},
                   found.data());
    CHECK(std::equal(found.begin(), found.end(), wanted.begin() + static_cast<std::ptrdiff_t>(at)));
  }
}

TEST(engine_may_skip_a_variable_of_zeros) {
  for (const Example& each : examples()) {
    Run run(each.config, 104);
    std::fill(run.x_t.begin(), run.x_t.end(), 0.0f);
    for_each_kernel([&](const Kernel& kernel) {
      Engine engine(each.config, run.model.tensors(), false, kernel.name, 2);
      Run other = run;
      // Too little to change a sum, and no zero.
      std::fill(other.x_t.begin(), other.x_t.end(), 1e-30f);
      CHECK_THAT(same_bits(run(engine), other(engine)), each.name);
    });
  }
}

TEST(engine_refuses_bad_sizes) {
  const Example each = examples()[1];  // multiples of 4
  const Run run(each.config, 103);
  Engine engine(each.config, run.model.tensors(), false, "", 1);
  CHECK(engine.size_multiple() == 4);
  CHECK(engine.scratch_bytes(4, 8) > 0);
  CHECK(engine.scratch_bytes(8, 8) <= engine.scratch_bytes(16, 8));
  for (const auto& [height, width] : {std::pair{0, 4}, {4, 0}, {-4, 4}, {4, -4}, {6, 4}, {4, 5}}) {
    const std::string about = text("height", height) + text("width", width);
    const Batch nothing{nullptr, nullptr, nullptr, 1, height, width};
    CHECK_THROWS(std::invalid_argument, engine.scratch_bytes(height, width), about);
    CHECK_THROWS(std::invalid_argument, engine.predict(nothing, nullptr), about);
  }
  CHECK_THROWS(std::invalid_argument,
               Engine(each.config, run.model.tensors(), false, "no such kernel", 1), "");
}

// ---- scratch -----------------------------------------------------------------------------------

// Runs the network in memory that holds `filler` everywhere.
std::vector<float> run_in(const Run& run, const UNet& net, const Kernel& kernel, ThreadPool& pool,
                          float filler) {
  Arena plan;
  Context planning(kernel, pool, plan);
  net.forward(planning, nullptr, nullptr, 0, nullptr, run.height, run.width);
  Arena arena(plan.peak());
  std::byte* all = arena.allocate(plan.peak() - Arena::kSlack);
  for (std::size_t at = 0; at + sizeof filler <= plan.peak(); at += sizeof filler)
    std::memcpy(all + at, &filler, sizeof filler);
  arena.release(all);
  std::vector<float> prediction(run.sample());
  Context context(kernel, pool, arena);
  net.forward(context, run.x_t.data(), run.cond.data(), run.timesteps[0], prediction.data(),
              run.height, run.width);
  CHECK(arena.peak() == plan.peak());
  return prediction;
}

TEST(engine_needs_no_more_scratch_than_planned_and_none_of_what_it_held) {
  std::uint64_t seed = 120;
  ThreadPool pool(2);
  for (const Example& each : examples())
    for (const auto& [height, width] : {std::pair{4, 4}, {12, 20}}) {
      const Run run(each.config, ++seed, height, width);
      for_each_kernel([&](const Kernel& kernel) {
        for (const bool fast : {false, true}) {
          const UNet net(each.config, run.model.tensors(), kernel, fast);
          const std::vector<float> wanted = run_in(run, net, kernel, pool, 0.0f);
          for (const float filler :
               {1e30f, std::numeric_limits<float>::infinity(),
                -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
            CHECK_THAT(same_bits(run_in(run, net, kernel, pool, filler), wanted),
                       each.name + text(", filler", static_cast<double>(filler)) +
                           text("fast", fast) + text("height", height));
        }
      });
    }
}

// ---- malformed files ---------------------------------------------------------------------------

void check_refusals(const NetworkConfig& config) {
  Random random(140);
  RandomModel model(random);
  model.network(config);
  const Kernel& kernel = choose_kernel("");
  UNet(config, model.tensors(), kernel, true);
  for (const std::string& name : model.names()) {
    const TensorView view = model.view(name);
    const bool list = view.type == TensorView::Type::kInt32;
    if (!list) {  // which may be absent
      model.left_out = {name};
      CHECK_THROWS(std::invalid_argument, UNet(config, model.tensors(), kernel, true), name);
      model.left_out.clear();
    }
    const auto refused = [&](const auto& change) {
      TensorView changed = view;
      change(changed);
      Tensors tensors = model.tensors();
      tensors.add(name, changed);
      CHECK_THROWS(std::invalid_argument, UNet(config, tensors, kernel, true), name);
    };
    refused([&](TensorView& changed) {
      changed.type = list ? TensorView::Type::kFloat32 : TensorView::Type::kInt32;
    });
    refused([](TensorView& changed) { changed.shape.push_back(1); });
    if (list) continue;
    refused([](TensorView& changed) { --changed.shape.back(); });
    refused([](TensorView& changed) { changed.shape.clear(); });
  }
}

TEST(engine_refuses_missing_and_misshapen_tensors) {
  NetworkConfig config;
  config.channels = 4;
  config.multipliers = {1, 2};
  config.blocks_per_level = 1;
  config.norm_groups = 2;
  config.full_precision_up_levels = 1;
  config.attention_levels = {0};
  check_refusals(config);
  config.consistent_resampling = false;
  config.fusion = Fusion::kConcat;
  check_refusals(config);
  config.binarized = false;
  check_refusals(config);
  config.binarized = true;
  config.patch = 2;
  config.weight_gain = true;
  config.norm_groups = 0;
  check_refusals(config);
  config.mean_condition = true;
  check_refusals(config);
}

}  // namespace
}  // namespace bidiffsr::tests
