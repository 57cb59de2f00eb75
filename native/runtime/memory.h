// What this process does with memory that it has freed.
#pragma once

namespace bidiffsr {

// Have freed blocks kept for the next ones, up to 32 MB each, where glibc would hand them back and
// fetch them anew, page by page. glibc comes to this by itself as soon as a block of that size was
// freed, and not where the program or its environment has set its thresholds: so one is.
void keep_freed_blocks();

// Hand back what has been freed, as far as the system's allocator can.
void return_freed_memory();

}  // namespace bidiffsr
