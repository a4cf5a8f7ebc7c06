// The networks that a config can name.
#pragma once

#include <string>
#include <vector>

#include "models/network.hpp"

namespace stpt::models {

struct ModelInfo {
  std::string name;
  std::string description;
  Shape usual_input;  ///< for --list-models
};

[[nodiscard]] const std::vector<ModelInfo>& available_models();

/// Throws std::invalid_argument if the name is unknown (naming the nearest) or the network does not
/// fit the input.
[[nodiscard]] Network make_network(const std::string& name, const Shape& input, int classes);

}  // namespace stpt::models
