// The arrays of a packed model file.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bidiffsr {

// A named array of the packed file, contiguous, whose memory belongs to somebody else.
struct TensorView {
  enum class Type { kFloat32, kUint8, kInt32 };
  Type type;
  std::vector<std::int64_t> shape;
  const void* data;
};

// By the names of docs/format.md. Whoever asks for a tensor says what it must be;
// std::invalid_argument is thrown if it is missing or something else.
class Tensors {
 public:
  void add(std::string name, TensorView view) { views_[std::move(name)] = {std::move(view)}; }
  bool has(const std::string& name) const { return views_.count(name) != 0; }
  const float* floats(const std::string& name, const std::vector<std::int64_t>& shape) const;
  std::vector<float> copy(const std::string& name, const std::vector<std::int64_t>& shape) const;
  const std::uint8_t* bytes(const std::string& name, const std::vector<std::int64_t>& shape) const;
  // A list of any length.
  std::vector<std::int32_t> integers(const std::string& name) const;
  // First dimension of a tensor that has two.
  std::int64_t rows(const std::string& name) const;
  // The first name whose tensor nobody has asked for.
  std::optional<std::string> unread() const;

 private:
  const TensorView& find(const std::string& name) const;
  const void* get(const std::string& name, TensorView::Type type,
                  const std::vector<std::int64_t>& shape) const;

  struct Entry {
    TensorView view;
    mutable bool read = false;
  };
  std::map<std::string, Entry> views_;
};

}  // namespace bidiffsr
