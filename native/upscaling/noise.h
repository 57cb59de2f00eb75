// Standard normal noise that depends on nothing but where it is, as `bidiffsr.diffusion.noise` has
// it.
#pragma once

#include <array>
#include <cstdint>

namespace bidiffsr {

// Philox4x32-10: four random words for each counter (Salmon et al., SC 2011, section 3.3).
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

// Which noise it is: stream 0 is what a chain starts from, 1 + i what its step i draws.
struct NoiseSource {
  std::uint64_t seed;
  std::uint32_t sample, stream;
};
// The first three channels of row `y`, from column 0 on, each times `scale`.
void normal_noise_row(const NoiseSource& source, std::uint32_t y, int width, float scale,
                      const std::array<float*, 3>& channels);

}  // namespace bidiffsr
