// One chain from noise to a picture, as `bidiffsr.upscaling.sampling` runs it.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>

#include "bidiffsr/engine.h"
#include "io/model_config.h"
#include "upscaling/picture.h"
#include "upscaling/tiles.h"

namespace bidiffsr {

// How the chain of one picture is run.
struct Sampling {
  const DiffusionConfig& diffusion;
  const SamplingConfig& settings;
  std::uint64_t seed;
  std::uint32_t sample;
  int multiple;  // of tiles
  Tiling tiling;
};
// Is called after every run of the network with how many there were and will have been.
using Finished = std::function<void(int done, int total)>;

// The picture, [0, 1], of the size of `cond`. Tiles are halved where the memory runs out; throws
// std::bad_alloc where they are the smallest, and UnsoundResult.
Planes sample_picture(Engine& engine, const Planes& cond, const Sampling& sampling,
                      const ForBands& for_bands, const Engine::Poll& poll,
                      const Finished& finished);

// The network's result is not a picture.
struct UnsoundResult : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace bidiffsr
