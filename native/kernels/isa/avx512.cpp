#include <immintrin.h>

#include "kernels/kernel.h"

namespace bidiffsr {
namespace {
#include "kernels/isa/avx512.h"

#include "kernels/generic/all.h"
}  // namespace

extern const Kernel kAvx512;
const Kernel kAvx512 = make_kernel("avx512");

}  // namespace bidiffsr
