#include "io/model_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "io/json.h"

namespace bidiffsr {

static_assert(std::endian::native == std::endian::little, "model files are little-endian");

namespace {

constexpr std::uint64_t kLargestHeader = 4u << 20;
constexpr std::size_t kLongestDescription = 1u << 16;
constexpr std::size_t kMostDimensions = 8;
constexpr float kLargestMagnitude = 1e6f;
constexpr std::string_view kSigns = ".conv.weight.signs", kScale = ".conv.weight.scale",
                           kZeros = ".conv.weight.zeros", kShift = ".shift.bias";

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

// A name without its suffix, or nothing.
std::optional<std::string> before(const std::string& name, std::string_view suffix) {
  if (!std::string_view(name).ends_with(suffix)) return std::nullopt;
  return name.substr(0, name.size() - suffix.size());
}

// What files of a binarization method hold (docs/format.md, "Methods").
struct StoredMethod {
  enum class Scale { kAny, kEqual, kOne, kPowerOfTwo };  // kEqual: in all of a layer
  const char* name;
  const char* epilogue;  // what the engine calls it
  bool one_set;          // of thresholds and RPReLUs, for all time groups
  bool bare;             // there are none: they are constant
  Scale scale;
  bool has_zeros;
  bool above_mean = false;  // bits are of what is above a channel's mean: no row of them is all 0
};
constexpr StoredMethod kMethods[] = {
    {"bi-diffsr", "bi-diffsr", false, false, StoredMethod::Scale::kAny, true},
    {"reactnet", "bi-diffsr", true, false, StoredMethod::Scale::kAny, true},
    {"bbcu", "bi-diffsr", true, false, StoredMethod::Scale::kAny, false},
    {"bi-real", "bi-diffsr", true, true, StoredMethod::Scale::kAny, true},
    {"bnn", "bi-diffsr", true, true, StoredMethod::Scale::kOne, false},
    {"ir-net", "bi-diffsr", true, true, StoredMethod::Scale::kPowerOfTwo, false},
    {"xnor-net", "xnor-net", true, true, StoredMethod::Scale::kAny, false},
    {"recu", "recu", true, true, StoredMethod::Scale::kOne, false, true},
    {"dorefa", "dorefa", true, true, StoredMethod::Scale::kEqual, false},
    {"dorefa-w1a2", "dorefa-w1a2", true, true, StoredMethod::Scale::kEqual, false},
    {"full-precision", "full-precision", true, false, StoredMethod::Scale::kAny, false},
};

const StoredMethod& stored_method(const std::string& name) {
  for (const StoredMethod& method : kMethods)
    if (name == method.name) return method;
  refuse("network.method: '" + shortened(name) + "' is none that the engine knows");
}

bool fits(const StoredMethod& method, float scale) {
  if (!(scale >= 0 && scale <= kLargestMagnitude)) return false;
  int exponent = 0;
  switch (method.scale) {
    case StoredMethod::Scale::kOne:
      return std::abs(scale - 1) <= 1e-5f;
    case StoredMethod::Scale::kPowerOfTwo:
      return scale == 0 || (scale <= 1 && std::frexp(scale, &exponent) == 0.5f);
    case StoredMethod::Scale::kEqual:
    case StoredMethod::Scale::kAny:
      break;
  }
  return true;
}

int first_number(const std::string& name) {
  const std::size_t at = name.find('.');
  const std::size_t digits =
      at == std::string::npos ? 0 : name.find_first_not_of("0123456789", at + 1) - at - 1;
  if (digits < 1 || digits > 2) return -1;
  return std::stoi(name.substr(at + 1, digits));
}

// Channels that a binarized convolution reads, of which the file says only how many it makes;
// 0 where the network has no such layer.
std::int64_t inputs_of(const NetworkConfig& config, const std::string& block,
                       std::int64_t outputs) {
  if (block.ends_with(".resample.conv")) {
    const int index = first_number(block);
    if (index < 0 || index >= config.levels()) return 0;
    return config.width(block.starts_with("down.") ? index : config.levels() - 1 - index);
  }
  const bool both = block.find(".fusions.") != std::string::npos && block.ends_with(".conv");
  return both ? 2 * outputs : outputs;
}
int taps_of(const std::string& block) {
  return block.find(".fusions.") != std::string::npos ? 1 : 9;
}

float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const int exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
  const float magnitude = exponent == 0x1f ? (fraction ? NAN : INFINITY)
                          : exponent
                              ? std::ldexp(static_cast<float>(0x400 | fraction), exponent - 25)
                              : std::ldexp(static_cast<float>(fraction), -24);
  return sign ? -magnitude : magnitude;
}

template <class T>
std::vector<T> values_of(std::span<const std::byte> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<float> floats_of(const std::string& dtype, std::span<const std::byte> bytes) {
  if (dtype == "F32") return values_of<float>(bytes);
  const std::vector<std::uint16_t> halves = values_of<std::uint16_t>(bytes);
  std::vector<float> values(halves.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = dtype == "F16" ? half_to_float(halves[i])
                               : std::bit_cast<float>(static_cast<std::uint32_t>(halves[i]) << 16);
  return values;
}

// The least number that is rounded to `level` of `highest` or more, as training rounds.
float least_at(int level, int highest) {
  const auto steps = static_cast<float>(highest);
  float least = (static_cast<float>(level) - 0.5f) / steps * (1 - 1e-6f);
  while (std::nearbyint(least * steps) < static_cast<float>(level))
    least = std::nextafter(least, 1.0f);
  return least;
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) >> 6) != 2; }));
}

std::string description_of(const JsonObject& header) {
  const Json* metadata = find_member(header, "__metadata__");
  const JsonObject nothing;
  if (metadata && !metadata->object()) refuse("its metadata are not texts by name");
  const JsonObject& texts = metadata ? *metadata->object() : nothing;
  for (const JsonMember& member : texts)
    if (!member.value.text()) refuse("its metadata are not texts by name");
  const Json* description = find_member(texts, "bidiffsr");
  if (!description)
    refuse("is no bidiffsr model; a published checkpoint has to go through `bidiffsr pack`");
  if (const Json* version = find_member(texts, "bidiffsr.format");
      version && *version->text() != "1")
    refuse("is of format version " + shortened(*version->text()) +
           ", this library reads version 1; upgrade it");
  if (characters(*description->text()) > kLongestDescription)
    refuse("header: its JSON takes more than " + std::to_string(kLongestDescription) +
           " characters");
  return *description->text();
}

}  // namespace

struct ModelFile::Entry {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;

  std::span<const std::byte> of(std::span<const std::byte> data) const {
    return data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  }
  void expect_dtype(std::initializer_list<std::string_view> wanted) const {
    std::string known;
    for (const std::string_view each : wanted) {
      if (dtype == each) return;
      known += (known.empty() ? "" : " or ") + std::string(each);
    }
    refuse(shortened(name) + ": is " + shortened(dtype) + ", expected " + known);
  }
  static Entry read(const JsonMember& member);
};

ModelFile::Entry ModelFile::Entry::read(const JsonMember& member) {
  const std::string where = shortened(member.name);
  const auto wholes = [&](const Json* json) {
    std::vector<std::int64_t> numbers;
    if (!json || !json->list() || json->list()->size() > kMostDimensions)
      refuse(where + ": expected a shape of at most 8 whole numbers, and two data_offsets");
    for (const Json& each : *json->list()) {
      if (!each.whole() || *each.whole() < 0)
        refuse(where + ": expected whole numbers for shape and data_offsets");
      numbers.push_back(*each.whole());
    }
    return numbers;
  };
  const JsonObject* fields = member.value.object();
  if (!fields || fields->size() != 3) refuse(where + ": expected dtype, shape and data_offsets");
  const Json* dtype = find_member(*fields, "dtype");
  if (!dtype || !dtype->text()) refuse(where + ": expected a dtype by name");
  Entry entry{member.name, *dtype->text(), wholes(find_member(*fields, "shape"))};
  const std::vector<std::int64_t> offsets = wholes(find_member(*fields, "data_offsets"));
  if (offsets.size() != 2) refuse(where + ": expected two data_offsets");
  entry.begin = offsets[0], entry.end = offsets[1];
  std::int64_t bytes = entry.dtype == "U8"                             ? 1
                       : entry.dtype == "BF16" || entry.dtype == "F16" ? 2
                                                                       : 4;
  if (bytes == 4) entry.expect_dtype({"F32", "BF16", "F16", "I32", "U8"});
  // A size of 0 may stand behind those whose product is too large.
  const bool empty = std::count(entry.shape.begin(), entry.shape.end(), 0) > 0;
  for (const std::int64_t size : entry.shape)
    if (!empty && __builtin_mul_overflow(bytes, size, &bytes))
      refuse(where + ": is larger than any file");
  if (entry.begin > entry.end || entry.end - entry.begin != (empty ? 0 : bytes))
    refuse(where + ": has another number of bytes than its shape takes");
  return entry;
}

ModelFile::ModelFile(std::span<const std::byte> bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) refuse("is no safetensors file: it has no header");
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kLargestHeader || length > bytes.size() - sizeof length)
    refuse("is no sound safetensors file: its header takes " + std::to_string(length) + " bytes");
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof length,
                              static_cast<std::size_t>(length));
  if (!text.starts_with('{')) refuse("is no sound safetensors file: its header is no JSON object");
  const Json header = parse_json(text);
  const std::span<const std::byte> data =
      bytes.subspan(sizeof length + static_cast<std::size_t>(length));
  std::vector<Entry> entries;
  for (const JsonMember& member : *header.object())
    if (member.name != "__metadata__") entries.push_back(Entry::read(member));
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::int64_t reached = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != reached)
      refuse(shortened(entry.name) + ": begins at byte " + std::to_string(entry.begin) +
             ", expected " + std::to_string(reached) + ", where the tensor before it ends");
    reached = entry.end;
  }
  if (static_cast<std::uint64_t>(reached) != data.size())
    refuse("its tensors take " + std::to_string(reached) + " bytes, but " +
           std::to_string(data.size()) + " are there");
  config_ = read_model_config(description_of(*header.object()));
  read_tensors(entries, data);
  config_.network.method = stored_method(config_.network.method).epilogue;
}

void ModelFile::read_tensors(const std::vector<Entry>& entries, std::span<const std::byte> data) {
  const StoredMethod& method = stored_method(config_.network.method);
  std::map<std::string, const Entry*> zeros;
  for (const Entry& entry : entries)
    if (const auto block = before(entry.name, kZeros)) zeros[*block] = &entry;
  for (const Entry& entry : entries) {
    if (before(entry.name, kZeros)) continue;
    if (const auto block = before(entry.name, kSigns)) {
      const auto found = zeros.find(*block);
      const Entry* listed = found == zeros.end() ? nullptr : found->second;
      std::vector<std::int32_t> indices;
      if (listed) {
        listed->expect_dtype({"I32"});
        if (!method.has_zeros) refuse(listed->name + ": its method has none");
        indices = values_of<std::int32_t>(listed->of(data));
        zeros.erase(found);
      }
      read_signs(entry, data, listed, indices);
      continue;
    }
    const bool scale = before(entry.name, kScale).has_value();
    if (scale)
      entry.expect_dtype({"F32"});
    else
      entry.expect_dtype({"F32", "BF16", "F16"});
    std::vector<float> values = floats_of(entry.dtype, entry.of(data));
    for (const float value : values) {
      if (!(std::abs(value) <= kLargestMagnitude))
        refuse(shortened(entry.name) + ": holds NaN, infinity or magnitudes above 1e6");
      if (scale && !fits(method, value))
        refuse(shortened(entry.name) + ": holds what is no scale of its method");
    }
    if (scale && method.scale == StoredMethod::Scale::kEqual)
      for (const float value : values)
        if (std::abs(value - values[0]) > 1e-5f * values[0])
          refuse(shortened(entry.name) + ": holds several scales, expected one for the layer");
    if (!entry.shape.empty()) check_time_groups(entry.name, entry.shape[0]);
    keep_floats(entry.name, entry.shape, std::move(values));
  }
  if (!zeros.empty()) refuse(shortened(zeros.begin()->second->name) + ": is of no packed weight");
}

void ModelFile::read_signs(const Entry& entry, std::span<const std::byte> data, const Entry* zeros,
                           const std::vector<std::int32_t>& indices) {
  entry.expect_dtype({"U8"});
  const std::string block = *before(entry.name, kSigns);
  std::vector<std::uint8_t>& signs = bytes_.emplace_back(values_of<std::uint8_t>(entry.of(data)));
  tensors_.add(entry.name, {TensorView::Type::kUint8, entry.shape, signs.data()});
  if (entry.shape.size() != 2 || entry.shape[0] > (1 << 20)) return;  // which the engine refuses
  const std::int64_t outputs = entry.shape[0], row = entry.shape[1];
  const std::int64_t inputs = inputs_of(config_.network, block, outputs);
  const std::int64_t columns = inputs * taps_of(block);
  if (row != (columns + 7) / 8) return;  // so here
  if (const int padding = columns % 8 ? 0xff >> columns % 8 : 0)
    for (std::int64_t o = 1; o <= outputs; ++o)
      if (signs[static_cast<std::size_t>(o * row - 1)] & padding)
        refuse(shortened(entry.name) + ": has padding bits that are not 0");
  if (stored_method(config_.network.method).above_mean)
    for (auto from = signs.begin(); from != signs.end(); from += row)
      if (std::all_of(from, from + row, [](std::uint8_t byte) { return byte == 0; }))
        refuse(shortened(entry.name) + ": has a row of bits that no weight has");
  if (zeros) {
    if (indices.empty()) refuse(shortened(zeros->name) + ": is empty, expected to be left out");
    std::int64_t last = -1;
    for (const std::int32_t index : indices) {
      if (index <= last || index >= outputs * columns)
        refuse(shortened(zeros->name) + ": expected ascending indices below " +
               std::to_string(outputs * columns));
      last = index;
      // The engine takes for granted that the bit of a zero says +1.
      const std::int64_t place = index % columns;
      signs[static_cast<std::size_t>(index / columns * row + place / 8)] |=
          static_cast<std::uint8_t>(0x80 >> place % 8);
    }
    tensors_.add(zeros->name,
                 {TensorView::Type::kInt32, zeros->shape, integers_.emplace_back(indices).data()});
  }
  if (stored_method(config_.network.method).bare) add_constants(block, inputs, outputs);
}

void ModelFile::keep_floats(const std::string& name, std::vector<std::int64_t> shape,
                            std::vector<float> values) {
  const float* kept = floats_.emplace_back(std::move(values)).data();
  tensors_.add(name, {TensorView::Type::kFloat32, std::move(shape), kept});
}

void ModelFile::check_time_groups(const std::string& name, std::int64_t groups) const {
  const bool shift = name.ends_with(kShift);
  if (!shift && name.find(".activation.") == std::string::npos) return;
  const StoredMethod& method = stored_method(config_.network.method);
  if (method.bare) refuse(shortened(name) + ": is no part of this network");
  const bool by_time = shift ? config_.shift_by_time : config_.activation_by_time;
  const std::int64_t expected = by_time && !method.one_set ? config_.network.time_groups : 1;
  if (groups != expected)
    refuse(shortened(name) + ": has " + std::to_string(groups) + " rows, expected " +
           std::to_string(expected));
}

// A threshold of 0, or those of steps, and an RPReLU that changes nothing.
void ModelFile::add_constants(const std::string& block, std::int64_t inputs, std::int64_t outputs) {
  const auto constant = [&](const char* name, std::int64_t channels, float value) {
    keep_floats(block + name, {1, channels},
                std::vector<float>(static_cast<std::size_t>(channels), value));
  };
  const bool steps = config_.network.method == "dorefa";
  const bool two_bits = config_.network.method == "dorefa-w1a2";
  constant(".shift.bias", inputs, steps ? -least_at(1, 1) : two_bits ? -least_at(2, 3) : 0.0f);
  if (two_bits) {
    constant(".shift.lower", inputs, -least_at(1, 3));
    constant(".shift.upper", inputs, -least_at(3, 3));
  }
  constant(".activation.bias_in", outputs, 0);
  constant(".activation.slope", outputs, 1);
  constant(".activation.bias_out", outputs, 0);
}

std::string shortened(std::string_view text) {
  std::string result(text.substr(0, 120));
  for (char& letter : result)
    if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f) letter = '?';
  return text.size() > 120 ? result + "..." : result;
}

std::vector<std::byte> read_file(const std::string& path) {
  // Not a pipe, which would be waited for.
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    refuse(shortened(path) + ": no such file; check the path");
  const auto size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  std::vector<std::byte> bytes(error ? 0 : static_cast<std::size_t>(size));
  if (error ||
      !file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size())))
    refuse(shortened(path) + ": cannot be read");
  return bytes;
}

}  // namespace bidiffsr
