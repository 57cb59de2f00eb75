#include "upscaling/tiles.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>

namespace bidiffsr {

namespace {

constexpr int kLeastTile = 64;                   // below, a tile is mostly border
constexpr int kOverlapShare = 8;                 // of a tile's side, for two neighbours' overlap
constexpr std::int64_t kLargestWhole = 1 << 20;  // pixels of a picture that is one tile
constexpr int kLargestTile = 512;                // side, of larger ones

constexpr int divided_up(int value, int by) { return (value + by - 1) / by; }

// From 0 to 1 as sin² of a quarter turn: with its mirror image it sums to one everywhere.
double ramp(int i, int length) {
  const double sine = std::sin((i + 0.5) * (std::numbers::pi / 2 / length));
  return sine * sine;
}

std::vector<Span> lay_spans(int length, int largest, int multiple) {
  if (length <= largest) return {{0, std::vector<float>(static_cast<std::size_t>(length), 1.0f)}};
  // In units of the multiple, of which the overlap has at least one and at most half a tile.
  const int units = length / multiple, most = largest / multiple;
  const int overlap = std::min(divided_up(most, kOverlapShare), most / 2);
  const int count = divided_up(units - overlap, most - overlap);
  const int size = divided_up(units + (count - 1) * overlap, count);
  const auto start = [&](int index) {
    return static_cast<int>(std::int64_t{index} * (units - size) / (count - 1)) * multiple;
  };
  const int pixels = size * multiple;
  std::vector<Span> spans;
  for (int index = 0; index < count; ++index) {
    std::vector<double> weights(static_cast<std::size_t>(pixels), 1.0);
    if (index > 0) {
      const int shared = start(index - 1) + pixels - start(index);
      for (int i = 0; i < shared; ++i) weights[static_cast<std::size_t>(i)] *= ramp(i, shared);
    }
    if (index < count - 1) {
      const int shared = start(index) + pixels - start(index + 1);
      for (int i = 0; i < shared; ++i)
        weights[static_cast<std::size_t>(pixels - 1 - i)] *= ramp(i, shared);
    }
    spans.push_back({start(index), {weights.begin(), weights.end()}});
  }
  return spans;
}

}  // namespace

int least_tile(int multiple) {
  return std::max(divided_up(kLeastTile, multiple) * multiple, 2 * multiple);
}

Tiling lay_tiles(int height, int width, int largest, int multiple) {
  largest -= largest % multiple;
  return {lay_spans(height, largest, multiple), lay_spans(width, largest, multiple)};
}

std::vector<int> tile_sides(int height, int width, int multiple, bool attends) {
  std::vector<int> sides;
  const int longest = std::max(height, width), least = least_tile(multiple);
  if (!attends || std::int64_t{height} * width <= kLargestWhole) sides.push_back(longest);
  int side = std::max(kLargestTile, least);
  while (!attends && 2 * side < longest) side *= 2;
  for (; side > least; side /= 2) sides.push_back(side);
  sides.push_back(least);
  return sides;
}

}  // namespace bidiffsr
