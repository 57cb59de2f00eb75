#include "unet.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "blocks.h"
#include "finish.h"
#include "sweep.h"

namespace bidiffsr {

namespace {

constexpr int kInputs = 6;  // condition, then noisy variable
constexpr int kOutputs = 3;
constexpr int kTaps = 9;

std::string indexed(const std::string& name, int index) { return name + std::to_string(index); }

// Full-precision 3×3 of the two pictures. float32 always: every sign comes after it.
class Stem {
 public:
  explicit Stem(const Loading& from)
      : channels_(from.config.channels),
        groups_(from.config.norm_groups),
        bias_(static_cast<std::size_t>(padded(channels_)), 0.0f) {
    const float* weight = from.tensors.floats("stem.weight", {channels_, kInputs, 3, 3});
    std::copy_n(from.tensors.floats("stem.bias", {channels_}), channels_, bias_.begin());
    // A row of taps over all inputs is contiguous in a row of pixels.
    for (int row = 0; row < 3; ++row)
      rows_[row] = Panels(channels_, 3 * kInputs, false, [&](int o, int i) {
        return weight[(o * kInputs + i % kInputs) * kTaps + row * 3 + i / kInputs];
      });
  }

  FeaturesPtr operator()(Pass& pass, const float* x_t, const float* cond, int height, int width,
                         Skip& skip) const {
    auto result = std::make_shared<Features>(pass, height, width, channels_, groups_);
    Room room;
    const std::size_t row_size = static_cast<std::size_t>((width + 2) * kInputs);
    const std::size_t rows = room.add(sizeof(float) * 4 * row_size);
    const Finish finish(pass, *result, room, &skip);
    room.allocate(pass);
    const double macs = static_cast<double>(height) * width * kTaps * kInputs * channels_;
    pass.bands({"stem", kInputs, height, width}, macs, height,
               [&](int first, int last, int worker) {
                 float* ring = room.floats(worker, rows);
                 std::memset(ring, 0, sizeof(float) * 4 * row_size);
                 const auto interleave = [&](int y) {
                   float* to = ring + static_cast<std::size_t>(y & 3) * row_size + kInputs;
                   if (y < 0 || y >= height) {
                     std::memset(to, 0, sizeof(float) * static_cast<std::size_t>(width * kInputs));
                     return;
                   }
                   const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(height) * width;
                   const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(y) * width;
                   for (int x = 0; x < width; ++x)
                     for (int c = 0; c < 3; ++c) {
                       to[x * kInputs + c] = cond[c * plane + at + x];
                       to[x * kInputs + 3 + c] = x_t[c * plane + at + x];
                     }
                 };
                 interleave(first - 1);
                 interleave(first);
                 for (int y = first; y < last; ++y) {
                   interleave(y + 1);
                   for (int row = 0; row < 3; ++row)
                     multiply(pass.kernel, rows_[row],
                              ring + static_cast<std::size_t>((y + row - 1) & 3) * row_size,
                              kInputs, width, result->x.row(y), result->x.stride,
                              row == 0 ? bias_.data() : nullptr, row > 0);
                   finish.whole(y, 1, worker);
                 }
               });
    return result;
  }

 private:
  int channels_, groups_;
  Panels rows_[3];
  Aligned<float> bias_;
};

// Group norm, SiLU, full-precision 3×3 to three channels: every tap's product of a pixel at once,
// then sums over the neighbours. float32 always: it costs nothing and is what one sees.
class Tail {
 public:
  explicit Tail(const Loading& from)
      : channels_(from.config.channels), norm_(from, "tail_norm", channels_) {
    const float* weight = from.tensors.floats("tail.weight", {kOutputs, channels_, 3, 3});
    std::copy_n(from.tensors.floats("tail.bias", {kOutputs}), kOutputs, bias_);
    panels_ = Panels(kTaps * kOutputs, channels_, false, [&](int column, int i) {
      return weight[(column % kOutputs * channels_ + i) * kTaps + column / kOutputs];
    });
  }

  void operator()(Pass& pass, const Features& features, float* output) const {
    const Tensor& x = features.x;
    const int height = x.height, width = x.width;
    const GroupNorm::Affine norm = norm_.fold(features);
    Room room;
    const std::size_t normal = room.add(sizeof(float) * static_cast<std::size_t>(x.row_stride()));
    const std::size_t row_size = static_cast<std::size_t>((width + 2) * panels_.n());
    const std::size_t products = room.add(sizeof(float) * 4 * row_size);
    room.allocate(pass);
    const double macs = static_cast<double>(height) * width * kTaps * kOutputs * channels_;
    pass.bands(
        {"tail", channels_, height, width}, macs, height, [&](int first, int last, int worker) {
          float* ring = room.floats(worker, products);
          std::memset(ring, 0, sizeof(float) * 4 * row_size);
          const auto product = [&](int y) {
            float* to = ring + static_cast<std::size_t>(y & 3) * row_size + panels_.n();
            if (y < 0 || y >= height) {
              std::memset(to, 0, sizeof(float) * static_cast<std::size_t>(width * panels_.n()));
              return;
            }
            float* row = room.floats(worker, normal);
            normalize(pass.kernel, x, y, norm.scale.data(), norm.shift.data(), true, row);
            multiply(pass.kernel, panels_, row, x.stride, width, to, panels_.n(), nullptr, false);
          };
          product(first - 1);
          product(first);
          for (int y = first; y < last; ++y) {
            product(y + 1);
            const float* rows[3];
            for (int row = 0; row < 3; ++row)
              rows[row] = ring + static_cast<std::size_t>((y + row - 1) & 3) * row_size;
            for (int c = 0; c < kOutputs; ++c) {
              float* to = output + (static_cast<std::ptrdiff_t>(c) * height + y) * width;
              for (int pixel = 0; pixel < width; ++pixel) {
                float sum = bias_[c];
                for (int tap = 0; tap < kTaps; ++tap)
                  sum += rows[tap / 3][(pixel + tap % 3) * panels_.n() + tap * kOutputs + c];
                to[pixel] = sum;
              }
            }
          }
        });
  }

 private:
  int channels_;
  GroupNorm norm_;
  Panels panels_;
  float bias_[kOutputs];
};

struct DownLevel {
  std::vector<ResidualBlock> blocks;
  std::optional<Down> resample;
};
struct UpLevel {
  std::vector<Fuse> fusions;
  std::vector<ResidualBlock> blocks;
  std::optional<Up> resample;
};

}  // namespace

struct UNetWeights {
  explicit UNetWeights(const Loading& from) : time(from), stem(from), tail(from) {
    const NetworkConfig& config = from.config;
    const int levels = config.levels();
    for (int level = 0; level < levels; ++level) {
      const std::string name = indexed("down.", level);
      DownLevel& to = down.emplace_back();
      for (int i = 0; i < config.blocks_per_level; ++i)
        to.blocks.emplace_back(from, indexed(name + ".blocks.", i), config.width(level),
                               config.binarized, config.attends(level));
      if (level + 1 < levels)
        to.resample.emplace(from, name + ".resample", config.width(level), config.width(level + 1));
    }
    for (int i = 0; i < 2; ++i)
      middle.emplace_back(from, indexed("middle.", i), config.width(levels - 1), config.binarized,
                          i == 0);
    for (int level = levels - 1; level >= 0; --level) {
      const std::string name = indexed("up.", levels - 1 - level);
      const bool binary = config.binarized && level >= config.full_precision_up_levels;
      UpLevel& to = up.emplace_back();
      for (int i = 0; i <= config.blocks_per_level; ++i) {
        to.fusions.emplace_back(from, indexed(name + ".fusions.", i), config.width(level), binary);
        to.blocks.emplace_back(from, indexed(name + ".blocks.", i), config.width(level), binary,
                               config.attends(level));
      }
      if (level > 0)
        to.resample.emplace(from, name + ".resample", config.width(level), config.width(level - 1));
    }
  }

  TimeEmbedding time;
  Stem stem;
  std::vector<DownLevel> down;
  std::vector<ResidualBlock> middle;
  std::vector<UpLevel> up;
  Tail tail;
};

UNet::UNet(const NetworkConfig& config, const Tensors& tensors, const Kernel& kernel, bool fast)
    : config_(config),
      weights_(std::make_unique<UNetWeights>(Loading{config, tensors, kernel, fast})) {}
UNet::~UNet() = default;

void UNet::forward(Pass& pass, const float* x_t, const float* cond, std::int64_t timestep,
                   float* prediction, int height, int width) const {
  // k = clamp(floor(t K / T), 0, K - 1)
  const std::int64_t known = std::clamp<std::int64_t>(timestep, 0, config_.timesteps - 1);
  pass.group = static_cast<int>(known * config_.time_groups / config_.timesteps);
  const UNetWeights& net = *weights_;
  const int levels = config_.levels();

  // What the fusions of the way up will take, the first one made last.
  std::vector<Skip> skips;
  const auto skip_of = [&](int level) -> Skip& {
    const auto& fusions = net.up[static_cast<std::size_t>(levels - 1 - level)].fusions;
    Skip& skip = skips.emplace_back();
    if (fusions[0].bfloat16()) {
      const auto height_here = static_cast<std::size_t>(height >> level);
      const auto width_here = static_cast<std::size_t>(width >> level);
      skip.rounded = Block<std::uint16_t>(
          pass.arena,
          height_here * width_here * static_cast<std::size_t>(padded(config_.width(level))));
    }
    return skip;
  };
  const auto keep = [](Skip& skip, const FeaturesPtr& x) {
    if (!skip.rounded) skip.features = x;
  };

  const std::vector<float> time = net.time(timestep);
  Skip& first = skip_of(0);
  FeaturesPtr x = net.stem(pass, x_t, cond, height, width, first);
  keep(first, x);
  for (int level = 0; level < levels; ++level) {
    const DownLevel& here = net.down[static_cast<std::size_t>(level)];
    for (const ResidualBlock& block : here.blocks) {
      Skip& skip = skip_of(level);
      x = block(pass, std::move(x), time, &skip);
      keep(skip, x);
    }
    if (here.resample) {
      Skip& skip = skip_of(level + 1);
      x = (*here.resample)(pass, x, &skip);
      keep(skip, x);
    }
  }
  for (const ResidualBlock& block : net.middle) x = block(pass, std::move(x), time, nullptr);
  for (const UpLevel& here : net.up) {
    for (std::size_t i = 0; i < here.blocks.size(); ++i) {
      x = here.fusions[i](pass, std::move(x), skips.back());
      skips.pop_back();
      const bool before_signs = here.resample && i + 1 == here.blocks.size();
      x = here.blocks[i](pass, std::move(x), time, nullptr, before_signs);
    }
    if (here.resample) x = (*here.resample)(pass, x);
  }
  net.tail(pass, *x, prediction);
}

}  // namespace bidiffsr
