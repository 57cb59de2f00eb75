#include "bidiffsr/tensors.h"

#include <stdexcept>

namespace bidiffsr {

namespace {
std::string describe(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}
}  // namespace

const TensorView& Tensors::find(const std::string& name) const {
  const auto found = views_.find(name);
  if (found == views_.end()) throw std::invalid_argument(name + ": missing");
  found->second.read = true;
  return found->second.view;
}

std::optional<std::string> Tensors::unread() const {
  for (const auto& [name, entry] : views_)
    if (!entry.read) return name;
  return std::nullopt;
}

const void* Tensors::get(const std::string& name, TensorView::Type type,
                         const std::vector<std::int64_t>& shape) const {
  const TensorView& view = find(name);
  if (view.type != type) throw std::invalid_argument(name + ": has the wrong type");
  if (view.shape != shape)
    throw std::invalid_argument(name + ": has shape " + describe(view.shape) + ", expected " +
                                describe(shape));
  return view.data;
}

const float* Tensors::floats(const std::string& name,
                             const std::vector<std::int64_t>& shape) const {
  return static_cast<const float*>(get(name, TensorView::Type::kFloat32, shape));
}

std::vector<float> Tensors::copy(const std::string& name,
                                 const std::vector<std::int64_t>& shape) const {
  const float* data = floats(name, shape);
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return {data, data + count};
}

const std::uint8_t* Tensors::bytes(const std::string& name,
                                   const std::vector<std::int64_t>& shape) const {
  return static_cast<const std::uint8_t*>(get(name, TensorView::Type::kUint8, shape));
}

std::vector<std::int32_t> Tensors::integers(const std::string& name) const {
  const TensorView& view = find(name);
  const std::int64_t count = view.shape.empty() ? 0 : view.shape[0];
  const auto* data = static_cast<const std::int32_t*>(get(name, TensorView::Type::kInt32, {count}));
  return {data, data + count};
}

std::int64_t Tensors::rows(const std::string& name) const {
  const TensorView& view = find(name);
  if (view.shape.size() != 2)
    throw std::invalid_argument(name + ": has shape " + describe(view.shape) +
                                ", expected two dimensions");
  return view.shape[0];
}

}  // namespace bidiffsr
