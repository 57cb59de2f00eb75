#include "ops/row_loop.h"

namespace bidiffsr {

std::vector<BranchRows::Parts> BranchRows::reserve(const std::vector<Branch>& branches,
                                                   Scratch& scratch) {
  std::vector<Parts> parts;
  for (const Branch& branch : branches) {
    const std::size_t source = scratch.reserve(SourceRows::scratch(branch.source, *branch.conv));
    parts.push_back({source, scratch.reserve(branch.conv->scratch(branch.source.width()))});
  }
  return parts;
}

BranchRows::BranchRows(const Context& context, const std::vector<Branch>& branches,
                       const Scratch& scratch, const std::vector<Parts>& parts, int worker)
    : like_(*branches[0].conv) {
  sources_.reserve(branches.size());
  for (std::size_t i = 0; i < branches.size(); ++i) {
    const Conv& conv = *branches[i].conv;
    const Source& source = branches[i].source;
    sources_.emplace_back(context.kernel, source, conv, scratch.bytes(worker, parts[i].source));
    convs_.push_back(conv.open(context, source.width(), source.height(), sources_[i].pixel_stride(),
                               scratch.bytes(worker, parts[i].conv)));
  }
}

Layer layer_of(const std::vector<Branch>& branches, const char* kind) {
  const Conv& like = *branches[0].conv;
  const int width = branches[0].source.width(), height = branches[0].source.height();
  const std::int64_t pixels_out =
      static_cast<std::int64_t>(height / like.stride) * (width / like.stride);
  if (!kind) kind = like.binary ? "binary 3x3" : "float 3x3";
  Layer layer{kind, like.in, height, width, 0};
  for (const Branch& branch : branches) layer.macs += branch.conv->macs(pixels_out);
  return layer;
}

}  // namespace bidiffsr
