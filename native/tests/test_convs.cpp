// Binarized and plain convolution blocks against the loops of their definitions.
#include "ops/conv.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "check.h"
#include "ops/accumulators.h"
#include "random_model.h"
#include "runtime/aligned.h"

namespace bidiffsr::tests {
namespace {

struct Case {
  int in, out, kernel, stride, width_out, height_out, zeros = 0;
  int width() const { return width_out * stride; }
  int height() const { return height_out * stride; }
  std::string about() const {
    return text("in", in) + text("out", out) + text("kernel", kernel) + text("stride", stride) +
           text("width", width()) + text("height", height()) + text("zeros", zeros);
  }
};

constexpr int kGroups = 3, kGroup = 2;

std::unique_ptr<Conv> load(const NetworkConfig& config, const RandomModel& model,
                           const Kernel& kernel, const Case& each, bool binary, bool fast = false) {
  return load_conv({config, model.tensors(), kernel, fast}, "block", each.in, each.out, each.kernel,
                   each.stride, binary);
}

// Every size with some channels, and all channels with some size.
std::vector<Case> awkward_cases() {
  const std::vector<int> channels{1,  2,  3,  5,  8,  15,  16,  17,  31,  32,
                                  33, 48, 63, 64, 65, 100, 127, 128, 129, 200};
  const std::vector<int> outputs{1, 16, 17, 3, 33, 50};
  const std::vector<std::pair<int, int>> kinds{{3, 1}, {1, 1}, {3, 2}};
  std::vector<Case> cases;
  std::size_t next = 0;
  for (const auto& [kernel, stride] : kinds) {
    for (const int width : {1, 2, 3, 7, 8, 9, 33})
      for (const int height : {1, 2, 5}) {
        const std::size_t i = next++;
        cases.push_back({channels[i * 7 % channels.size()], outputs[i % outputs.size()], kernel,
                         stride, width, height, i % 3 == 0 ? 1 + static_cast<int>(i % 5) : 0});
      }
    for (const int in : channels) cases.push_back({in, in <= 64 ? in : 17, kernel, stride, 3, 2});
  }
  cases.push_back({200, 200, 3, 1, 3, 2});
  cases.push_back({16, 17, 3, 1, 101, 6});  // more tiles than a run has
  // Long rows, and every number of panels up to nine.
  for (int panels = 1; panels <= 9; ++panels)
    cases.push_back({40, 16 * panels - 3, 3, 1 + panels % 2, 61 + panels, 1});
  cases.push_back({600, 80, 1, 1, 67, 1});
  return cases;
}

// Features and what a block needs beside its weights.
struct Setup {
  Setup(const Case& each, Random& random, bool binary, bool gain = false)
      : model(random),
        stride(padded(each.in)),
        width(each.width()),
        height(each.height()),
        x(static_cast<std::size_t>(height * (width + 1 + kRightMargin) * stride), 0.0f) {
    model.time_groups = kGroups;
    model.weight_gain = gain;
    model.conv("block", each.in, each.out, each.kernel, binary, each.zeros);
    for (int y = 0; y < height; ++y)
      for (int pixel = 0; pixel < width; ++pixel)
        for (int c = 0; c < stride; ++c)
          // What lies between the channels is undefined, and infinity would show. But a plain
          // convolution's rows are zero up to an even number of channels.
          row(y)[pixel * stride + c] = c < each.in ? random.uniform()
                                       : !binary && c == each.in && c % 2
                                           ? 0.0f
                                           : std::numeric_limits<float>::infinity();
  }
  // With a pixel of zeros on the left and a margin of them on the right.
  float* row(int y) { return x.data() + (y * (width + 1 + kRightMargin) + 1) * stride; }
  // Zero outside the picture.
  double at(int y, int pixel, int c) {
    if (y < 0 || y >= height || pixel < 0 || pixel >= width) return 0;
    return static_cast<double>(row(y)[pixel * stride + c]);
  }

  RandomModel model;
  int stride, width, height;
  std::vector<float> x;
};

// All outputs of `conv` in steps, as a layer calls it.
void run_rows(const Conv& conv, Setup& setup, const Context& context, RowsOut out) {
  const auto bytes = (conv.scratch(setup.width) + Arena::kSlack + 63) / 64 * 64;
  Aligned<std::byte> scratch(bytes, std::byte{0xff});
  const std::unique_ptr<ConvRows> rows =
      conv.open(context, setup.width, setup.height, setup.stride, scratch.data());
  const int halo = conv.kernel / 2, height_out = setup.height / conv.stride;
  int next = -halo;
  for (int y = 0; y < height_out; y += conv.step()) {
    const int count = std::min(conv.step(), height_out - y);
    for (; next <= (y + count - 1) * conv.stride + halo; ++next)
      rows->push(next, next < 0 || next >= setup.height ? nullptr : setup.row(next));
    RowsOut here = out;
    here.output += y * out.row_stride;
    if (here.residual) here.residual += y * out.row_stride;
    rows->emit(y, count, here);
  }
}

// The sum of products at one output, zeros outside; an activation below its threshold is `below`,
// of two bits the number of thresholds that it reaches.
int accumulator(const Case& each, Setup& setup, int o, int y, int x, int below = -1,
                bool two_bits = false) {
  const BinaryWeights& weights = setup.model.binary.at("block");
  const std::vector<float>& shift = setup.model.values("block.shift.bias");
  std::vector<const std::vector<float>*> outer;
  for (const char* name : {"block.shift.lower", "block.shift.upper"})
    if (two_bits) outer.push_back(&setup.model.values(name));
  int sum = 0;
  for (int c = 0; c < each.in; ++c)
    for (int row = 0; row < each.kernel; ++row)
      for (int column = 0; column < each.kernel; ++column) {
        const int from_y = y * each.stride + row - each.kernel / 2;
        const int from_x = x * each.stride + column - each.kernel / 2;
        if (from_y < 0 || from_y >= setup.height || from_x < 0 || from_x >= setup.width) continue;
        const float value = setup.row(from_y)[from_x * setup.stride + c];
        const float shifted = value + shift[static_cast<std::size_t>(kGroup * each.in + c)];
        const int tap = row * each.kernel + column;
        int level = shifted >= 0 ? 1 : two_bits ? 0 : below;
        for (const auto* more : outer)
          level += value + (*more)[static_cast<std::size_t>(kGroup * each.in + c)] >= 0;
        sum += level * weights.at(o, c * each.kernel * each.kernel + tap);
      }
  return sum;
}

// Accumulators of every kernel, each as its own loop gives it; steps' are twice the sums.
void check_accumulators(const Case& each, Setup& setup, const std::string& method = "bi-diffsr") {
  const bool steps = method != "bi-diffsr", two_bits = method == "dorefa-w1a2";
  NetworkConfig config;
  config.method = method;
  std::vector<int> wanted;
  for (int y = 0; y < each.height_out; ++y)
    for (int x = 0; x < each.width_out; ++x)
      for (int o = 0; o < each.out; ++o)
        wanted.push_back((steps ? 2 : 1) *
                         accumulator(each, setup, o, y, x, steps ? 0 : -1, two_bits));
  std::vector<float> packed;  // without margins
  for (int y = 0; y < setup.height; ++y)
    packed.insert(packed.end(), setup.row(y), setup.row(y) + setup.width * setup.stride);
  packed.resize(packed.size() + kPanel);
  for_each_kernel([&](const Kernel& kernel) {
    const auto conv = load(config, setup.model, kernel, each, true);
    ThreadPool pool(1);
    Arena arena;
    Context context(kernel, pool, arena);
    context.time_group = kGroup;
    const auto found = accumulators(*conv, context, packed.data(), setup.height, setup.width);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const std::size_t outputs = static_cast<std::size_t>(each.out);
      const std::size_t at = i / outputs * static_cast<std::size_t>(padded(each.out)) + i % outputs;
      CHECK_THAT(found[at] == wanted[i], each.about() + text("at", static_cast<double>(i)) +
                                             text("found", found[at]) + text("wanted", wanted[i]));
    }
  });
}

TEST(binary_convolution_counts_exactly) {
  Random random(20);
  for (const Case& each : awkward_cases()) {
    Setup setup(each, random, true);
    check_accumulators(each, setup);
  }
}

TEST(binary_convolution_counts_steps_exactly) {
  Random random(25);
  for (Case each : awkward_cases()) {
    each.zeros = 0;
    Setup setup(each, random, true);
    check_accumulators(each, setup, "dorefa");
    for (const auto& [name, apart] : {std::pair{"lower", 0.4f}, std::pair{"upper", -0.4f}}) {
      std::vector<float> shift = setup.model.values("block.shift.bias");
      for (float& value : shift) value += apart;
      setup.model.keep("block.shift." + std::string(name), {kGroups, each.in}, shift);
    }
    check_accumulators(each, setup, "dorefa-w1a2");
  }
}

// A picture that agrees with each weight that output 0 has at its middle pixel, or with none. So
// many channels that no running count may be narrow.
TEST(binary_convolution_counts_extremes) {
  Random random(24);
  const std::vector<Case> cases{
      {5, 1, 3, 1, 3, 3},     {32, 17, 3, 1, 3, 3},  {56, 16, 3, 1, 3, 3},
      {64, 33, 3, 1, 3, 3},   {512, 16, 3, 1, 3, 3}, {8000, 1, 3, 1, 3, 3},
      {15000, 1, 3, 1, 3, 3}, {504, 16, 1, 1, 3, 3}, {70000, 1, 1, 1, 3, 3}};
  for (const Case& each : cases)
    for (const int sign : {1, -1}) {
      Setup setup(each, random, true);
      const int taps = each.kernel * each.kernel;
      for (int pixel = 0; pixel < 9; ++pixel)
        for (int c = 0; c < each.in; ++c)
          setup.row(pixel / 3)[pixel % 3 * setup.stride + c] = static_cast<float>(
              sign * setup.model.binary.at("block").at(0, c * taps + (taps == 9 ? pixel : 0)));
      CHECK(accumulator(each, setup, 0, 1, 1) == sign * taps * each.in);
      check_accumulators(each, setup);
    }
}

// Sums and sums of squares of the outputs, from 0.5 on.
void check_sums(const Case& each, const std::vector<float>& output, int pixel_stride,
                const Aligned<float>& sums) {
  for (int o = 0; o < each.out; ++o) {
    double sum = 0.5, square = 0.5;
    for (int i = 0; i < each.height_out * each.width_out; ++i) {
      const auto value =
          static_cast<double>(output[static_cast<std::size_t>(i * pixel_stride + o)]);
      sum += value;
      square += value * value;
    }
    const auto at = static_cast<std::size_t>(o);
    const auto squares = static_cast<std::size_t>(padded(each.out) + o);
    CHECK_THAT(near(static_cast<double>(sums[at]), sum, 1e-6, 1 + std::abs(sum) + square) &&
                   near(static_cast<double>(sums[squares]), square, 1e-6, 1 + square),
               each.about() + text("o", o) + text("sum", sum) + text("square", square));
  }
}

// What is added to a block's outputs.
struct Additions {
  Additions(const Case& each, Random& random, const Conv& conv)
      : pixel_stride(padded(each.out) + kPanel),
        row_stride(each.width_out * pixel_stride),
        residual(random.floats(static_cast<std::size_t>(each.height_out * row_stride))),
        before(random.floats(residual.size())),
        added(random.floats(static_cast<std::size_t>(each.out))),
        bias(conv.bias(kGroup), conv.bias(kGroup) + padded(each.out)) {
    for (std::size_t o = 0; o < added.size(); ++o) bias[o] += added[o];
  }
  int pixel_stride, row_stride;
  std::vector<float> residual, before, added;
  Aligned<float> bias;
};

// Runs a block with each combination of what can be added to its outputs, and compares with
// wanted(o, y, x), which gives a value and the scale of its error.
template <class Wanted>
void check_outputs(const Case& each, Setup& setup, Random& random, const Conv& conv,
                   const Kernel& kernel, double tolerance, const Wanted& wanted) {
  const Additions more(each, random, conv);
  ThreadPool pool(1);
  Arena arena;
  Context context(kernel, pool, arena);
  context.time_group = kGroup;
  for (int what = 0; what < 4; ++what) {
    const bool with_residual = what & 1, accumulate = what & 2;
    std::vector<float> output = more.before;
    Aligned<float> sums(static_cast<std::size_t>(2 * padded(each.out)), 0.5f);
    RowsOut out{};
    out.output = output.data();
    out.row_stride = more.row_stride;
    out.pixel_stride = more.pixel_stride;
    out.bias = more.bias.data();
    out.residual = with_residual ? more.residual.data() : nullptr;
    out.accumulate = accumulate;
    out.sums = conv.sums() ? sums.data() : nullptr;
    run_rows(conv, setup, context, out);
    if (conv.sums()) check_sums(each, output, more.pixel_stride, sums);
    for (int y = 0; y < each.height_out; ++y)
      for (int x = 0; x < each.width_out; ++x)
        for (int o = 0; o < each.out; ++o) {
          const auto at = static_cast<std::size_t>(y * more.row_stride + x * more.pixel_stride + o);
          auto [value, scale] = wanted(o, y, x);
          value += static_cast<double>(more.added[static_cast<std::size_t>(o)]);
          if (with_residual) value += static_cast<double>(more.residual[at]);
          if (accumulate) value += static_cast<double>(more.before[at]);
          CHECK_THAT(near(static_cast<double>(output[at]), value, tolerance, 4 + scale),
                     each.about() + text("o", o) + text("y", y) + text("x", x) +
                         text("residual", with_residual) + text("accumulate", accumulate) +
                         text("found", static_cast<double>(output[at])) + text("wanted", value));
        }
  }
}

struct Value {
  double value, scale;
};

TEST(binary_convolution_finishes_its_outputs) {
  Random random(21);
  const std::vector<Case> cases{
      {17, 17, 3, 1, 9, 5},    {3, 3, 3, 1, 1, 1},   {64, 64, 3, 1, 7, 3},
      {70, 70, 1, 1, 5, 2},    {40, 40, 3, 1, 8, 2}, {6, 20, 3, 2, 3, 3},
      {33, 33, 3, 1, 3, 3, 7}, {32, 16, 1, 1, 9, 1}, {96, 96, 3, 1, 67, 2}};
  for (const Case& each : cases)
    for (const bool shortcut : {false, true}) {
      NetworkConfig config;
      config.identity_shortcut = shortcut;
      config.weight_gain = shortcut;
      Setup setup(each, random, true, config.weight_gain);
      const bool identity = shortcut && each.in == each.out && each.stride == 1;
      const auto value_of = [&](const char* name, int group, int o) {
        const auto at = static_cast<std::size_t>(group * each.out + o);
        return static_cast<double>(setup.model.values(std::string("block.") + name)[at]);
      };
      const auto wanted = [&](int o, int y, int x) -> Value {
        double value = accumulator(each, setup, o, y, x) * value_of("conv.weight.scale", 0, o);
        if (config.weight_gain) value *= value_of("gain", 0, o);
        value += value_of("activation.bias_in", kGroup, o);
        if (value < 0) value *= value_of("activation.slope", kGroup, o);
        value += value_of("activation.bias_out", kGroup, o);
        const double scale = std::abs(value);
        if (identity) value += setup.at(y, x, o);
        return {value, scale};
      };
      for_each_kernel([&](const Kernel& kernel) {
        const auto conv = load(config, setup.model, kernel, each, true);
        check_outputs(each, setup, random, *conv, kernel, 1e-6, wanted);
      });
    }
}

// What XNOR-Net multiplies an output by, zeros outside.
double mean_magnitude(const Case& each, Setup& setup, int y, int x) {
  double sum = 0;
  for (int c = 0; c < each.in; ++c)
    for (int row = 0; row < each.kernel; ++row)
      for (int column = 0; column < each.kernel; ++column)
        sum += std::abs(setup.at(y * each.stride + row - each.kernel / 2,
                                 x * each.stride + column - each.kernel / 2, c));
  return sum / (each.in * each.kernel * each.kernel);
}

TEST(binary_convolution_is_scaled_by_its_input) {
  Random random(26);
  NetworkConfig config;
  config.method = "xnor-net";
  for (const Case& each : awkward_cases()) {
    if (each.in * each.out > 4096) continue;  // whose loops take long
    Setup setup(each, random, true);
    const auto value_of = [&](const char* name, int group, int o) {
      const auto at = static_cast<std::size_t>(group * each.out + o);
      return static_cast<double>(setup.model.values(std::string("block.") + name)[at]);
    };
    // Computed once, for all kernels and whatever is added.
    std::vector<Value> values;
    for (int y = 0; y < each.height_out; ++y)
      for (int x = 0; x < each.width_out; ++x)
        for (int o = 0; o < each.out; ++o) {
          double value = accumulator(each, setup, o, y, x) * value_of("conv.weight.scale", 0, o) *
                             mean_magnitude(each, setup, y, x) +
                         value_of("activation.bias_in", kGroup, o);
          if (value < 0) value *= value_of("activation.slope", kGroup, o);
          value += value_of("activation.bias_out", kGroup, o);
          const double scale = std::abs(value);
          if (each.in == each.out && each.stride == 1) value += setup.at(y, x, o);
          values.push_back({value, scale});
        }
    const auto wanted = [&](int o, int y, int x) {
      return values[static_cast<std::size_t>((y * each.width_out + x) * each.out + o)];
    };
    for_each_kernel([&](const Kernel& kernel) {
      const auto conv = load(config, setup.model, kernel, each, true);
      check_outputs(each, setup, random, *conv, kernel, 1e-6, wanted);
    });
  }
}

TEST(plain_convolution_is_one) {
  Random random(22);
  const std::vector<Case> cases{{3, 5, 3, 1, 1, 1},   {16, 16, 3, 1, 2, 2}, {17, 17, 3, 1, 9, 5},
                                {6, 70, 3, 1, 7, 3},  {40, 3, 3, 1, 33, 2}, {2, 2, 3, 1, 75, 1},
                                {5, 16, 3, 2, 3, 3},  {16, 33, 3, 2, 5, 2}, {7, 7, 1, 1, 9, 2},
                                {32, 16, 1, 1, 3, 1}, {4, 130, 3, 1, 3, 4}};
  for (const Case& each : cases) {
    Setup setup(each, random, false);
    const std::vector<float>& weight = setup.model.values("block.conv.weight");
    const std::vector<float>& bias = setup.model.values("block.conv.bias");
    const auto wanted = [&](int o, int y, int x) -> Value {
      double sum = static_cast<double>(bias[static_cast<std::size_t>(o)]), scale = 0;
      for (int c = 0; c < each.in; ++c)
        for (int row = 0; row < each.kernel; ++row)
          for (int column = 0; column < each.kernel; ++column) {
            const int tap = (o * each.in + c) * each.kernel * each.kernel + row * each.kernel;
            const double product =
                static_cast<double>(weight[static_cast<std::size_t>(tap + column)]) *
                setup.at(y * each.stride + row - each.kernel / 2,
                         x * each.stride + column - each.kernel / 2, c);
            sum += product;
            scale += std::abs(product);
          }
      return {sum, scale};
    };
    for_each_kernel([&](const Kernel& kernel) {
      for (const bool fast : {false, true}) {
        const auto conv = load(NetworkConfig(), setup.model, kernel, each, false, fast);
        CHECK(!conv->binary);
        check_outputs(each, setup, random, *conv, kernel, fast && kernel.bfloat16 ? 2e-2 : 1e-6,
                      wanted);
      }
    });
  }
}

TEST(convolution_refuses_bad_tensors) {
  Random random(23);
  const Case each{5, 4, 3, 1, 1, 1};
  const auto load_it = [&](const RandomModel& model) {
    return load(NetworkConfig(), model, choose_kernel(""), each, true);
  };
  RandomModel model(random);
  model.conv("block", 5, 4, 3, true, 2);
  CHECK(load_it(model)->binary);
  for (const std::int32_t index : {-1, 4 * 5 * 9, 1 << 30, -(1 << 30)}) {
    RandomModel bad = model;
    bad.integers("block.conv.weight.zeros", {index});
    CHECK_THROWS(std::invalid_argument, load_it(bad), text("index", index));
  }
  NetworkConfig steps;
  steps.method = "dorefa";
  CHECK_THROWS(std::invalid_argument, load(steps, model, choose_kernel(""), each, true), "zeros");
  RandomModel none = model;
  none.floats("block.shift.bias", {0, 5});
  CHECK_THROWS(std::invalid_argument, load_it(none), "no time group");
  RandomModel flat = model;
  flat.floats("block.shift.bias", {5});
  CHECK_THROWS(std::invalid_argument, load_it(flat), "one dimension");
}

}  // namespace
}  // namespace bidiffsr::tests
