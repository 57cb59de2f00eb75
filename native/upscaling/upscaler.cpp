#include "upscaling/upscaler.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>
#include <stdexcept>

#include "io/json.h"
#include "runtime/checked.h"
#include "runtime/layout.h"
#include "upscaling/resample.h"
#include "upscaling/tiles.h"

namespace bidiffsr {

namespace {

constexpr int kLargestSide = 1 << 20;
// The published test code pads to this, whatever the network needs.
constexpr int kPadMultiple = 8;
// imresize's number of taps grows as 1 / scale.
constexpr double kLargestScale = 1024;
// As `bidiffsr.upscaling.planning`: what does not grow with the picture, and for each pixel of a
// tile what goes into the network and what comes out.
constexpr std::size_t kFixedBytes = 64'000'000;
constexpr std::size_t kTileBytes = 60;

bool attends(const NetworkConfig& network) {
  return network.middle_attention || !network.attention_levels.empty();
}

}  // namespace

Upscaler::Upscaler(const ModelFile& file, bool fast, const std::string& kernel, int threads)
    : config_(file.config()),
      engine_(config_.network, file.tensors(), fast, kernel, threads),
      multiple_(std::lcm(kPadMultiple, config_.network.size_multiple())) {
  if (const auto name = file.tensors().unread())
    throw std::invalid_argument(shortened(*name) + ": is no part of this network");
}

double Upscaler::checked_scale(double scale) const {
  const double factor = config_.scale;
  if (scale == 0) return factor;
  if (!(scale > 0 && scale <= factor && scale * kLargestScale >= factor))
    throw std::invalid_argument("scale: got " + shown(scale) + ", expected a number from " +
                                shown(factor / kLargestScale) + " to " + shown(factor) +
                                "; for more, upscale the result again");
  return scale;
}

PictureForm Upscaler::result_form(const PictureForm& source, double scale) const {
  source.validate();
  const double chosen = checked_scale(scale);
  const int largest = kLargestSide / config_.scale;
  if (std::max(source.height, source.width) > largest)
    throw std::invalid_argument("picture: is " + std::to_string(source.width) + "x" +
                                std::to_string(source.height) + ", expected sides of at most " +
                                std::to_string(largest));
  PictureForm result = source;
  result.height = resized_length(source.height, chosen);
  result.width = resized_length(source.width, chosen);
  return result;
}

SamplingConfig Upscaler::sampling_of(const UpscaleOptions& options) const {
  SamplingConfig sampling = config_.sampling;
  if (!options.quality.empty()) {
    const auto found = config_.qualities.find(options.quality);
    if (found == config_.qualities.end()) {
      std::string names;
      for (const auto& each : config_.qualities) names += (names.empty() ? "" : ", ") + each.first;
      throw std::invalid_argument("quality: got '" + options.quality.substr(0, 40) +
                                  "', this model names " + (names.empty() ? "none" : names));
    }
    sampling = found->second;
  }
  const int most = config_.diffusion.schedule.timesteps;
  if (options.steps < 0 || options.steps > most)
    throw std::invalid_argument("steps: got " + std::to_string(options.steps) +
                                ", this model takes 1 to " + std::to_string(most));
  if (options.steps) sampling.steps = options.steps;
  return sampling;
}

Tiling Upscaler::plan(const PictureForm& form, const SamplingConfig& sampling,
                      const UpscaleOptions& options) {
  const auto filled = [&](int side) { return round_up(side * config_.scale, multiple_); };
  const int height = filled(form.height), width = filled(form.width), least = least_tile(multiple_);
  if (options.tile && options.tile < least)
    throw std::invalid_argument("tile: got " + std::to_string(options.tile) + ", expected " +
                                std::to_string(least) + " or more, or 0");
  const std::vector<int> sides =
      options.tile ? std::vector{options.tile}
                   : tile_sides(height, width, multiple_, attends(config_.network));
  if (!options.max_memory) return lay_tiles(height, width, sides[0], multiple_);
  const int samples = form.has_alpha() ? 4 : 3, sample_bytes = form.bits / 8;
  const int arrays = 3 + sampling.keeps_previous() + sampling.keeps_first();
  const std::size_t fixed =
      kFixedBytes + checked_product(height, width, 12 * arrays + samples * sample_bytes) +
      checked_product(form.height, form.width,
                      samples * (sample_bytes + 4) + (form.has_alpha() ? 12 : 0));
  for (const int side : sides) {
    const Tiling tiling = lay_tiles(height, width, side, multiple_);
    const std::size_t tile = engine_.scratch_bytes(tiling.height(), tiling.width()) +
                             checked_product(tiling.height(), tiling.width(), kTileBytes);
    if (fixed + tile <= options.max_memory) return tiling;
  }
  throw std::bad_alloc();
}

void Upscaler::upscale(const PictureForm& form, const void* samples, const UpscaleOptions& options,
                       void* result) {
  const PictureForm result_form = this->result_form(form, options.scale);
  const SamplingConfig sampling = sampling_of(options);
  const Tiling tiling = plan(form, sampling, options);
  const int factor = config_.scale;
  const double scale = checked_scale(options.scale);

  double share = 0;
  const auto report = [&] {
    if (options.at) options.at(share);
  };
  const Engine::Poll poll = options.at ? Engine::Poll(report) : Engine::Poll();
  const ForBands for_bands = bands_on(engine_, poll);

  report();
  const Source source = read_source(form, samples, for_bands);
  const int height = form.height * factor, width = form.width * factor;
  Planes cond(3, round_up(height, multiple_), round_up(width, multiple_));
  interpolate(source.colour.colours(), factor, cond.colours(), {0, cond.height()}, for_bands);
  Planes picture = sample_picture(
      engine_, cond, {config_.diffusion, sampling, options.seed, options.sample, multiple_, tiling},
      for_bands, poll, [&](int done, int total) {
        // What follows the network takes little.
        share = 0.99 * done / total;
        report();
      });
  const Colours<float> large = picture.colours(height, width);
  Planes lacking(3, form.height, form.width);
  for (int i = 0; i < sampling.back_projections; ++i) {
    find_lacking(large, source.colour.colours(), factor, lacking.colours(), {0, form.height},
                 for_bands);
    add_lacking(large, lacking.colours(), factor, {0, height}, for_bands);
  }
  write_result({picture, height, width}, source, scale / factor, scale, result_form, result,
               for_bands);
  share = 1;
  report();
}

}  // namespace bidiffsr
