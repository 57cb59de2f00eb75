#include <stdexcept>

#include "bidiffsr/kernels.h"
#include "kernels/kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace bidiffsr {

#if defined(__x86_64__)
extern const Kernel kAvx512Amx;
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

// Linux lets a process use the tiles once it has asked, for they add 8 KB to what a thread's switch
// saves.
bool has_amx() {
#if defined(__linux__)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kBf16 | kTile)) != (kBf16 | kTile))
    return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of <asm/prctl.h>
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<KernelInfo> find_kernels() {
  std::vector<KernelInfo> found;
  const auto add = [&](const Kernel& kernel, const char* needs, bool supported) {
    found.push_back({kernel.name, needs, supported, kernel.bfloat16, &kernel});
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool bf16 = has_avx512() && __builtin_cpu_supports("avx512bf16");
  add(kAvx512Amx, "AVX-512 F, BW, DQ, VL, VPOPCNTDQ, BF16, AMX TILE, BF16", bf16 && has_amx());
  add(kAvx512Bf16, "AVX-512 F, BW, DQ, VL, VPOPCNTDQ, BF16", bf16);
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
