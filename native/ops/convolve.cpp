#include "ops/convolve.h"

namespace bidiffsr {

void convolve(Context& context, const Conv& conv, const Source& source, Features& features,
              Skip* skip, const float* bias, const Tensor* residual) {
  Scratch scratch;
  const LayerEpilogue epilogue(context, features, scratch, skip);
  row_loop(
      context, {{&conv, source}}, scratch,
      [&](std::size_t, int y, int worker) {
        RowsOut out = epilogue.begin(conv, y, worker, bias);
        if (residual && residual->bfloat16())
          out.bfloat16_residual = residual->bfloat16_row(y);
        else if (residual)
          out.residual = residual->row(y);
        return out;
      },
      [&](int y, int rows, int worker) { epilogue.end(conv, y, rows, worker); });
}

}  // namespace bidiffsr
