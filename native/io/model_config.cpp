#include "io/model_config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "io/json.h"

namespace bidiffsr {

namespace {

constexpr int kLargestInt = std::numeric_limits<int>::max();

// The keys of one mapping, each asked for once; whoever is done says so, and what nobody asked for
// is refused.
class Keys {
 public:
  Keys(const Json& json, std::string where) : where_(std::move(where)) {
    if (!json.object())
      throw std::invalid_argument((where_.empty() ? "configuration" : where_) +
                                  ": expected a mapping");
    object_ = json.object();
  }

  // Null where the key is missing, and has its default.
  const Json* get(const char* key) {
    known_.insert(key);
    return find_member(*object_, key);
  }
  std::string path(const std::string& key) const {
    return where_.empty() ? key : where_ + "." + key;
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const {
    throw std::invalid_argument(path(key) + ": expected " + expected);
  }

  void whole(const char* key, int& value, int least, int most) {
    if (const Json* json = get(key)) value = whole_of(*json, key, least, most);
  }
  void wholes(const char* key, std::vector<int>& values, int least, int most) {
    const Json* json = get(key);
    if (!json) return;
    if (!json->list()) refuse(key, "a list of whole numbers");
    values.clear();
    for (const Json& each : *json->list()) values.push_back(whole_of(each, key, least, most));
  }
  void real(const char* key, double& value, double least, double most) {
    const Json* json = get(key);
    if (!json) return;
    const auto found = json->number();
    if (!found || !(*found >= least && *found <= most))
      refuse(key, "a number from " + shown(least) + " to " + shown(most));
    value = *found;
  }
  void flag(const char* key, bool& value) {
    const Json* json = get(key);
    if (!json) return;
    if (!json->flag()) refuse(key, "true or false");
    value = *json->flag();
  }
  // What one of the words means; `value` stays where the key is missing.
  template <class T>
  void word(const char* key, T& value, std::initializer_list<std::pair<const char*, T>> meanings) {
    const Json* json = get(key);
    if (!json) return;
    std::string known;
    for (const auto& [word, meaning] : meanings) {
      if (json->text() && *json->text() == word) {
        value = meaning;
        return;
      }
      known += std::string(known.empty() ? "" : ", ") + word;
    }
    refuse(key, "one of " + known);
  }
  void done() const {
    for (const JsonMember& member : *object_)
      if (!known_.count(member.name)) refuse(member.name, "no such key; it is unknown");
  }

 private:
  int whole_of(const Json& json, const char* key, int least, int most) const {
    const auto found = json.number();
    if (!found || *found != std::floor(*found) || *found < least || *found > most)
      refuse(key, "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    return static_cast<int>(*found);
  }

  std::string where_;
  const JsonObject* object_ = nullptr;
  std::set<std::string> known_;
};

void read_network(const Json& json, ModelConfig& to) {
  Keys keys(json, "network");
  if (const Json* architecture = keys.get("architecture")) {
    if (architecture->text() && *architecture->text() == "sr3")
      throw std::invalid_argument("network: is an SR3 network, which only PyTorch runs");
    bool ours = true;
    keys.word("architecture", ours, {{"bidiffsr", true}});
  }
  NetworkConfig& network = to.network;
  bool grouped = true;
  double dropout = 0;
  keys.whole("patch", network.patch, 1, kLargestInt);
  keys.whole("channels", network.channels, 1, kLargestInt);
  keys.wholes("multipliers", network.multipliers, 1, kLargestInt);
  keys.whole("blocks_per_level", network.blocks_per_level, 1, kLargestInt);
  keys.whole("norm_groups", network.norm_groups, 1, kLargestInt);
  keys.wholes("attention_levels", network.attention_levels, 0, kLargestInt);
  keys.whole("full_precision_up_levels", network.full_precision_up_levels, 0, kLargestInt);
  keys.whole("timesteps", network.timesteps, 1, kLargestInt);
  keys.whole("time_groups", network.time_groups, 1, kLargestInt);
  keys.real("dropout", dropout, 0, std::nextafter(1.0, 0.0));
  if (const Json* method = keys.get("method")) {
    if (!method->text()) keys.refuse("method", "a name");
    network.method = *method->text();
  }
  keys.word("resampling", network.consistent_resampling,
            {{"consistent", true}, {"strided", false}});
  keys.word("fusion", network.fusion,
            {{"cs", Fusion::kShuffle},
             {"split", Fusion::kSplit},
             {"concat", Fusion::kConcat},
             {"add", Fusion::kAdd}});
  keys.word("normalization", grouped, {{"group", true}, {"affine", false}});
  keys.flag("middle_attention", network.middle_attention);
  keys.word("stem_condition", network.mean_condition, {{"mean", true}, {"pixels", false}});
  keys.flag("weight_gain", network.weight_gain);
  keys.flag("identity_shortcut", network.identity_shortcut);
  keys.flag("timestep_aware_redistribution", to.shift_by_time);
  keys.flag("timestep_aware_activation", to.activation_by_time);
  keys.done();
  network.validate();
  if (!grouped) network.norm_groups = 0;
}

void check_linear(const Keys& keys, const ScheduleConfig& schedule) {
  // Just above the logarithm of float32's smallest normal number.
  constexpr double kLeastLogProduct = -87;
  double log_product = 0;
  const double step =
      (schedule.beta_end - schedule.beta_start) / std::max(1, schedule.timesteps - 1);
  for (int t = 0; t < schedule.timesteps; ++t)
    log_product += std::log1p(-(schedule.beta_start + t * step));
  if (log_product < kLeastLogProduct)
    keys.refuse("timesteps", "fewer, or smaller betas, which leave a signal in float32");
}

ScheduleConfig read_schedule(const Json& json) {
  using Kind = ScheduleConfig::Kind;
  constexpr double kLeastBeta = 1e-7, kMostBeta = 1 - 1e-6;
  Keys keys(json, "diffusion.schedule");
  ScheduleConfig schedule;
  keys.word("kind", schedule.kind, {{"linear", Kind::kLinear}, {"angular", Kind::kAngular}});
  if (schedule.kind == Kind::kAngular) {
    schedule.timesteps = 8;
    keys.whole("timesteps", schedule.timesteps, 1, 1000);
    keys.done();
    return schedule;
  }
  keys.whole("timesteps", schedule.timesteps, 1, 100'000);
  keys.real("beta_start", schedule.beta_start, kLeastBeta, kMostBeta);
  keys.real("beta_end", schedule.beta_end, kLeastBeta, kMostBeta);
  keys.done();
  check_linear(keys, schedule);
  return schedule;
}

DiffusionConfig read_diffusion(const Json& json) {
  using Prediction = DiffusionConfig::Prediction;
  Keys keys(json, "diffusion");
  DiffusionConfig diffusion;
  if (const Json* schedule = keys.get("schedule")) diffusion.schedule = read_schedule(*schedule);
  keys.word("prediction", diffusion.prediction,
            {{"epsilon", Prediction::kEpsilon},
             {"v", Prediction::kVelocity},
             {"sample", Prediction::kSample}});
  keys.word("variable", diffusion.residual, {{"image", false}, {"residual", true}});
  keys.real("residual_scale", diffusion.residual_scale, 1e-6, 1e6);
  if (const Json* clip = keys.get("clip")) {
    diffusion.clip.reset();
    if (!std::holds_alternative<std::nullptr_t>(clip->value))
      keys.real("clip", diffusion.clip.emplace(), 1e-6, 1e6);
  }
  keys.word("input_scaling", diffusion.scaled_input, {{"none", false}, {"signal", true}});
  keys.done();
  if (diffusion.prediction == Prediction::kEpsilon &&
      diffusion.schedule.kind == ScheduleConfig::Kind::kAngular)
    keys.refuse("prediction", "v or sample, as an angular schedule ends without signal");
  return diffusion;
}

SamplingConfig read_sampling(const Json& json, const std::string& where, int timesteps) {
  using Sampler = SamplingConfig::Sampler;
  Keys keys(json, where);
  SamplingConfig sampling;
  keys.word("sampler", sampling.sampler,
            {{"ddim", Sampler::kDdim}, {"dpm-solver++", Sampler::kDpmSolver}});
  keys.whole("steps", sampling.steps, 1, timesteps);
  keys.word("spacing", sampling.trailing, {{"leading", false}, {"trailing", true}});
  keys.real("eta", sampling.eta, 0, 1);
  keys.real("noise_scale", sampling.noise_scale, 0, 2);
  keys.real("mean_weight", sampling.mean_weight, 0, 1);
  keys.whole("back_projections", sampling.back_projections, 0, 16);
  keys.done();
  if (sampling.steps > timesteps) keys.refuse("steps", std::to_string(timesteps) + " at most");
  if (sampling.sampler != Sampler::kDdim && sampling.eta > 0)
    keys.refuse("eta", "0, for its sampler is deterministic");
  return sampling;
}

void read_qualities(const Json& json, ModelConfig& to) {
  Keys keys(json, "qualities");
  for (const char* name : {"fast", "balanced", "best"})
    if (const Json* quality = keys.get(name))
      to.qualities[name] = read_sampling(*quality, std::string("qualities.") + name,
                                         to.diffusion.schedule.timesteps);
  keys.done();
}

void check_provenance(const Json& json) {
  if (!json.object()) throw std::invalid_argument("provenance: expected texts by name");
  for (const JsonMember& member : *json.object())
    if (!member.value.text()) throw std::invalid_argument("provenance: expected texts by name");
}

}  // namespace

ModelConfig read_model_config(std::string_view json) {
  const Json parsed = parse_json(json);
  Keys keys(parsed, "");
  ModelConfig config;
  const Json nothing{JsonObject{}};
  const auto part = [&](const char* key) -> const Json& {
    const Json* found = keys.get(key);
    return found ? *found : nothing;
  };
  read_network(part("network"), config);
  config.diffusion = read_diffusion(part("diffusion"));
  const int timesteps = config.diffusion.schedule.timesteps;
  config.sampling = read_sampling(part("sampling"), "sampling", timesteps);
  read_qualities(part("qualities"), config);
  keys.whole("scale", config.scale, 1, 16);
  check_provenance(part("provenance"));
  keys.done();
  if (config.network.timesteps != timesteps)
    throw std::invalid_argument("network.timesteps: differs from the schedule's " +
                                std::to_string(timesteps));
  return config;
}

}  // namespace bidiffsr
