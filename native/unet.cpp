#include "unet.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "blocks.h"
#include "finish.h"
#include "sweep.h"

namespace bidiffsr {

namespace {

constexpr int kColours = 3;
constexpr int kTaps = 9;

std::string indexed(const std::string& name, int index) { return name + std::to_string(index); }

// A picture as positions that each stand for a square of pixels, which are its channels: colour by
// colour, and of a colour row by row.
struct Patches {
  int side;
  int height, width;  // positions

  // The lines of pixels behind a row of positions: body(channel, at) for each, whose first pixel is
  // number `at` of the picture and channel `channel` of the first position. The pixels that follow
  // are `side` channels of every position.
  template <class Body>
  void lines(int y, const Body& body) const {
    const std::ptrdiff_t length = static_cast<std::ptrdiff_t>(width) * side;
    for (int line = 0; line < kColours * side; ++line) {
      const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(line / side) * height;
      body(line * side, ((plane + y) * side + line % side) * length);
    }
  }
  // A row of positions, whose channels are `stride` floats apart from those of the next.
  void read(const float* picture, int y, float* to, std::ptrdiff_t stride) const {
    lines(y, [&](int channel, std::ptrdiff_t at) {
      const float* from = picture + at;
      for (int x = 0; x < width; ++x)
        for (int i = 0; i < side; ++i) to[x * stride + channel + i] = *from++;
    });
  }
  void write(const float* from, std::ptrdiff_t stride, int y, float* picture) const {
    lines(y, [&](int channel, std::ptrdiff_t at) {
      float* to = picture + at;
      for (int x = 0; x < width; ++x)
        for (int i = 0; i < side; ++i) *to++ = from[x * stride + channel + i];
    });
  }
  // The same with each colour's mean in place of its pixels.
  void read_means(const float* picture, int y, float* to, std::ptrdiff_t stride) const {
    const int area = side * side;
    for (int x = 0; x < width; ++x) std::fill_n(to + x * stride, kColours, 0.0f);
    lines(y, [&](int channel, std::ptrdiff_t at) {
      const float* from = picture + at;
      float* sum = to + channel / area;
      for (int x = 0; x < width; ++x, sum += stride)
        for (int i = 0; i < side; ++i) *sum += *from++;
    });
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < kColours; ++c) to[x * stride + c] /= static_cast<float>(area);
  }
};

// Full-precision 3×3 of the two pictures, the condition's channels first. float32 always: every
// sign comes after it.
class Stem {
 public:
  explicit Stem(const Loading& from)
      : channels_(from.config.channels),
        groups_(from.config.norm_groups),
        mean_(from.config.mean_condition),
        condition_(weights_of(from, from.config.condition_channels())),
        both_(weights_of(from, from.config.stem_channels())),
        bias_(static_cast<std::size_t>(padded(channels_)), 0.0f) {
    std::copy_n(from.tensors.floats("stem.bias", {channels_}), channels_, bias_.begin());
  }

  FeaturesPtr operator()(Pass& pass, const float* x_t, const float* cond, const Patches& patches,
                         Skip& skip) const {
    const int height = patches.height, width = patches.width;
    auto result = std::make_shared<Features>(pass, height, width, channels_, groups_);
    Room room;
    const std::size_t rows = room.add(sizeof(float) * 4 * row_size(both_, width));
    const Finish finish(pass, *result, room, &skip);
    room.allocate(pass);
    // Where a chain scales the variable by its signal, it begins with zeros, which add nothing.
    const Weights& weights = !pass.planning() && is_zero(x_t, patches) ? condition_ : both_;
    const int inputs = weights.inputs;
    const std::size_t size = row_size(weights, width);
    const double macs = static_cast<double>(height) * width * kTaps * inputs * channels_;
    pass.bands({"stem", inputs, height, width}, macs, height, [&](int first, int last, int worker) {
      float* ring = room.floats(worker, rows);
      std::memset(ring, 0, sizeof(float) * 4 * size);
      const auto interleave = [&](int y) {
        float* to = ring + static_cast<std::size_t>(y & 3) * size + inputs;
        if (y < 0 || y >= height) {
          std::memset(to, 0, sizeof(float) * static_cast<std::size_t>(width * inputs));
          return;
        }
        if (mean_)
          patches.read_means(cond, y, to, inputs);
        else
          patches.read(cond, y, to, inputs);
        if (inputs > condition_.inputs) patches.read(x_t, y, to + condition_.inputs, inputs);
      };
      interleave(first - 1);
      interleave(first);
      for (int y = first; y < last; ++y) {
        interleave(y + 1);
        for (int row = 0; row < 3; ++row)
          multiply(pass.kernel, weights.rows[row],
                   ring + static_cast<std::size_t>((y + row - 1) & 3) * size, inputs, width,
                   result->x.row(y), result->x.stride, row == 0 ? bias_.data() : nullptr, row > 0);
        finish.whole(y, 1, worker);
      }
    });
    return result;
  }

 private:
  // Of the first inputs. A row of taps over all of them is contiguous in a row of positions.
  struct Weights {
    int inputs;
    Panels rows[3];
  };
  static Weights weights_of(const Loading& from, int inputs) {
    const int channels = from.config.channels, all = from.config.stem_channels();
    const float* weight = from.tensors.floats("stem.weight", {channels, all, 3, 3});
    Weights weights{inputs, {}};
    for (int row = 0; row < 3; ++row)
      weights.rows[row] = Panels(channels, 3 * inputs, false, [&](int o, int i) {
        return weight[(o * all + i % inputs) * kTaps + row * 3 + i / inputs];
      });
    return weights;
  }
  static std::size_t row_size(const Weights& weights, int width) {
    return static_cast<std::size_t>((width + 2) * weights.inputs);
  }
  static bool is_zero(const float* picture, const Patches& patches) {
    const std::ptrdiff_t positions = static_cast<std::ptrdiff_t>(patches.height) * patches.width;
    return std::all_of(picture, picture + positions * kColours * patches.side * patches.side,
                       [](float value) { return value == 0; });
  }

  int channels_, groups_;
  bool mean_;
  Weights condition_, both_;
  Aligned<float> bias_;
};

// Norm, SiLU, full-precision 3×3 to the picture.
class Tail {
 public:
  virtual ~Tail() = default;
  virtual void operator()(Pass& pass, const Features& features, const Patches& patches,
                          float* output) const = 0;
};

// To three channels: every tap's product of a pixel at once, then sums over the neighbours. float32
// always: it costs nothing and is what one sees.
class PixelTail final : public Tail {
 public:
  explicit PixelTail(const Loading& from)
      : channels_(from.config.channels), norm_(from, "tail_norm", channels_) {
    const float* weight = from.tensors.floats("tail.weight", {kColours, channels_, 3, 3});
    std::copy_n(from.tensors.floats("tail.bias", {kColours}), kColours, bias_);
    panels_ = Panels(kTaps * kColours, channels_, false, [&](int column, int i) {
      return weight[(column % kColours * channels_ + i) * kTaps + column / kColours];
    });
  }

  void operator()(Pass& pass, const Features& features, const Patches& patches,
                  float* output) const override {
    const Tensor& x = features.x;
    const int height = patches.height, width = patches.width;
    const Norm::Affine norm = norm_.fold(features);
    Room room;
    const std::size_t normal = room.add(sizeof(float) * static_cast<std::size_t>(x.row_stride()));
    const std::size_t row_size = static_cast<std::size_t>((width + 2) * panels_.n());
    const std::size_t products = room.add(sizeof(float) * 4 * row_size);
    room.allocate(pass);
    const double macs = static_cast<double>(height) * width * kTaps * kColours * channels_;
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
            for (int c = 0; c < kColours; ++c) {
              float* to = output + (static_cast<std::ptrdiff_t>(c) * height + y) * width;
              for (int pixel = 0; pixel < width; ++pixel) {
                float sum = bias_[c];
                for (int tap = 0; tap < kTaps; ++tap)
                  sum += rows[tap / 3][(pixel + tap % 3) * panels_.n() + tap * kColours + c];
                to[pixel] = sum;
              }
            }
          }
        });
  }

 private:
  int channels_;
  Norm norm_;
  Panels panels_;
  float bias_[kColours];
};

// To squares of pixels: an ordinary convolution, and rounded as such, for no sign comes after it.
class PatchTail final : public Tail {
 public:
  explicit PatchTail(const Loading& from)
      : norm_(from, "tail_norm", from.config.channels),
        conv_(load_plain_conv(from, "tail", from.config.channels, from.config.patch_channels(), 3,
                              1)) {}

  void operator()(Pass& pass, const Features& features, const Patches& patches,
                  float* output) const override {
    const Norm::Affine norm = norm_.fold(features);
    const std::ptrdiff_t stride = padded(conv_->out), row = stride * patches.width;
    Room room;
    const std::size_t made =
        room.add(sizeof(float) * static_cast<std::size_t>(conv_->step() * row));
    sweep(
        pass, {{conv_.get(), {&features.x, 0, norm.scale.data(), norm.shift.data()}}}, room,
        [&](std::size_t, int, int worker) {
          return RowsOut{room.floats(worker, made), row,     stride,
                         conv_->bias(pass.group),   nullptr, false};
        },
        [&](int y, int rows, int worker) {
          for (int i = 0; i < rows; ++i)
            patches.write(room.floats(worker, made) + i * row, stride, y + i, output);
        },
        "tail");
  }

 private:
  Norm norm_;
  std::unique_ptr<Conv> conv_;
};

std::unique_ptr<Tail> load_tail(const Loading& from) {
  if (from.config.patch > 1) return std::make_unique<PatchTail>(from);
  return std::make_unique<PixelTail>(from);
}

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
  explicit UNetWeights(const Loading& from) : time(from), stem(from), tail(load_tail(from)) {
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
                          i == 0 && config.middle_attention);
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
  std::unique_ptr<Tail> tail;
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
  const Patches patches{config_.patch, height / config_.patch, width / config_.patch};

  // What the fusions of the way up will take, the first one made last.
  std::vector<Skip> skips;
  const auto skip_of = [&](int level) -> Skip& {
    const auto& fusions = net.up[static_cast<std::size_t>(levels - 1 - level)].fusions;
    Skip& skip = skips.emplace_back();
    if (fusions[0].bfloat16()) {
      const auto height_here = static_cast<std::size_t>(patches.height >> level);
      const auto width_here = static_cast<std::size_t>(patches.width >> level);
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
  FeaturesPtr x = net.stem(pass, x_t, cond, patches, first);
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
  (*net.tail)(pass, *x, patches, prediction);
}

}  // namespace bidiffsr
