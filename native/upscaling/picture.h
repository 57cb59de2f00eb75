// From samples to what the network works on, and back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "upscaling/interpolation.h"

namespace bidiffsr {

// Grey, RGB or RGB with alpha (1, 3 or 4 channels), samples of 8 or 16 bits pixel by pixel, rows
// without gaps.
struct PictureForm {
  int height, width, channels, bits;
  bool has_alpha() const { return channels == 4; }
  // Bytes of its samples. Throws std::length_error.
  std::size_t bytes() const;
  // Throws std::invalid_argument, naming what is out of range.
  void validate() const;
};

// Planes of one size, one behind the other, zeros at first.
class Planes {
 public:
  Planes() = default;
  Planes(int count, int height, int width);
  int height() const { return height_; }
  int width() const { return width_; }
  float* row(int plane, int y) {
    return values_.data() + (std::ptrdiff_t{plane} * height_ + y) * width_;
  }
  const float* row(int plane, int y) const { return const_cast<Planes*>(this)->row(plane, y); }
  void clear() { std::fill(values_.begin(), values_.end(), 0.0f); }
  // The first `width` columns.
  Plane plane(int index, int width) const { return {row(index, 0), width, width_}; }
  Plane plane(int index) const { return plane(index, width_); }
  // Three of them, of which the top left `height` × `width` count.
  Colours<float> colours(int height, int width) {
    return {row(0, 0), height, width, std::ptrdiff_t{height_} * width_, width_};
  }
  Colours<float> colours() { return colours(height_, width_); }
  ColoursView colours() const { return const_cast<Planes*>(this)->colours(); }

 private:
  int height_ = 0, width_ = 0;
  std::vector<float> values_;
};

// What is upscaled: three colours in [0, 1], those of a picture with alpha times their opacity.
struct Source {
  PictureForm form;
  Planes colour, opacity;  // the latter where there is alpha
};
Source read_source(const PictureForm& form, const void* samples, const ForBands& for_bands);

// The network's picture, [0, 1], of which the top left height × width pixels count.
struct Upscaled {
  const Planes& planes;
  int height, width;
};
// Resizes to the asked scale, restores grey, alpha and depth, and writes the samples of `form`.
// `shrink`: from the picture to the result; `scale`: from the source to the result.
void write_result(const Upscaled& picture, const Source& source, double shrink, double scale,
                  const PictureForm& form, void* samples, const ForBands& for_bands);

}  // namespace bidiffsr
