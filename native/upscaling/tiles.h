// How a picture too large for one run of the network is cut, as `bidiffsr.upscaling.tiling` does.
#pragma once

#include <vector>

namespace bidiffsr {

// What a row or a column of tiles covers; the weights of all spans at a position sum to one.
struct Span {
  int start;
  std::vector<float> weights;
  int length() const { return static_cast<int>(weights.size()); }
};

struct Tiling {
  std::vector<Span> rows, columns;
  int height() const { return rows[0].length(); }
  int width() const { return columns[0].length(); }
  int count() const { return static_cast<int>(rows.size() * columns.size()); }
};

// The fewest tiles of at most `largest` pixels a side that begin at multiples of `multiple`.
Tiling lay_tiles(int height, int width, int largest, int multiple);
// The smallest side of tiles that overlap.
int least_tile(int multiple);
// Sides to try where nobody names one, the best first. `attends`: the network's work for a pixel
// grows with the tile.
std::vector<int> tile_sides(int height, int width, int multiple, bool attends);

}  // namespace bidiffsr
