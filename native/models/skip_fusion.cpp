#include "models/skip_fusion.h"

#include <algorithm>
#include <utility>

#include "ops/layer_epilogue.h"
#include "ops/panels.h"

namespace bidiffsr {

namespace {

class AddFusion final : public SkipFusion {
 protected:
  void run(Context& context, const Features& x, const Skip& skip, Features& result) const override {
    Scratch scratch;
    const LayerEpilogue epilogue(context, result, scratch, nullptr);
    scratch.allocate(context);
    const Layer layer{"fusion", 2 * x.x.channels, x.x.height, x.x.width, 0};
    context.run_bands(layer, x.x.height, [&](int first, int last, int worker) {
      for (int y = first; y < last; ++y) {
        const float *a = x.x.row(y), *b = skip.features->x.row(y);
        float* to = result.x.row(y);
        for (std::ptrdiff_t i = 0; i < x.x.row_stride(); ++i) to[i] = a[i] + b[i];
        epilogue.run(y, 1, worker);
      }
    });
  }
};

// Without activations in between, every plain fusion is one product of [x, skip].
class PlainFusion final : public SkipFusion {
 public:
  PlainFusion(const LoadContext& from, const std::string& name, int channels)
      : channels_(channels), bias_(static_cast<std::size_t>(padded(channels)), 0.0f) {
    if (from.config.fusion == Fusion::kConcat)
      merge_one(from, name);
    else
      merge_two(from, name);
  }
  bool bfloat16() const override { return merged_.bfloat16(); }

 protected:
  void run(Context& context, const Features& x, const Skip& skip, Features& result) const override;

 private:
  // The weight of the convolution called `name`, whose bias is added to the merged one.
  const float* load(const LoadContext& from, const std::string& name, int in) {
    const float* bias = from.tensors.floats(name + ".conv.bias", {channels_});
    for (int o = 0; o < channels_; ++o) bias_[static_cast<std::size_t>(o)] += bias[o];
    return from.tensors.floats(name + ".conv.weight", {channels_, in, 1, 1});
  }
  void merge_one(const LoadContext& from, const std::string& name) {
    const int in = 2 * channels_;
    const float* w = load(from, name + ".conv", in);
    merged_ = Panels(channels_, in, from.bfloat16(), [&](int o, int i) { return w[o * in + i]; });
  }
  void merge_two(const LoadContext& from, const std::string& name) {
    const int c = channels_, half = c / 2;
    const float* first = load(from, name + ".conv1", c);
    const float* second = load(from, name + ".conv2", c);
    merged_ = Panels(c, 2 * c, from.bfloat16(), [&](int o, int i) {
      const bool skip = i >= c;
      const int channel = skip ? i - c : i;
      if (from.config.fusion == Fusion::kSplit) return (skip ? second : first)[o * c + channel];
      // CS-Fusion: f1 = [x odd, skip even], f2 = [x even, skip odd].
      const bool in_first = (channel % 2 == 1) != skip;
      return (in_first ? first : second)[o * c + channel / 2 + (skip ? half : 0)];
    });
  }

  int channels_;
  Panels merged_;
  Aligned<float> bias_;
};

// One row after another of a plain fusion, some pixels at a time, so that what is made of them
// stays in the first-level cache until it is stored.
class FusedRows {
 public:
  FusedRows(Context& context, const Panels& weights, const float* bias, const Tensor& x,
            const Skip& skip, Features& result)
      : kernel_(context.kernel),
        weights_(weights),
        bias_(bias),
        x_(x),
        skip_(skip),
        result_(result),
        made_(scratch_.reserve_array<float>(kPixels, x.stride)),
        rounded_(scratch_.reserve_array<std::uint16_t>(kPixels, x.stride)),
        sums_(scratch_.reserve_array<float>(2, x.stride)) {
    scratch_.allocate(context);
  }

  void run(int y, int worker) const {
    float* sums = scratch_.floats(worker, sums_);
    std::fill_n(sums, 2 * x_.stride, 0.0f);
    for (int first = 0; first < x_.width; first += kPixels)
      fuse(y * x_.row_stride() + static_cast<std::ptrdiff_t>(first) * x_.stride,
           std::min(kPixels, x_.width - first), sums, worker);
    if (result_.sums.wanted()) result_.sums.add(result_.x, y, 1, sums);
  }

 private:
  static constexpr int kPixels = 48;  // of whole tiles

  // So many pixels from `at` on, which may be overwritten.
  void fuse(std::ptrdiff_t at, int pixels, float* sums, int worker) const {
    float* made = scratch_.floats(worker, made_);
    const auto count = static_cast<std::size_t>(pixels) * static_cast<std::size_t>(x_.stride);
    look_ahead(at + static_cast<std::ptrdiff_t>(count), count);
    Gemm job{};
    job.parts = 2;
    job.a[0] = inputs(at, count, worker);
    job.a[1] = weights_.bfloat16() ? static_cast<const void*>(skip_.bfloat16.get() + at)
                                   : skip_.features->x.floats.get() + at;
    job.a_stride = job.c_stride = x_.stride;
    job.b = weights_.data();
    job.c = made;
    job.m = pixels;
    job.n = weights_.n();
    job.k = weights_.k() / 2;
    job.bias = bias_;
    (weights_.bfloat16() ? kernel_.gemm_bf16 : kernel_.gemm_f32)(job);
    if (result_.sums.wanted()) kernel_.sum_row(made, pixels, x_.stride, sums, sums + x_.stride);
    if (result_.x.bfloat16())
      kernel_.round_bf16(made, result_.x.halves.get() + at, count);
    else
      std::copy_n(made, count, result_.x.floats.get() + at);
  }
  // Asks for what the next pixels will be made of: a product reads too many rows at once for the
  // hardware to see it coming.
  void look_ahead(std::ptrdiff_t at, std::size_t count) const {
    if (x_.bfloat16())
      fetch(x_.halves.get() + at, count);
    else
      fetch(x_.floats.get() + at, count);
    if (skip_.bfloat16)
      fetch(skip_.bfloat16.get() + at, count);
    else
      fetch(skip_.features->x.floats.get() + at, count);
  }
  template <class Element>
  static void fetch(const Element* from, std::size_t count) {
    constexpr std::size_t kLine = 64 / sizeof *from;
    for (std::size_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i, 0, 2);
  }
  // Features of x in the type of the products.
  const void* inputs(std::ptrdiff_t at, std::size_t count, int worker) const {
    if (x_.bfloat16()) return x_.halves.get() + at;
    if (!weights_.bfloat16()) return x_.floats.get() + at;
    auto* to = reinterpret_cast<std::uint16_t*>(scratch_.bytes(worker, rounded_));
    kernel_.round_bf16(x_.floats.get() + at, to, count);
    return to;
  }

  const Kernel& kernel_;
  const Panels& weights_;
  const float* bias_;
  const Tensor& x_;
  const Skip& skip_;
  Features& result_;
  Scratch scratch_;
  std::size_t made_, rounded_, sums_;
};

void PlainFusion::run(Context& context, const Features& x, const Skip& skip,
                      Features& result) const {
  const int width = x.x.width, height = x.x.height, inputs = 2 * channels_;
  const FusedRows rows(context, merged_, bias_.data(), x.x, skip, result);
  const double macs = static_cast<double>(height) * width * inputs * channels_;
  const Layer layer{"float 1x1", inputs, height, width, macs};
  context.run_bands(layer, height, [&](int first, int last, int worker) {
    for (int y = first; y < last; ++y) rows.run(y, worker);
  });
}

// Binarized 1×1 convolutions of [x, skip], or two of half of it each, whose results are added.
class BinaryFusion final : public SkipFusion {
 public:
  BinaryFusion(const LoadContext& from, const std::string& name, int channels)
      : channels_(channels), kind_(from.config.fusion) {
    if (kind_ == Fusion::kConcat) {
      convs_.push_back(load_conv(from, name + ".conv", 2 * channels, channels, 1, 1, true));
      return;
    }
    for (const char* each : {".conv1", ".conv2"})
      convs_.push_back(load_conv(from, name + each, channels, channels, 1, 1, true));
  }

 protected:
  void run(Context& context, const Features& x, const Skip& skip, Features& result) const override;

 private:
  // Row y of both, as the convolutions read it, to one row for each of them.
  void gather(const Kernel& kernel, const Tensor& x, const Tensor& skip, int y,
              float* const (&rows)[2], std::ptrdiff_t stride) const;

  int channels_;
  Fusion kind_;
  std::vector<std::unique_ptr<Conv>> convs_;
};

void BinaryFusion::gather(const Kernel& kernel, const Tensor& x, const Tensor& skip, int y,
                          float* const (&rows)[2], std::ptrdiff_t stride) const {
  const int width = x.width, c = channels_, half = c / 2;
  if (kind_ == Fusion::kShuffle) {  // f1 = [x odd, skip even], f2 = [x even, skip odd]
    kernel.split_row(x.row(y), x.stride, width, half, rows[1], rows[0], stride);
    kernel.split_row(skip.row(y), skip.stride, width, half, rows[0] + half, rows[1] + half, stride);
    return;
  }
  float* second = kind_ == Fusion::kConcat ? rows[0] + c : rows[1];
  for (int pixel = 0; pixel < width; ++pixel) {
    std::copy_n(x.row(y) + static_cast<std::ptrdiff_t>(pixel) * x.stride, c,
                rows[0] + pixel * stride);
    std::copy_n(skip.row(y) + static_cast<std::ptrdiff_t>(pixel) * skip.stride, c,
                second + pixel * stride);
  }
}

void BinaryFusion::run(Context& context, const Features& x, const Skip& skip,
                       Features& result) const {
  const int width = x.x.width, height = x.x.height, inputs = convs_[0]->in;
  const std::ptrdiff_t stride = padded(inputs);
  Scratch scratch;
  const LayerEpilogue epilogue(context, result, scratch, nullptr);
  // A row for each convolution, and what a vector may write past the end of one.
  std::size_t gathered[2], own[2];
  for (std::size_t& part : gathered) part = scratch.reserve_array<float>(width + 1, stride);
  for (std::size_t& part : own) part = scratch.reserve(convs_[0]->scratch(width));
  scratch.allocate(context);
  const auto count = convs_.size();
  const double macs =
      static_cast<double>(count) * convs_[0]->macs(static_cast<std::int64_t>(height) * width);
  context.run_bands(
      {"binary 1x1", inputs, height, width, macs}, height, [&](int first, int last, int worker) {
        float* const rows[2] = {scratch.floats(worker, gathered[0]),
                                scratch.floats(worker, gathered[1])};
        std::unique_ptr<ConvRows> running[2];
        for (std::size_t i = 0; i < count; ++i)
          running[i] =
              convs_[i]->open(context, width, height, stride, scratch.bytes(worker, own[i]));
        for (int y = first; y < last; ++y) {
          gather(context.kernel, x.x, skip.features->x, y, rows, stride);
          for (std::size_t i = 0; i < count; ++i) {
            RowsOut out = rows_of(result.x, y, convs_[i]->bias(context.time_group));
            out.accumulate = i == 1;
            running[i]->push(y, rows[i]);
            running[i]->emit(y, 1, out);
          }
          epilogue.run(y, 1, worker);
        }
      });
}

}  // namespace

FeaturesPtr SkipFusion::operator()(Context& context, FeaturesPtr x, const Skip& skip) const {
  // Each row is gathered before it is overwritten.
  const Tensor& from = x->x;
  const FeaturesPtr result =
      x.use_count() == 1 && from.bfloat16() == bfloat16()
          ? x
          : std::make_shared<Features>(context, from.height, from.width, from.channels,
                                       x->sums.groups(), bfloat16());
  run(context, *x, skip, *result);
  return result;
}

std::unique_ptr<SkipFusion> load_skip_fusion(const LoadContext& from, const std::string& name,
                                             int channels, bool binary) {
  if (from.config.fusion == Fusion::kAdd) return std::make_unique<AddFusion>();
  if (binary) return std::make_unique<BinaryFusion>(from, name, channels);
  return std::make_unique<PlainFusion>(from, name, channels);
}

}  // namespace bidiffsr
