// The cubic interpolation that the network starts from, and the corrections of what comes out, as
// `bidiffsr.upscaling.surroundings` has them.
#pragma once

#include <cstddef>

#include "upscaling/bands.h"
#include "upscaling/resample.h"

namespace bidiffsr {

// Three planes of one size, rows without gaps inside.
template <class Value>
struct Colours {
  Value* values;
  int height, width;
  std::ptrdiff_t plane, stride;  // values from one plane, one row to the next

  Value* row(int c, int y) const { return values + c * plane + y * stride; }
  Plane of(int c) const { return {row(c, 0), width, stride}; }
  operator Colours<const Value>() const { return {values, height, width, plane, stride}; }
};
using ColoursView = Colours<const float>;

struct RowRange {
  int first, last;
};

// Rows of what the network is conditioned on: `colour` by cubic interpolation, `factor` times as
// large, and beyond that by reflection at the bottom and on the right.
void interpolate(const ColoursView& colour, int factor, const Colours<float>& cond, RowRange rows,
                 const ForBands& for_bands);

// A back-projection corrects a picture, `factor` times as large as its source, so that made small
// it is nearer to that. Source: Irani & Peleg, "Improving resolution by image registration", 1991.
// First rows of what the small picture lacks of the source; then, when all of that is there, rows
// of the picture, which keeps to [0, 1].
void find_lacking(const ColoursView& picture, const ColoursView& source, int factor,
                  const Colours<float>& lacking, RowRange rows, const ForBands& for_bands);
void add_lacking(const Colours<float>& picture, const ColoursView& lacking, int factor,
                 RowRange rows, const ForBands& for_bands);

}  // namespace bidiffsr
