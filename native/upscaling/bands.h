// How the rows of a picture are shared among threads.
#pragma once

#include <functional>

#include "bidiffsr/engine.h"

namespace bidiffsr {

// Does `task` with every band of rows [first, last) of `height`, on several threads at once.
using ForBands =
    std::function<void(int height, const std::function<void(int first, int last)>& task)>;

// On those of an engine, which has to outlive it; `poll` as in Engine.
ForBands bands_on(Engine& engine, Engine::Poll poll);

}  // namespace bidiffsr
