// Python's view of the engine: `bidiffsr._native`. Nothing a caller passes may reach memory it
// should not: what is out of range is refused here, in NetworkConfig::validate or by the function
// that is called, with std::invalid_argument, which is a ValueError; an array of another type or
// order with a TypeError, so that none is copied and none read amiss.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>

#include "bidiffsr/accumulators.h"
#include "bidiffsr/engine.h"
#include "bidiffsr/kernels.h"
#include "bidiffsr/measure.h"
#include "upscaling/interpolation.h"
#include "upscaling/noise.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bidiffsr {
namespace {

using Images = nb::ndarray<const float, nb::shape<-1, 3, -1, -1>, nb::c_contig, nb::device::cpu>;
using Steps = nb::ndarray<const std::int64_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
using Planes = nb::ndarray<const float, nb::shape<-1, -1, -1>, nb::c_contig, nb::device::cpu>;

// Three colours, rows without gaps inside.
using Seen = nb::ndarray<const float, nb::shape<3, -1, -1>, nb::device::cpu>;
using Written = nb::ndarray<float, nb::shape<3, -1, -1>, nb::device::cpu>;

constexpr std::size_t kLargestSide = 1 << 20;

template <class T, std::size_t Dimensions>
nb::ndarray<nb::numpy, T> make_array(std::vector<T> values,
                                     const std::size_t (&shape)[Dimensions]) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(owned->data(), Dimensions, shape, owner);
}

TensorView view_of(const std::string& name, nb::handle value) {
  using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
  Array array;
  // Without conversion, which would make a copy that nobody holds.
  if (!nb::try_cast<Array>(value, array, false))
    throw std::invalid_argument(name + ": expected an array in C order");
  TensorView view{};
  if (array.dtype() == nb::dtype<float>())
    view.type = TensorView::Type::kFloat32;
  else if (array.dtype() == nb::dtype<std::uint8_t>())
    view.type = TensorView::Type::kUint8;
  else if (array.dtype() == nb::dtype<std::int32_t>())
    view.type = TensorView::Type::kInt32;
  else
    throw std::invalid_argument(name + ": expected float32, uint8 or int32");
  for (std::size_t i = 0; i < array.ndim(); ++i)
    view.shape.push_back(static_cast<std::int64_t>(array.shape(i)));
  view.data = array.data();
  return view;
}

// Views of arrays that the dictionary keeps alive.
Tensors read_tensors(const nb::dict& arrays) {
  Tensors tensors;
  for (const auto& [key, value] : arrays) {
    const auto name = nb::cast<std::string>(key);
    tensors.add(name, view_of(name, value));
  }
  return tensors;
}

// The values of a configuration, each named where it is missing or of another type.
class Values {
 public:
  explicit Values(const nb::dict& values) : values_(values) {}
  template <class T>
  T get(const char* key) const {
    T value{};
    if (!values_.contains(key) || !nb::try_cast<T>(values_[key], value))
      throw std::invalid_argument(std::string(key) + ": missing, or of the wrong type");
    return value;
  }
  // Whether it says `yes`; the only other choice is `no`.
  bool choose(const char* key, const std::string& yes, const std::string& no) const {
    const auto value = get<std::string>(key);
    if (value != yes && value != no)
      throw std::invalid_argument(std::string(key) + ": got '" + value + "', expected " + yes +
                                  " or " + no);
    return value == yes;
  }

 private:
  const nb::dict& values_;
};

NetworkConfig read_config(const nb::dict& dict) {
  const Values values(dict);
  NetworkConfig network;
  network.patch = values.get<int>("patch");
  network.channels = values.get<int>("channels");
  network.multipliers = values.get<std::vector<int>>("multipliers");
  network.blocks_per_level = values.get<int>("blocks_per_level");
  const bool grouped = values.choose("normalization", "group", "affine");
  network.norm_groups = values.get<int>("norm_groups");
  if (network.norm_groups < 1) throw std::invalid_argument("norm_groups: expected 1 or more");
  if (!grouped) network.norm_groups = 0;
  network.attention_levels = values.get<std::vector<int>>("attention_levels");
  network.full_precision_up_levels = values.get<int>("full_precision_up_levels");
  network.timesteps = values.get<int>("timesteps");
  network.time_groups = values.get<int>("time_groups");
  network.method = values.get<std::string>("method");
  network.consistent_resampling = values.choose("resampling", "consistent", "strided");
  network.fusion = fusion_named(values.get<std::string>("fusion"));
  network.middle_attention = values.get<bool>("middle_attention");
  network.mean_condition = values.choose("stem_condition", "mean", "pixels");
  network.weight_gain = values.get<bool>("weight_gain");
  network.identity_shortcut = values.get<bool>("identity_shortcut");
  return network;
}

std::unique_ptr<Engine> make_engine(const nb::dict& config, const nb::dict& tensors, bool fast,
                                    const std::string& kernel, int threads) {
  return std::make_unique<Engine>(read_config(config), read_tensors(tensors), fast, kernel,
                                  threads);
}

Batch batch_of(const Images& x_t, const Images& cond, const Steps& timesteps) {
  for (std::size_t i = 0; i < 4; ++i)
    if (cond.shape(i) != x_t.shape(i))
      throw std::invalid_argument("cond must have the shape of x_t");
  if (timesteps.shape(0) != x_t.shape(0))
    throw std::invalid_argument("t must have one timestep for each picture");
  const std::size_t height = x_t.shape(2), width = x_t.shape(3);
  if (height > kLargestSide || width > kLargestSide)
    throw std::invalid_argument("x_t is too large");
  return {x_t.data(),
          cond.data(),
          timesteps.data(),
          static_cast<std::int64_t>(x_t.shape(0)),
          static_cast<int>(height),
          static_cast<int>(width)};
}

// Lets Python's signal handlers run, so that Ctrl-C ends a long call.
class SignalCheck {
 public:
  void operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < kEvery) return;
    last_ = now;
    const nb::gil_scoped_acquire acquired;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }

 private:
  static constexpr std::chrono::milliseconds kEvery{50};
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

nb::ndarray<nb::numpy, float> predict(Engine& engine, const Images& x_t, const Images& cond,
                                      const Steps& timesteps) {
  const Batch batch = batch_of(x_t, cond, timesteps);
  std::vector<float> prediction(x_t.size());
  {
    const nb::gil_scoped_release released;
    engine.predict(batch, prediction.data(), SignalCheck{});
  }
  return make_array(std::move(prediction), {x_t.shape(0), 3, x_t.shape(2), x_t.shape(3)});
}

template <class Value, class Array>
Colours<Value> colours_of(const char* name, const Array& array) {
  const std::size_t height = array.shape(1), width = array.shape(2);
  if (!height || !width || std::max(height, width) > kLargestSide)
    throw std::invalid_argument(std::string(name) + ": is too large or has no pixels");
  if (width > 1 && array.stride(2) != 1)
    throw std::invalid_argument(std::string(name) + ": expected rows without gaps");
  return {array.data(), static_cast<int>(height), static_cast<int>(width),
          static_cast<std::ptrdiff_t>(array.stride(0)),
          static_cast<std::ptrdiff_t>(array.stride(1))};
}
ColoursView seen(const char* name, const Seen& array) {
  return colours_of<const float>(name, array);
}
Colours<float> written(const char* name, const Written& array) {
  return colours_of<float>(name, array);
}

void require_factor(int factor, const ColoursView& small) {
  if (factor < 1 ||
      std::size_t(factor) * std::size_t(std::max(small.height, small.width)) > kLargestSide)
    throw std::invalid_argument("factor: is below 1 or too large");
}
// `large` is `factor` times as large as `small`, or larger if it may be.
void require_sizes(const ColoursView& small, int factor, const ColoursView& large,
                   bool may_be_larger) {
  require_factor(factor, small);
  const int height = small.height * factor, width = small.width * factor;
  if (may_be_larger ? large.height < height || large.width < width
                    : large.height != height || large.width != width)
    throw std::invalid_argument("the sizes of the arrays do not fit");
}
RowRange range_of(int first, int last, const ColoursView& picture) {
  if (first < 0 || first > last || last > picture.height)
    throw std::invalid_argument("rows: expected some of the picture's");
  return {first, last};
}

void interpolate_rows(Engine& engine, const Seen& colour, int factor, const Written& cond,
                      int first, int last) {
  const ColoursView from = seen("colour", colour);
  const Colours<float> to = written("cond", cond);
  require_sizes(from, factor, to, true);
  const RowRange rows = range_of(first, last, to);
  const nb::gil_scoped_release released;
  interpolate(from, factor, to, rows, bands_on(engine, SignalCheck{}));
}

void find_lacking_rows(Engine& engine, const Seen& picture, const Seen& source, int factor,
                       const Written& lacking, int first, int last) {
  const ColoursView large = seen("picture", picture), small = seen("source", source);
  const Colours<float> to = written("lacking", lacking);
  require_sizes(small, factor, large, false);
  require_sizes(small, 1, to, false);
  const RowRange rows = range_of(first, last, to);
  const nb::gil_scoped_release released;
  find_lacking(large, small, factor, to, rows, bands_on(engine, SignalCheck{}));
}

void add_lacking_rows(Engine& engine, const Written& picture, const Seen& lacking, int factor,
                      int first, int last) {
  const Colours<float> large = written("picture", picture);
  const ColoursView small = seen("lacking", lacking);
  require_sizes(small, factor, large, false);
  const RowRange rows = range_of(first, last, large);
  const nb::gil_scoped_release released;
  add_lacking(large, small, factor, rows, bands_on(engine, SignalCheck{}));
}

// Rows `top` and on of the whole picture's noise.
void draw_noise(Engine& engine, std::uint64_t seed, std::uint32_t sample, std::uint32_t stream,
                std::uint32_t top, float scale, const Written& noise) {
  const Colours<float> to = written("noise", noise);
  const NoiseSource source{seed, sample, stream};
  const nb::gil_scoped_release released;
  bands_on(engine, SignalCheck{})(to.height, [&](int first, int last) {
    for (int y = first; y < last; ++y)
      normal_noise_row(source, top + static_cast<std::uint32_t>(y), to.width, scale,
                       {to.row(0, y), to.row(1, y), to.row(2, y)});
  });
}

// (milliseconds, multiply-accumulates) by layer.
nb::dict profile(Engine& engine, const Images& x_t, const Images& cond, const Steps& timesteps) {
  const Batch batch = batch_of(x_t, cond, timesteps);
  std::vector<float> prediction(x_t.size());
  Profile profile;
  {
    const nb::gil_scoped_release released;
    profile = engine.profile(batch, prediction.data(), SignalCheck{});
  }
  nb::dict result;
  for (const auto& [layer, cost] : profile)
    result[layer.c_str()] = nb::make_tuple(1e3 * cost.seconds, cost.macs);
  return result;
}

// (C_out, H', W'), for tests.
nb::ndarray<nb::numpy, std::int32_t> accumulators(const Planes& x, const nb::dict& arrays, int out,
                                                  int kernel_size, int stride,
                                                  const std::string& kernel,
                                                  const std::string& method) {
  for (std::size_t i = 0; i < 3; ++i)
    if (x.shape(i) > kLargestSide) throw std::invalid_argument("x is too large");
  const BinaryConvShape shape{static_cast<int>(x.shape(0)),
                              static_cast<int>(x.shape(1)),
                              static_cast<int>(x.shape(2)),
                              out,
                              kernel_size,
                              stride,
                              method};
  std::vector<std::int32_t> result =
      binary_accumulators(x.data(), shape, read_tensors(arrays), kernel);
  return make_array(std::move(result),
                    {static_cast<std::size_t>(out), static_cast<std::size_t>(shape.height / stride),
                     static_cast<std::size_t>(shape.width / stride)});
}

nb::dict ceilings(const std::string& kernel, int threads) {
  Ceilings found{};
  {
    const nb::gil_scoped_release released;
    found = measure_ceilings(kernel, threads);
  }
  nb::dict result;
  result["popcount_tmacs"] = found.binary * 1e-12;
  result["fma_gmacs"] = found.f32 * 1e-9;
  if (found.bf16 > 0) result["bf16_gmacs"] = found.bf16 * 1e-9;
  result["copy_gbs"] = found.copy * 1e-9;
  return result;
}

double binary_conv_rate(const std::string& kernel, int threads, int channels, int width) {
  const nb::gil_scoped_release released;
  return measure_binary_conv(kernel, threads, channels, width);
}

nb::list list_kernels() {
  nb::list result;
  for (const KernelInfo& info : kernels()) {
    nb::dict entry;
    entry["name"] = info.name;
    entry["needs"] = info.needs;
    entry["supported"] = info.supported;
    entry["bfloat16"] = info.bfloat16;
    result.append(entry);
  }
  return result;
}

}  // namespace
}  // namespace bidiffsr

NB_MODULE(_native, m) {
  using namespace bidiffsr;
  m.doc() = "The native engine; see bidiffsr.backends.engine.";
  const auto x_t = "x_t"_a.noconvert(), cond = "cond"_a.noconvert(), t = "t"_a.noconvert();
  nb::class_<Engine>(m, "Engine")
      .def_prop_ro("kernel", &Engine::kernel)
      .def_prop_ro("threads", &Engine::threads)
      .def("release_memory", &Engine::release_memory, nb::call_guard<nb::gil_scoped_release>())
      .def("scratch_bytes", &Engine::scratch_bytes, "height"_a, "width"_a)
      .def("predict", &predict, x_t, cond, t)
      .def("profile", &profile, x_t, cond, t)
      .def("interpolate", &interpolate_rows, "colour"_a.noconvert(), "factor"_a, cond, "first"_a,
           "last"_a)
      .def("find_lacking", &find_lacking_rows, "picture"_a.noconvert(), "source"_a.noconvert(),
           "factor"_a, "lacking"_a.noconvert(), "first"_a, "last"_a)
      .def("add_lacking", &add_lacking_rows, "picture"_a.noconvert(), "lacking"_a.noconvert(),
           "factor"_a, "first"_a, "last"_a)
      .def("draw_noise", &draw_noise, "seed"_a, "sample"_a, "stream"_a, "top"_a, "scale"_a,
           "noise"_a.noconvert());
  m.def("make_engine", &make_engine, "config"_a, "tensors"_a, "fast"_a, "kernel"_a, "threads"_a);
  m.def("binary_accumulators", &accumulators, "x"_a.noconvert(), "tensors"_a, "out"_a,
        "kernel_size"_a, "stride"_a, "kernel"_a, "method"_a = "bi-diffsr");
  m.def("ceilings", &ceilings, "kernel"_a, "threads"_a);
  m.def("binary_conv_rate", &binary_conv_rate, "kernel"_a, "threads"_a, "channels"_a, "width"_a);
  m.def("kernels", &list_kernels);
}
