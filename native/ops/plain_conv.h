// Full-precision convolutions with a bias.
#pragma once

#include <memory>
#include <string>

#include "ops/conv.h"

namespace bidiffsr {

// 3×3 at stride 1 by Winograd's method, which needs 2.25 or 4 times fewer products.
std::unique_ptr<Conv> load_winograd_conv(const LoadContext& from, const std::string& name, int in,
                                         int out);
// Any other as one product of gathered rows.
std::unique_ptr<Conv> load_gathered_conv(const LoadContext& from, const std::string& name, int in,
                                         int out, int kernel, int stride);

}  // namespace bidiffsr
