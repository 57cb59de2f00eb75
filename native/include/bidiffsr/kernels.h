// The table of instruction sets, and which of them this CPU can run.
#pragma once

#include <string>
#include <vector>

namespace bidiffsr {

struct Kernel;

struct KernelInfo {
  std::string name;
  std::string needs;  // CPU features, for people
  bool supported;     // by this CPU and operating system
  bool bfloat16;      // whether it has products in bfloat16
  const Kernel* kernel;
};

// Every kernel built for this architecture, the fastest first.
const std::vector<KernelInfo>& kernels();

// The kernel called `name`, or the fastest supported one where it is empty.
// Throws std::invalid_argument for an unknown or unsupported name, listing what there is.
const Kernel& choose_kernel(const std::string& name);

}  // namespace bidiffsr
