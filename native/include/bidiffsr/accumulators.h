// The integers of one binarized convolution, for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bidiffsr/tensors.h"

namespace bidiffsr {

// A square convolution with zero padding of half its size, whose tensors' names begin with "block".
struct BinaryConvShape {
  int in, height, width;  // of the input
  int out;
  int kernel_size;                   // 1 or 3
  int stride;                        // 1, or for 3×3 also 2; height and width are multiples of it
  std::string method = "bi-diffsr";  // what bits mean; of steps, accumulators are twice the sums
};

// Accumulators of the first time group, (out, height / stride, width / stride), of an input (in,
// height, width) on the kernel called `kernel`. Throws std::invalid_argument.
std::vector<std::int32_t> binary_accumulators(const float* x, const BinaryConvShape& shape,
                                              const Tensors& tensors, const std::string& kernel);

}  // namespace bidiffsr
