// One layer over a picture: rows of features in, through one or more convolutions, rows out.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "convs.h"
#include "pass.h"

namespace bidiffsr {

// scale x + shift per channel for a row of features of either type, then SiLU where asked.
inline void normalize(const Kernel& kernel, const Tensor& x, int y, const float* scale,
                      const float* shift, bool silu, float* to) {
  if (x.rounded())
    kernel.normalize_row_bf16(x.rounded_row(y), to, x.width, x.stride, scale, shift, silu);
  else
    kernel.normalize_row(x.row(y), to, x.width, x.stride, scale, shift, silu);
}

// Rows of a convolution's input, made as they are asked for: the features themselves, or those
// normalized and passed through SiLU, or a part of the channels with the margin a plain convolution
// needs. As many rows are kept as the convolution sees at once.
struct Source {
  const Tensor* features;
  int first_channel = 0;
  const float* scale = nullptr;  // null: as they are
  const float* shift = nullptr;
  bool enlarged = false;  // nearest neighbour, twice the size

  int width() const { return features->width * (enlarged ? 2 : 1); }
  int height() const { return features->height * (enlarged ? 2 : 1); }
};

class SourceRows {
 public:
  // The source's channels from its first on, as many as `conv` takes; with the margin it wants, in
  // rows of their own.
  SourceRows(const Kernel& kernel, const Source& source, const Conv& conv, std::byte* memory)
      : kernel_(kernel), source_(source), channels_(conv.in), kept_(conv.rows_seen()) {
    copied_ = source.scale || source.enlarged || conv.wants_margin();
    stride_ = copied_ ? padded(channels_) : source.features->stride;
    if (!copied_) return;
    slots_ = reinterpret_cast<float*>(memory);
    for (int y = 0; y < kept_; ++y) {
      std::memset(slot(y) - stride_, 0, sizeof(float) * static_cast<std::size_t>(stride_));
      std::memset(slot(y) + source.width() * stride_, 0,
                  sizeof(float) * static_cast<std::size_t>(kRightMargin * stride_));
    }
  }
  static std::size_t scratch(const Source& source, const Conv& conv) {
    return sizeof(float) * static_cast<std::size_t>(conv.rows_seen() * slot_size(source, conv.in));
  }
  std::ptrdiff_t pixel_stride() const { return stride_; }

  // Null outside the picture.
  const float* row(int y) {
    if (y < 0 || y >= source_.height()) return nullptr;
    const Tensor& x = *source_.features;
    float* to = slot(y);
    if (source_.scale) {
      normalize(kernel_, x, y, source_.scale, source_.shift, true, to);
      return to;
    }
    const float* from = x.row(source_.enlarged ? y / 2 : y) + source_.first_channel;
    if (!copied_) return from;
    for (int pixel = 0; pixel < source_.width(); ++pixel)
      std::memcpy(
          to + pixel * stride_,
          from + static_cast<std::ptrdiff_t>(source_.enlarged ? pixel / 2 : pixel) * x.stride,
          sizeof(float) * static_cast<std::size_t>(channels_));
    // A product of bfloat16 pairs looks at an even number of channels.
    for (int pixel = 0; channels_ % 2 && pixel < source_.width(); ++pixel)
      to[pixel * stride_ + channels_] = 0;
    return to;
  }

 private:
  static std::ptrdiff_t slot_size(const Source& source, int channels) {
    return static_cast<std::ptrdiff_t>(1 + source.width() + kRightMargin) * padded(channels);
  }
  float* slot(int y) const { return slots_ + y % kept_ * slot_size(source_, channels_) + stride_; }

  const Kernel& kernel_;
  const Source& source_;
  int channels_, kept_;
  bool copied_;
  std::ptrdiff_t stride_;
  float* slots_ = nullptr;
};

// Scratch of each worker, cut into parts of whole cache lines.
class Room {
 public:
  std::size_t add(std::size_t bytes) {
    const std::size_t at = size_;
    size_ += whole_lines(bytes);
    return at;
  }
  void allocate(Pass& pass) {
    block_ = Block<std::byte>(pass.arena, size_ * static_cast<std::size_t>(pass.workers()));
  }
  std::byte* of(int worker, std::size_t part) const {
    return block_.get() + size_ * static_cast<std::size_t>(worker) + part;
  }
  float* floats(int worker, std::size_t part) const {
    return reinterpret_cast<float*>(of(worker, part));
  }

 private:
  std::size_t size_ = 0;
  Block<std::byte> block_;
};

// A convolution and what it looks at.
struct Branch {
  const Conv* conv;
  Source source;
};

// Runs `branches`, which all have the same size and stride, over the picture. place(branch, y,
// worker) says where output row y and those after it go; done(y, rows, worker) follows when all
// branches have made them. `room` may hold parts already and is allocated here. `kind` is what the
// profile calls it, if not by its convolutions.
template <class Place, class Done>
void sweep(Pass& pass, const std::vector<Branch>& branches, Room& room, const Place& place,
           const Done& done, const char* kind = nullptr) {
  const Conv& like = *branches[0].conv;
  const int width = branches[0].source.width(), height = branches[0].source.height();
  const int height_out = height / like.stride, halo = like.kernel / 2;
  double macs = 0;
  struct Parts {
    std::size_t source, conv;
  };
  std::vector<Parts> parts;
  for (const Branch& branch : branches) {
    macs += branch.conv->macs(height_out * (width / like.stride));
    parts.push_back({room.add(SourceRows::scratch(branch.source, *branch.conv)),
                     room.add(branch.conv->scratch(width))});
  }
  room.allocate(pass);
  if (!kind) kind = like.binary ? "binary 3x3" : "float 3x3";
  const Layer layer{kind, like.in, height, width};
  pass.bands(layer, macs, height_out, [&](int first, int last, int worker) {
    std::vector<SourceRows> sources;
    std::vector<std::unique_ptr<ConvRows>> convs;
    for (std::size_t i = 0; i < branches.size(); ++i) {
      const Conv& conv = *branches[i].conv;
      sources.emplace_back(pass.kernel, branches[i].source, conv, room.of(worker, parts[i].source));
      convs.push_back(conv.open(pass, width, height, sources[i].pixel_stride(),
                                room.of(worker, parts[i].conv)));
    }
    int next = first * like.stride - halo;
    for (int y = first; y < last; y += like.step()) {
      const int rows = std::min(like.step(), last - y);
      for (; next <= (y + rows - 1) * like.stride + halo; ++next)
        for (std::size_t i = 0; i < convs.size(); ++i) convs[i]->push(next, sources[i].row(next));
      for (std::size_t i = 0; i < convs.size(); ++i) convs[i]->emit(y, rows, place(i, y, worker));
      done(y, rows, worker);
    }
  });
}

}  // namespace bidiffsr
