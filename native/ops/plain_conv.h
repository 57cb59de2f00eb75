// Full-precision convolutions with a bias.
#pragma once

#include <memory>
#include <string>

#include "ops/conv.h"

namespace bidiffsr {

// 3×3 at stride 1 by Winograd's method, which needs 2.25 or 4 times fewer products.
std::unique_ptr<Conv> load_winograd_conv(const LoadContext& from, const std::string& name, int in,
                                         int out);
// 3×3 at stride 1 in bfloat16 without transforms, where the kernel asks for it.
std::unique_ptr<Conv> load_direct_conv(const LoadContext& from, const std::string& name, int in,
                                       int out);
// Any other as one product of gathered rows.
std::unique_ptr<Conv> load_gathered_conv(const LoadContext& from, const std::string& name, int in,
                                         int out, int kernel, int stride);

// What follows the products of channels from `column` on, of `channels`, for results that go to
// `at` from where `out` says.
WinogradOutput results_at(const RowsOut& out, std::ptrdiff_t at, int column, int channels);

}  // namespace bidiffsr
