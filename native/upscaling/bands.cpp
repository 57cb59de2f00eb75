#include "upscaling/bands.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace bidiffsr {

ForBands bands_on(Engine& engine, Engine::Poll poll) {
  return [&engine, poll = std::move(poll)](int height, const auto& task) {
    constexpr int kRows = 16;
    engine.for_each((height + kRows - 1) / kRows,
                    [&](std::int64_t band) {
                      const int first = static_cast<int>(band) * kRows;
                      task(first, std::min(height, first + kRows));
                    },
                    poll);
  };
}

}  // namespace bidiffsr
