#include <immintrin.h>

#include "kernels/kernel.h"

namespace bidiffsr {
namespace {
#include "kernels/isa/avx512_bf16.h"
}  // namespace

extern const Kernel kAvx512Bf16;
const Kernel kAvx512Bf16 = make_bf16_kernel("avx512_bf16");

}  // namespace bidiffsr
