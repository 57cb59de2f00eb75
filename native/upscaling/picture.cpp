#include "upscaling/picture.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>

#include "runtime/checked.h"

namespace bidiffsr {

namespace {

constexpr int kColours = 3;

float peak(const PictureForm& form) { return form.bits == 8 ? 255.0f : 65535.0f; }

template <class Sample>
void read_rows(const Sample* samples, Source& source, int first, int last) {
  const PictureForm& form = source.form;
  const float largest = peak(form);
  for (int y = first; y < last; ++y) {
    const Sample* row = samples + std::ptrdiff_t{y} * form.width * form.channels;
    float* opacity = form.has_alpha() ? source.opacity.row(0, y) : nullptr;
    if (opacity)
      for (int x = 0; x < form.width; ++x)
        opacity[x] = static_cast<float>(row[x * form.channels + kColours]) / largest;
    for (int c = 0; c < kColours; ++c) {
      float* to = source.colour.row(c, y);
      const int at = form.channels == 1 ? 0 : c;
      for (int x = 0; x < form.width; ++x) {
        to[x] = static_cast<float>(row[x * form.channels + at]) / largest;
        if (opacity) to[x] *= opacity[x];
      }
    }
  }
}

// Colour that premultiplied colour was made of; where alpha will be stored as 0 it is 0.
float unpremultiplied(float colour, float alpha) {
  constexpr auto kVisible = static_cast<float>(0.5 / 65535);
  return alpha >= kVisible ? std::clamp(colour / alpha, 0.0f, 1.0f) : 0.0f;
}

template <class Sample>
Sample to_sample(float value, float largest) {
  return static_cast<Sample>(std::clamp(value, 0.0f, 1.0f) * largest + 0.5f);
}

// Both axes of an imresize to the size of a result. Of scales that round to another size than that,
// each axis has its own.
struct Resize {
  Resize(int height, int width, double scale, const PictureForm& to)
      : Resize(height, width, to, scale,
               resized_length(height, scale) == to.height &&
                   resized_length(width, scale) == to.width) {}
  Resize(int height, int width, const PictureForm& to, double scale, bool fits)
      : rows(imresize_taps(height, fits ? scale : double(to.height) / height, to.height)),
        columns(imresize_taps(width, fits ? scale : double(to.width) / width, to.width)) {}
  Taps rows, columns;
};
struct Resizes {
  std::optional<Resize> colours, opacity;  // where there is any
};

// Rows of the result as floats, one at a time.
class ResultRows {
 public:
  ResultRows(const Upscaled& picture, const Source& source, const Resizes& resizes, int width)
      : picture_(picture),
        source_(source),
        resizes_(resizes),
        colours_(kColours, 1, width),
        opacity_(1, 1, width) {}

  void compute(int y) {
    const int width = colours_.width();
    for (int c = 0; c < kColours; ++c) {
      float* to = colours_.row(c, 0);
      if (const auto& resize = resizes_.colours) {
        resample_row(picture_.planes.plane(c, picture_.width), resize->rows, resize->columns, y,
                     scratch_, to);
        for (int x = 0; x < width; ++x) to[x] = std::clamp(to[x], 0.0f, 1.0f);
      } else {
        std::copy_n(picture_.planes.row(c, y), width, to);
      }
    }
    float *red = colours_.row(0, 0), *green = colours_.row(1, 0), *blue = colours_.row(2, 0);
    if (source_.form.channels == 1)
      for (int x = 0; x < width; ++x) red[x] = (red[x] + green[x] + blue[x]) / 3.0f;
    if (!resizes_.opacity) return;
    float* alpha = opacity_.row(0, 0);
    resample_row(source_.opacity.plane(0), resizes_.opacity->rows, resizes_.opacity->columns, y,
                 scratch_, alpha);
    for (int x = 0; x < width; ++x) {
      alpha[x] = std::clamp(alpha[x], 0.0f, 1.0f);
      for (float* colour : {red, green, blue}) colour[x] = unpremultiplied(colour[x], alpha[x]);
    }
  }

  template <class Sample>
  void store(Sample* row) const {
    const int channels = source_.form.channels;
    const float largest = peak(source_.form);
    for (int x = 0; x < colours_.width(); ++x)
      for (int c = 0; c < channels; ++c)
        row[x * channels + c] = to_sample<Sample>(
            c < kColours ? colours_.row(c, 0)[x] : opacity_.row(0, 0)[x], largest);
  }

 private:
  const Upscaled& picture_;
  const Source& source_;
  const Resizes& resizes_;
  Planes colours_, opacity_;
  std::vector<double> scratch_;
};

}  // namespace

void PictureForm::validate() const {
  if (height < 1 || width < 1)
    throw std::invalid_argument("picture: is " + std::to_string(width) + "x" +
                                std::to_string(height) + ", expected at least one pixel");
  if (channels != 1 && channels != 3 && channels != 4)
    throw std::invalid_argument("picture: has " + std::to_string(channels) +
                                " channels, expected 1, 3 or 4");
  if (bits != 8 && bits != 16)
    throw std::invalid_argument("picture: has samples of " + std::to_string(bits) +
                                " bits, expected 8 or 16");
}

std::size_t PictureForm::bytes() const {
  return checked_product(height, width, channels, bits / 8);
}

Planes::Planes(int count, int height, int width)
    : height_(height), width_(width), values_(checked_product(count, height, width)) {}

Source read_source(const PictureForm& form, const void* samples, const ForBands& for_bands) {
  Source source{form, Planes(kColours, form.height, form.width), {}};
  if (form.has_alpha()) source.opacity = Planes(1, form.height, form.width);
  for_bands(form.height, [&](int first, int last) {
    if (form.bits == 8)
      read_rows(static_cast<const std::uint8_t*>(samples), source, first, last);
    else
      read_rows(static_cast<const std::uint16_t*>(samples), source, first, last);
  });
  return source;
}

void write_result(const Upscaled& picture, const Source& source, double shrink, double scale,
                  const PictureForm& form, void* samples, const ForBands& for_bands) {
  Resizes resizes;
  if (shrink != 1) resizes.colours.emplace(picture.height, picture.width, shrink, form);
  if (source.form.has_alpha())
    resizes.opacity.emplace(source.form.height, source.form.width, scale, form);
  const std::ptrdiff_t row = std::ptrdiff_t{form.width} * form.channels;
  for_bands(form.height, [&](int first, int last) {
    ResultRows rows(picture, source, resizes, form.width);
    for (int y = first; y < last; ++y) {
      rows.compute(y);
      if (form.bits == 8)
        rows.store(static_cast<std::uint8_t*>(samples) + y * row);
      else
        rows.store(static_cast<std::uint16_t*>(samples) + y * row);
    }
  });
}

}  // namespace bidiffsr
