// What each layer of a network costs.
#pragma once

#include <map>
#include <string>

namespace bidiffsr {

struct LayerCost {
  double seconds = 0;
  double macs = 0;  // multiply-accumulates
};
// By kind and size of the layers, those of one name together.
using Profile = std::map<std::string, LayerCost>;

}  // namespace bidiffsr
