#include "models/unet.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/resample.h"
#include "models/residual_block.h"
#include "models/skip_fusion.h"
#include "models/stem.h"
#include "models/tail.h"
#include "models/time_embedding.h"

namespace bidiffsr {

namespace {

std::string indexed(const std::string& name, int index) { return name + std::to_string(index); }

struct DownLevel {
  std::vector<ResidualBlock> blocks;
  std::optional<Down> resample;
};
struct UpLevel {
  std::vector<std::unique_ptr<SkipFusion>> fusions;
  std::vector<ResidualBlock> blocks;
  std::optional<Up> resample;
};

}  // namespace

struct UNetWeights {
  explicit UNetWeights(const LoadContext& from) : time(from), stem(from), tail(load_tail(from)) {
    const NetworkConfig& config = from.config;
    const int deepest = config.levels() - 1;
    for (int level = 0; level <= deepest; ++level) load_down(from, level);
    for (int i = 0; i < 2; ++i)
      middle.emplace_back(from, indexed("middle.", i), config.width(deepest),
                          from.method.binarized(), i == 0 && config.middle_attention);
    for (int level = deepest; level >= 0; --level) load_up(from, level);
  }

  TimeEmbedding time;
  Stem stem;
  std::vector<DownLevel> down;
  std::vector<ResidualBlock> middle;
  std::vector<UpLevel> up;  // the deepest first
  std::unique_ptr<Tail> tail;

 private:
  void load_down(const LoadContext& from, int level) {
    const NetworkConfig& config = from.config;
    const std::string name = indexed("down.", level);
    DownLevel& to = down.emplace_back();
    for (int i = 0; i < config.blocks_per_level; ++i)
      to.blocks.emplace_back(from, indexed(name + ".blocks.", i), config.width(level),
                             from.method.binarized(), config.attends(level));
    if (level + 1 < config.levels())
      to.resample.emplace(from, name + ".resample", config.width(level), config.width(level + 1));
  }
  void load_up(const LoadContext& from, int level) {
    const NetworkConfig& config = from.config;
    const std::string name = indexed("up.", config.levels() - 1 - level);
    const bool binary = from.method.binarized() && level >= config.full_precision_up_levels;
    UpLevel& to = up.emplace_back();
    for (int i = 0; i <= config.blocks_per_level; ++i) {
      to.fusions.push_back(
          load_skip_fusion(from, indexed(name + ".fusions.", i), config.width(level), binary));
      to.blocks.emplace_back(from, indexed(name + ".blocks.", i), config.width(level), binary,
                             config.attends(level));
    }
    if (level > 0)
      to.resample.emplace(from, name + ".resample", config.width(level), config.width(level - 1));
  }
};

namespace {

// What the fusions of the way up will take, the first one made last.
class Skips {
 public:
  Skips(Context& context, const NetworkConfig& config, const UNetWeights& net,
        const Patches& patches)
      : context_(context), config_(config), net_(net), patches_(patches) {}

  // Room for the next skip, of a level's size.
  Skip& open(int level) {
    const auto& fusions = net_.up[static_cast<std::size_t>(config_.levels() - 1 - level)].fusions;
    Skip& skip = skips_.emplace_back();
    if (fusions[0]->bfloat16())
      skip.bfloat16 = Block<std::uint16_t>(
          context_.arena, checked_product(patches_.height >> level, patches_.width >> level,
                                          padded(config_.width(level))));
    return skip;
  }
  // Closes what was opened last: the features themselves, where no copy was made.
  void keep(const FeaturesPtr& x) {
    if (!skips_.back().bfloat16) skips_.back().features = x;
  }
  const Skip& last() const { return skips_.back(); }
  void drop_last() { skips_.pop_back(); }

 private:
  Context& context_;
  const NetworkConfig& config_;
  const UNetWeights& net_;
  const Patches& patches_;
  std::vector<Skip> skips_;
};

FeaturesPtr go_down(Context& context, const UNetWeights& net, FeaturesPtr x,
                    const std::vector<float>& time, Skips& skips) {
  for (std::size_t level = 0; level < net.down.size(); ++level) {
    const DownLevel& here = net.down[level];
    for (const ResidualBlock& block : here.blocks) {
      Skip& skip = skips.open(static_cast<int>(level));
      x = block(context, std::move(x), time, &skip);
      skips.keep(x);
    }
    if (here.resample) {
      Skip& skip = skips.open(static_cast<int>(level) + 1);
      x = (*here.resample)(context, x, &skip);
      skips.keep(x);
    }
  }
  return x;
}

FeaturesPtr go_up(Context& context, const UNetWeights& net, FeaturesPtr x,
                  const std::vector<float>& time, Skips& skips) {
  for (const UpLevel& here : net.up) {
    for (std::size_t i = 0; i < here.blocks.size(); ++i) {
      x = (*here.fusions[i])(context, std::move(x), skips.last());
      skips.drop_last();
      const bool before_signs = here.resample && i + 1 == here.blocks.size();
      x = here.blocks[i](context, std::move(x), time, nullptr, before_signs);
    }
    if (here.resample) x = (*here.resample)(context, x);
  }
  return x;
}

}  // namespace

UNet::UNet(const NetworkConfig& config, const Tensors& tensors, const Kernel& kernel, bool fast)
    : config_(config) {
  config_.validate();
  weights_ = std::make_unique<UNetWeights>(LoadContext{config_, tensors, kernel, fast});
}
UNet::~UNet() = default;

void UNet::forward(Context& context, const float* x_t, const float* cond, std::int64_t timestep,
                   float* prediction, int height, int width) const {
  // k = clamp(floor(t K / T), 0, K - 1)
  const std::int64_t known = std::clamp<std::int64_t>(timestep, 0, config_.timesteps - 1);
  context.time_group = static_cast<int>(known * config_.time_groups / config_.timesteps);
  const UNetWeights& net = *weights_;
  const Patches patches{config_.patch, height / config_.patch, width / config_.patch};
  const std::vector<float> time = net.time(timestep);
  Skips skips(context, config_, net, patches);

  FeaturesPtr x = net.stem(context, x_t, cond, patches, skips.open(0));
  skips.keep(x);
  x = go_down(context, net, std::move(x), time, skips);
  for (const ResidualBlock& block : net.middle) x = block(context, std::move(x), time, nullptr);
  x = go_up(context, net, std::move(x), time, skips);
  (*net.tail)(context, *x, patches, prediction);
}

}  // namespace bidiffsr
