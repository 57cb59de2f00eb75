// Python's view of the engine: `bidiffsr._native`. Arguments are checked here and in engine.py, so
// that nothing a caller passes can reach memory it should not.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "convs.h"
#include "engine.h"
#include "measure.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bidiffsr {
namespace {

using Images = nb::ndarray<const float, nb::shape<-1, 3, -1, -1>, nb::c_contig, nb::device::cpu>;
using Steps = nb::ndarray<const std::int64_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;

template <class T, std::size_t Dimensions>
nb::ndarray<nb::numpy, T> make_array(std::vector<T> values,
                                     const std::size_t (&shape)[Dimensions]) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(owned->data(), Dimensions, shape, owner);
}

Tensors read_tensors(const nb::dict& arrays) {
  Tensors tensors;
  for (const auto& [key, value] : arrays) {
    const auto name = nb::cast<std::string>(key);
    const auto array = nb::cast<nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>>(value);
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
    tensors.add(name, std::move(view));
  }
  return tensors;
}

Fusion fusion_of(const std::string& name) {
  if (name == "cs") return Fusion::kShuffle;
  if (name == "split") return Fusion::kSplit;
  if (name == "concat") return Fusion::kConcat;
  if (name == "add") return Fusion::kAdd;
  throw std::invalid_argument("fusion: '" + name + "' is none of cs, split, concat, add");
}

std::unique_ptr<Engine> make_engine(const nb::dict& config, const nb::dict& tensors, bool fast,
                                    const std::string& kernel, int threads) {
  const auto integer = [&](const char* key) { return nb::cast<int>(config[key]); };
  NetworkConfig network;
  network.patch = integer("patch");
  network.channels = integer("channels");
  network.multipliers = nb::cast<std::vector<int>>(config["multipliers"]);
  network.blocks_per_level = integer("blocks_per_level");
  const bool grouped = nb::cast<std::string>(config["normalization"]) == "group";
  network.norm_groups = grouped ? integer("norm_groups") : 0;
  network.attention_levels = nb::cast<std::vector<int>>(config["attention_levels"]);
  network.full_precision_up_levels = integer("full_precision_up_levels");
  network.timesteps = integer("timesteps");
  network.time_groups = integer("time_groups");
  network.binarized = nb::cast<std::string>(config["method"]) != "full-precision";
  network.consistent_resampling = nb::cast<std::string>(config["resampling"]) == "consistent";
  network.fusion = fusion_of(nb::cast<std::string>(config["fusion"]));
  network.middle_attention = nb::cast<bool>(config["middle_attention"]);
  network.mean_condition = nb::cast<std::string>(config["stem_condition"]) == "mean";
  network.weight_gain = nb::cast<bool>(config["weight_gain"]);
  network.identity_shortcut = nb::cast<bool>(config["identity_shortcut"]);
  return std::make_unique<Engine>(network, read_tensors(tensors), fast, kernel, threads);
}

nb::dict profile_of(const Profile& profile) {
  nb::dict result;
  for (const auto& [layer, cost] : profile)
    result[layer.c_str()] = nb::make_tuple(1e3 * cost.seconds, cost.macs);
  return result;
}

// Prediction and profile.
nb::tuple predict(Engine& engine, const Images& x_t, const Images& cond, const Steps& timesteps) {
  const std::size_t batch = x_t.shape(0), height = x_t.shape(2), width = x_t.shape(3);
  for (std::size_t i = 0; i < 4; ++i)
    if (cond.shape(i) != x_t.shape(i))
      throw std::invalid_argument("cond must have the shape of x_t");
  if (timesteps.shape(0) != batch)
    throw std::invalid_argument("t must have one timestep for each picture");
  constexpr std::size_t kLargest = 1 << 20;
  if (batch > kLargest || height > kLargest || width > kLargest)
    throw std::invalid_argument("x_t is too large");
  std::vector<float> prediction(x_t.size());
  Profile profile;
  {
    const nb::gil_scoped_release released;
    profile =
        engine.predict(x_t.data(), cond.data(), timesteps.data(), prediction.data(),
                       static_cast<int>(batch), static_cast<int>(height), static_cast<int>(width));
  }
  return nb::make_tuple(make_array(std::move(prediction), {batch, 3, height, width}),
                        profile_of(profile));
}

// Integer accumulators of one binarized 3×3 or 1×1 convolution (C_out, H', W'), for tests.
nb::ndarray<nb::numpy, std::int32_t> binary_accumulators(
    const nb::ndarray<const float, nb::shape<-1, -1, -1>, nb::c_contig, nb::device::cpu>& x,
    const nb::dict& arrays, int out, int kernel_size, int stride, const std::string& kernel) {
  const auto in = static_cast<int>(x.shape(0));
  const auto height = static_cast<int>(x.shape(1)), width = static_cast<int>(x.shape(2));
  ThreadPool pool(1);
  Arena arena;
  const Pass pass(choose_kernel(kernel), pool, arena);
  const Tensors tensors = read_tensors(arrays);
  const std::unique_ptr<Conv> conv = load_conv({NetworkConfig(), tensors, pass.kernel, false},
                                               "block", in, out, kernel_size, stride, true);
  const auto area = static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  const auto pixel = static_cast<std::size_t>(padded(in));
  Aligned<float> rows(area * pixel + kPanel, 0.0f);
  for (std::size_t c = 0; c < static_cast<std::size_t>(in); ++c)
    for (std::size_t i = 0; i < area; ++i) rows[i * pixel + c] = x.data()[c * area + i];
  const std::vector<std::int32_t> sums = accumulators(*conv, pass, rows.data(), height, width);
  const auto outputs = static_cast<std::size_t>(out), step = static_cast<std::size_t>(padded(out));
  const auto area_out = sums.size() / step;
  std::vector<std::int32_t> result(outputs * area_out);
  for (std::size_t c = 0; c < outputs; ++c)
    for (std::size_t i = 0; i < area_out; ++i) result[c * area_out + i] = sums[i * step + c];
  const std::size_t shape[] = {outputs, static_cast<std::size_t>(height / stride),
                               static_cast<std::size_t>(width / stride)};
  return make_array(std::move(result), shape);
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
    entry["bfloat16"] = info.kernel->bfloat16;
    result.append(entry);
  }
  return result;
}

}  // namespace
}  // namespace bidiffsr

NB_MODULE(_native, m) {
  using namespace bidiffsr;
  m.doc() = "The native engine; see bidiffsr.backends.engine.";
  nb::class_<Engine>(m, "Engine")
      .def_prop_ro("kernel", [](const Engine& engine) { return engine.kernel().name; })
      .def_prop_ro("threads", &Engine::threads)
      .def("scratch_bytes", &Engine::scratch_bytes, "height"_a, "width"_a)
      .def("predict", &predict, "x_t"_a, "cond"_a, "t"_a);
  m.def("make_engine", &make_engine, "config"_a, "tensors"_a, "fast"_a, "kernel"_a, "threads"_a);
  m.def("binary_accumulators", &binary_accumulators, "x"_a, "tensors"_a, "out"_a, "kernel_size"_a,
        "stride"_a, "kernel"_a);
  m.def("ceilings", &ceilings, "kernel"_a, "threads"_a);
  m.def("binary_conv_rate", &binary_conv_rate, "kernel"_a, "threads"_a, "channels"_a, "width"_a);
  m.def("kernels", &list_kernels);
}
