// A picture as positions that each stand for a square of pixels (docs/method.md, "The
// low-resolution form").
#pragma once

#include <cstddef>

namespace bidiffsr {

inline constexpr int kColours = 3;

// The pixels of a position are its channels: colour by colour, and of a colour row by row.
struct Patches {
  int side;
  int height, width;  // positions

  // A row of positions, whose channels are `stride` floats apart from those of the next.
  void read(const float* picture, int y, float* to, std::ptrdiff_t stride) const;
  void write(const float* from, std::ptrdiff_t stride, int y, float* picture) const;
  // The same with each colour's mean in place of its pixels.
  void read_means(const float* picture, int y, float* to, std::ptrdiff_t stride) const;
  bool is_zero(const float* picture) const;
};

}  // namespace bidiffsr
