#include "models/patches.h"

#include <algorithm>

namespace bidiffsr {

namespace {

// The lines of pixels behind a row of positions: body(channel, at) for each, whose first pixel is
// number `at` of the picture and channel `channel` of the first position. The pixels that follow
// are `side` channels of every position.
template <class Body>
void for_each_line(const Patches& patches, int y, const Body& body) {
  const int side = patches.side;
  const std::ptrdiff_t length = static_cast<std::ptrdiff_t>(patches.width) * side;
  for (int line = 0; line < kColours * side; ++line) {
    const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(line / side) * patches.height;
    body(line * side, ((plane + y) * side + line % side) * length);
  }
}

}  // namespace

void Patches::read(const float* picture, int y, float* to, std::ptrdiff_t stride) const {
  for_each_line(*this, y, [&](int channel, std::ptrdiff_t at) {
    const float* from = picture + at;
    for (int x = 0; x < width; ++x)
      for (int i = 0; i < side; ++i) to[x * stride + channel + i] = *from++;
  });
}

void Patches::write(const float* from, std::ptrdiff_t stride, int y, float* picture) const {
  for_each_line(*this, y, [&](int channel, std::ptrdiff_t at) {
    float* to = picture + at;
    for (int x = 0; x < width; ++x)
      for (int i = 0; i < side; ++i) *to++ = from[x * stride + channel + i];
  });
}

void Patches::read_means(const float* picture, int y, float* to, std::ptrdiff_t stride) const {
  const int area = side * side;
  for (int x = 0; x < width; ++x) std::fill_n(to + x * stride, kColours, 0.0f);
  for_each_line(*this, y, [&](int channel, std::ptrdiff_t at) {
    const float* from = picture + at;
    float* sum = to + channel / area;
    for (int x = 0; x < width; ++x, sum += stride)
      for (int i = 0; i < side; ++i) *sum += *from++;
  });
  for (int x = 0; x < width; ++x)
    for (int c = 0; c < kColours; ++c) to[x * stride + c] /= static_cast<float>(area);
}

bool Patches::is_zero(const float* picture) const {
  const std::ptrdiff_t pixels = static_cast<std::ptrdiff_t>(height) * width * side * side;
  return std::all_of(picture, picture + kColours * pixels, [](float value) { return value == 0; });
}

}  // namespace bidiffsr
