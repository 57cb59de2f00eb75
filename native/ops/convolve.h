// One convolution from a source right into features.
#pragma once

#include "ops/layer_epilogue.h"
#include "ops/row_loop.h"

namespace bidiffsr {

// `bias` is added per channel in place of the convolution's own; `residual` and `skip` may be null.
void convolve(Context& context, const Conv& conv, const Source& source, Features& features,
              Skip* skip, const float* bias, const Tensor* residual);

}  // namespace bidiffsr
