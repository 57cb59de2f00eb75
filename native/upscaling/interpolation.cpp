#include "upscaling/interpolation.h"

#include <algorithm>
#include <vector>

namespace bidiffsr {

namespace {

constexpr int kColours = 3;

// Where a position beyond a side lies, reflected without repeating the edge.
int reflected(int position, int side) {
  if (side == 1) return 0;
  const int period = 2 * (side - 1);
  const int at = position % period;
  return at < side ? at : period - at;
}

// Does `task` with every row of the range, and memory to work in.
template <class Task>
void for_rows(RowRange rows, const ForBands& for_bands, const Task& task) {
  for_bands(rows.last - rows.first, [&](int first, int last) {
    std::vector<double> scratch;
    for (int y = first; y < last; ++y) task(rows.first + y, scratch);
  });
}

}  // namespace

void interpolate(const ColoursView& colour, int factor, const Colours<float>& cond, RowRange rows,
                 const ForBands& for_bands) {
  const int height = colour.height * factor, width = colour.width * factor;
  const CubicEnlarger enlarge(colour.height, colour.width, factor);
  for_rows(rows, for_bands, [&](int y, std::vector<double>& scratch) {
    for (int c = 0; c < kColours; ++c) {
      float* to = cond.row(c, y);
      enlarge.row(colour.of(c), reflected(y, height), scratch, to);
      for (int x = width; x < cond.width; ++x) to[x] = to[reflected(x, width)];
    }
  });
}

void find_lacking(const ColoursView& picture, const ColoursView& source, int factor,
                  const Colours<float>& lacking, RowRange rows, const ForBands& for_bands) {
  const Taps along_columns = imresize_taps(picture.height, 1.0 / factor, source.height);
  const Taps along_rows = imresize_taps(picture.width, 1.0 / factor, source.width);
  for_rows(rows, for_bands, [&](int y, std::vector<double>& scratch) {
    for (int c = 0; c < kColours; ++c) {
      float* to = lacking.row(c, y);
      resample_row(picture.of(c), along_columns, along_rows, y, scratch, to);
      const float* wanted = source.row(c, y);
      for (int x = 0; x < source.width; ++x) to[x] = wanted[x] - to[x];
    }
  });
}

void add_lacking(const Colours<float>& picture, const ColoursView& lacking, int factor,
                 RowRange rows, const ForBands& for_bands) {
  const CubicEnlarger enlarge(lacking.height, lacking.width, factor);
  for_bands(rows.last - rows.first, [&](int first, int last) {
    std::vector<double> scratch;
    std::vector<float> correction(static_cast<std::size_t>(picture.width));
    for (int y = rows.first + first; y < rows.first + last; ++y)
      for (int c = 0; c < kColours; ++c) {
        enlarge.row(lacking.of(c), y, scratch, correction.data());
        float* to = picture.row(c, y);
        for (int x = 0; x < picture.width; ++x)
          to[x] = std::clamp(to[x] + correction[static_cast<std::size_t>(x)], 0.0f, 1.0f);
      }
  });
}

}  // namespace bidiffsr
