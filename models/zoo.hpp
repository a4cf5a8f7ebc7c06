// The networks that a config can name.
//
// Those of torchvision call their layers, and thereby their parameters, what torchvision calls them
// ("layer1.0.conv1.weight"), and have torchvision's shapes.
#pragma once

#include <string>
#include <vector>

#include "models/network.hpp"

namespace stpt::models {

struct ModelInfo {
  std::string name;
  std::string description;
  Shape usual_input;  ///< for --list-models, and where a model is looked at before its data
};

struct ModelOptions {
  /// The last BatchNorm of each residual branch starts with gamma 0, so that a block starts as its
  /// shortcut (Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1).
  bool zero_gamma = false;
};

[[nodiscard]] const std::vector<ModelInfo>& available_models();

/// Throws std::invalid_argument if the name is unknown (naming the nearest), the network does not
/// fit the input, or the options do not fit the network.
[[nodiscard]] Network make_network(const std::string& name, const Shape& input, int classes,
                                   const ModelOptions& options = {});

}  // namespace stpt::models
