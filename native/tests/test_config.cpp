// What the engine refuses: configurations, methods, tensors.
#include "bidiffsr/config.h"

#include <limits>

#include "bidiffsr/kernels.h"
#include "check.h"
#include "models/unet.h"
#include "ops/method.h"
#include "random_model.h"

namespace bidiffsr::tests {
namespace {

template <class Change>
void check_refused(const Change& change, const std::string& about) {
  NetworkConfig config;
  config.validate();
  change(config);
  CHECK_THROWS(std::invalid_argument, config.validate(), about);
}

TEST(config_refuses_numbers_out_of_range) {
  constexpr int kHuge = std::numeric_limits<int>::max(), kLow = std::numeric_limits<int>::min();
  struct Key {
    const char* name;
    int NetworkConfig::* value;
    std::vector<int> wrong;
  };
  const std::vector<Key> keys{
      {"patch", &NetworkConfig::patch, {kLow, -1, 0, 9, 1 << 16, kHuge}},
      {"channels", &NetworkConfig::channels, {kLow, -2, 0, 1, 63, 4096, 1 << 20, kHuge}},
      {"blocks_per_level", &NetworkConfig::blocks_per_level, {kLow, -1, 0, 17, kHuge}},
      {"norm_groups", &NetworkConfig::norm_groups, {kLow, -1, 3, 65, 128, kHuge}},
      {"full_precision_up_levels", &NetworkConfig::full_precision_up_levels, {kLow, -1, 5, kHuge}},
      {"timesteps", &NetworkConfig::timesteps, {kLow, -1, 0, kHuge}},
      {"time_groups", &NetworkConfig::time_groups, {kLow, -1, 0, 1001, kHuge}}};
  for (const Key& key : keys)
    for (const int wrong : key.wrong)
      check_refused([&](NetworkConfig& config) { config.*key.value = wrong; },
                    text(key.name, wrong));
}

TEST(config_refuses_levels_that_make_no_network) {
  const std::vector<std::vector<int>> wrong{
      {}, {0}, {2}, {-1}, {1, 0}, {1, 3}, {1, 2, 2}, {1, 2, 1 << 30}, std::vector<int>(9, 1)};
  for (const auto& multipliers : wrong)
    check_refused([&](NetworkConfig& config) { config.multipliers = multipliers; },
                  text("levels", static_cast<double>(multipliers.size())));
  for (const int level : {-1, 4, 1 << 30})
    check_refused([&](NetworkConfig& config) { config.attention_levels = {0, level}; },
                  text("level", level));
  NetworkConfig strided;
  strided.consistent_resampling = false;
  strided.multipliers = {1, 3, 2};
  strided.full_precision_up_levels = 3;
  strided.validate();
  strided.norm_groups = 0;
  strided.validate();
}

TEST(methods_are_found_by_name) {
  CHECK(method_named("bi-diffsr").binarized());
  CHECK(method_named("dorefa").binarized());
  CHECK(are_steps(method_named("dorefa-w1a2").bits) && !are_steps(method_named("recu").bits));
  CHECK(method_named("xnor-net").magnitudes && !method_named("bi-diffsr").magnitudes);
  CHECK(!method_named("full-precision").binarized());
  for (const char* wrong : {"", "BI-DIFFSR", "bi-diffsr ", "reactnet"})
    CHECK_THROWS(std::invalid_argument, method_named(wrong), wrong);
}

TEST(fusions_are_found_by_name) {
  CHECK(fusion_named("cs") == Fusion::kShuffle && fusion_named("split") == Fusion::kSplit);
  CHECK(fusion_named("concat") == Fusion::kConcat && fusion_named("add") == Fusion::kAdd);
  CHECK_THROWS(std::invalid_argument, fusion_named("sum"), "");
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
  config.method = "full-precision";
  check_refusals(config);
  config.method = "bi-diffsr";
  config.patch = 2;
  config.weight_gain = true;
  config.norm_groups = 0;
  check_refusals(config);
  config.mean_condition = true;
  check_refusals(config);
}

TEST(engine_refuses_a_wrong_configuration_before_it_looks_at_tensors) {
  const Tensors none;
  NetworkConfig config;
  config.multipliers = {};
  CHECK_THROWS(std::invalid_argument, UNet(config, none, choose_kernel(""), false), "levels");
  config = NetworkConfig();
  config.method = "unknown";
  CHECK_THROWS(std::invalid_argument, UNet(config, none, choose_kernel(""), false), "method");
}

}  // namespace
}  // namespace bidiffsr::tests
