// The first step of lowering: which layers are one op, so that what lies between them is never
// written to memory.
#pragma once

#include <optional>
#include <vector>

#include "models/network.hpp"

namespace stpt::models {

/// A layer with what is fused into its op:
///   output = activation?(layer(inputs) + residual?)
struct FusedLayer {
  const Layer* layer;
  bool relu = false;  ///< behind a convolution, normalisation, fully connected or add
  const Layer* activation = nullptr;     ///< another one, behind a normalisation without a residual
  std::optional<ActivationId> residual;  ///< what an add adds to a normalisation
  ActivationId output;                   ///< of the last layer
};

/// All layers of the network, which is to outlive them, in an order that computes inputs first.
[[nodiscard]] std::vector<FusedLayer> fuse_layers(const Network& network);

}  // namespace stpt::models
