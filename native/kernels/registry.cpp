#include <stdexcept>

#include "bidiffsr/kernels.h"
#include "kernels/kernel.h"

namespace bidiffsr {

#if defined(__x86_64__)
extern const Kernel kAvx512Bf16;
extern const Kernel kAvx512;
extern const Kernel kAvx2;
#elif defined(__aarch64__)
extern const Kernel kNeon;
#endif
extern const Kernel kPortable;

namespace {

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("fma");
}
#endif

std::vector<KernelInfo> find_kernels() {
  std::vector<KernelInfo> found;
  const auto add = [&](const Kernel& kernel, const char* needs, bool supported) {
    found.push_back({kernel.name, needs, supported, kernel.bfloat16, &kernel});
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  add(kAvx512Bf16, "AVX-512 F, BW, DQ, VL, VPOPCNTDQ, BF16",
      has_avx512() && __builtin_cpu_supports("avx512bf16"));
  add(kAvx512, "AVX-512 F, BW, DQ, VL, VPOPCNTDQ", has_avx512());
  add(kAvx2, "AVX2, FMA", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
#elif defined(__aarch64__)
  add(kNeon, "NEON", true);  // part of the architecture
#endif
  add(kPortable, "nothing", true);
  return found;
}

}  // namespace

const std::vector<KernelInfo>& kernels() {
  static const std::vector<KernelInfo> found = find_kernels();
  return found;
}

const Kernel& choose_kernel(const std::string& name) {
  std::string runnable;
  for (const KernelInfo& info : kernels()) {
    if (!info.supported) continue;
    if (name.empty() || name == info.name) return *info.kernel;
    runnable += (runnable.empty() ? "" : ", ") + info.name;
  }
  throw std::invalid_argument("kernel '" + name + "' cannot run here; this CPU has " + runnable);
}

}  // namespace bidiffsr
