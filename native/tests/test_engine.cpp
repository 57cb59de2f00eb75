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

NetworkConfig plain_config() {
  NetworkConfig plain;
  plain.channels = 16;
  plain.multipliers = {1, 2};
  plain.blocks_per_level = 1;
  plain.norm_groups = 4;
  plain.full_precision_up_levels = 1;
  plain.timesteps = 20;
  plain.time_groups = 3;
  return plain;
}

using Change = void (*)(NetworkConfig&);
struct NamedChange {
  const char* name;
  Change change;
};

// What differs from the plain network.
constexpr NamedChange kChanges[] = {
    {"odd channels",
     [](NetworkConfig& c) {
       c.channels = 6;
       c.norm_groups = 2;
       c.multipliers = {1, 2, 4};
     }},
    {"more than a word", [](NetworkConfig& c) { c.channels = 70, c.norm_groups = 5; }},
    {"attention everywhere", [](NetworkConfig& c) { c.attention_levels = {0, 1}; }},
    {"odd attention",
     [](NetworkConfig& c) {
       c.channels = 10;
       c.norm_groups = 5;
       c.attention_levels = {0};
     }},
    {"binarized throughout", [](NetworkConfig& c) { c.full_precision_up_levels = 0; }},
    {"split", [](NetworkConfig& c) { c.fusion = Fusion::kSplit, c.full_precision_up_levels = 0; }},
    {"concat",
     [](NetworkConfig& c) { c.fusion = Fusion::kConcat, c.full_precision_up_levels = 0; }},
    {"add", [](NetworkConfig& c) { c.fusion = Fusion::kAdd; }},
    {"split in float", [](NetworkConfig& c) { c.fusion = Fusion::kSplit; }},
    {"concat in float", [](NetworkConfig& c) { c.fusion = Fusion::kConcat; }},
    {"strided",
     [](NetworkConfig& c) {
       c.consistent_resampling = false;
       c.multipliers = {1, 3};
       c.channels = 6;
       c.norm_groups = 3;
     }},
    {"no shortcut", [](NetworkConfig& c) { c.identity_shortcut = false; }},
    {"scaled by the input", [](NetworkConfig& c) { c.method = "xnor-net"; }},
    {"full precision", [](NetworkConfig& c) { c.method = "full-precision"; }},
    {"full precision, odd, strided",
     [](NetworkConfig& c) {
       c.method = "full-precision";
       c.channels = 6;
       c.norm_groups = 2;
       c.consistent_resampling = false;
       c.attention_levels = {1};
     }},
    {"full precision, odd",
     [](NetworkConfig& c) {
       c.method = "full-precision";
       c.channels = 6;
       c.norm_groups = 2;
       c.multipliers = {1, 2, 4};
     }},
    {"one level", [](NetworkConfig& c) { c.multipliers = {1}; }},
    {"patches", [](NetworkConfig& c) { c.patch = 2; }},
    {"patches in full precision",
     [](NetworkConfig& c) {
       c.method = "full-precision";
       c.patch = 2;
       c.attention_levels = {0};
     }},
    {"affine in full precision",
     [](NetworkConfig& c) {
       c.method = "full-precision";
       c.norm_groups = 0;
       c.middle_attention = false;  // which large features make a choice of one
     }},
    {"straight body",
     [](NetworkConfig& c) {
       c.patch = 4;
       c.multipliers = {1};
       c.fusion = Fusion::kAdd;
       c.full_precision_up_levels = 0;
       c.norm_groups = 0;
       c.mean_condition = true;
       c.middle_attention = false;
       c.weight_gain = true;
     }},
};

std::vector<Example> examples() {
  std::vector<Example> all{{"plain", plain_config()}};
  for (const NamedChange& each : kChanges) {
    all.push_back({each.name, plain_config()});
    each.change(all.back().config);
  }
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
      CHECK_THAT(differ <= (is_binarized(each.config) ? 1 : 0), about);
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
      CHECK_THAT(is_binarized(each.config) || apart < bound, each.name + text(", apart", apart));
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

TEST(engine_stops_when_its_caller_says_so) {
  struct Stop {};
  const Example each = examples()[0];
  const Run run(each.config, 106);
  for (const int threads : {1, 3}) {
    Engine engine(each.config, run.model.tensors(), false, "", threads);
    const std::vector<float> wanted = run(engine);
    std::vector<float> prediction(run.x_t.size());
    int polls = 0;
    engine.predict(run.batch(), prediction.data(), [&] { ++polls; });
    CHECK(polls > 1 && same_bits(prediction, wanted));
    for (const int last : {1, polls / 2}) {
      int left = last;
      const auto stop = [&] {
        if (--left == 0) throw Stop();
      };
      CHECK_THROWS(Stop, (engine.predict(run.batch(), prediction.data(), stop), 0),
                   text("poll", last));
      CHECK(same_bits(run(engine), wanted));
    }
  }
}

TEST(engine_profiles_the_same_pass) {
  const Example each = examples()[0];
  const Run run(each.config, 105);
  Engine engine(each.config, run.model.tensors(), false, "", 2);
  std::vector<float> prediction(run.x_t.size());
  const Profile profile = engine.profile(run.batch(), prediction.data());
  CHECK(same_bits(prediction, run(engine)));
  const LayerCost& stem = profile.at("stem, 6 channels at 20x12");
  CHECK(stem.macs == Run::kBatch * 6.0 * 16 * 9 * 20 * 12);
  double seconds = 0;
  for (const auto& layer : profile) seconds += layer.second.seconds;
  CHECK(seconds > 0 && profile.size() > 5);
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
  for (const int threads : {-1, 1025, 1 << 30})
    CHECK_THROWS(std::invalid_argument,
                 Engine(each.config, run.model.tensors(), false, "", threads),
                 text("threads", threads));
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
    for (const auto& size : {std::pair{4, 4}, {12, 20}}) {
      const int height = size.first;
      const Run run(each.config, ++seed, height, size.second);
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

}  // namespace
}  // namespace bidiffsr::tests
