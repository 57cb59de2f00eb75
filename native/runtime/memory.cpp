#include "runtime/memory.h"

#include <cstddef>
#include <cstdlib>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace bidiffsr {

void keep_freed_blocks() {
#if defined(__GLIBC__)
  // The largest, with what malloc adds to it, that glibc takes for a measure (mallopt(3),
  // M_MMAP_THRESHOLD, "dynamic"). It is never touched, and so takes no memory.
  constexpr std::size_t kLargest = (std::size_t{32} << 20) - (std::size_t{64} << 10);
  void* volatile block = std::malloc(kLargest);  // volatile, or the pair would be left out
  std::free(block);
#endif
}

void return_freed_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace bidiffsr
