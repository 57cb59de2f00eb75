// Python's view of the engine: `bidiffsr._native`. Nothing a caller passes may reach memory it
// should not: what is out of range is refused here, in NetworkConfig::validate or by the function
// that is called, with std::invalid_argument, which is a ValueError; an array of another type or
// order with a TypeError, so that none is copied and none read amiss.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>

#include "bidiffsr/accumulators.h"
#include "bidiffsr/engine.h"
#include "bidiffsr/kernels.h"
#include "bidiffsr/measure.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bidiffsr {
namespace {

using Images = nb::ndarray<const float, nb::shape<-1, 3, -1, -1>, nb::c_contig, nb::device::cpu>;
using Steps = nb::ndarray<const std::int64_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
using Planes = nb::ndarray<const float, nb::shape<-1, -1, -1>, nb::c_contig, nb::device::cpu>;

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

nb::ndarray<nb::numpy, float> predict(Engine& engine, const Images& x_t, const Images& cond,
                                      const Steps& timesteps) {
  const Batch batch = batch_of(x_t, cond, timesteps);
  std::vector<float> prediction(x_t.size());
  {
    const nb::gil_scoped_release released;
    engine.predict(batch, prediction.data());
  }
  return make_array(std::move(prediction), {x_t.shape(0), 3, x_t.shape(2), x_t.shape(3)});
}

// (milliseconds, multiply-accumulates) by layer.
nb::dict profile(Engine& engine, const Images& x_t, const Images& cond, const Steps& timesteps) {
  const Batch batch = batch_of(x_t, cond, timesteps);
  std::vector<float> prediction(x_t.size());
  Profile profile;
  {
    const nb::gil_scoped_release released;
    profile = engine.profile(batch, prediction.data());
  }
  nb::dict result;
  for (const auto& [layer, cost] : profile)
    result[layer.c_str()] = nb::make_tuple(1e3 * cost.seconds, cost.macs);
  return result;
}

// (C_out, H', W'), for tests.
nb::ndarray<nb::numpy, std::int32_t> accumulators(const Planes& x, const nb::dict& arrays, int out,
                                                  int kernel_size, int stride,
                                                  const std::string& kernel) {
  for (std::size_t i = 0; i < 3; ++i)
    if (x.shape(i) > kLargestSide) throw std::invalid_argument("x is too large");
  const BinaryConvShape shape{static_cast<int>(x.shape(0)),
                              static_cast<int>(x.shape(1)),
                              static_cast<int>(x.shape(2)),
                              out,
                              kernel_size,
                              stride};
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
      .def("scratch_bytes", &Engine::scratch_bytes, "height"_a, "width"_a)
      .def("predict", &predict, x_t, cond, t)
      .def("profile", &profile, x_t, cond, t);
  m.def("make_engine", &make_engine, "config"_a, "tensors"_a, "fast"_a, "kernel"_a, "threads"_a);
  m.def("binary_accumulators", &accumulators, "x"_a.noconvert(), "tensors"_a, "out"_a,
        "kernel_size"_a, "stride"_a, "kernel"_a);
  m.def("ceilings", &ceilings, "kernel"_a, "threads"_a);
  m.def("binary_conv_rate", &binary_conv_rate, "kernel"_a, "threads"_a, "channels"_a, "width"_a);
  m.def("kernels", &list_kernels);
}
