// How channels lie in memory.
#pragma once

#include "kernels/kernel.h"

namespace bidiffsr {

constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Floats from one pixel to the next.
constexpr int padded(int channels) { return round_up(channels, kPanel); }

}  // namespace bidiffsr
