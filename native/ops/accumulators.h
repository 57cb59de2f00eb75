// The integers of a binarized convolution, for tests.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/conv.h"

namespace bidiffsr {

// Of x, [height][width][padded(in)]: [height / stride][width / stride][padded(out)]. Throws
// std::invalid_argument where the convolution is not binarized.
std::vector<std::int32_t> accumulators(const Conv& conv, const Context& context, const float* x,
                                       int height, int width);

}  // namespace bidiffsr
