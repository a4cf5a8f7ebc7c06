// A network's tensors by name, as PyTorch's state_dict has them: parameters, and of each BatchNorm
// "<layer>.running_mean" and "<layer>.running_var". The shapes are PyTorch's, and so is the order
// of the elements: row-major k x c x kh x kw for convolutions, outputs x inputs for fully connected
// layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/model_state.hpp"
#include "models/network.hpp"

namespace stpt::models {

/// A tensor's name and its place in ModelValues.
struct StateEntry {
  std::string name;
  std::vector<std::int64_t> dimensions;
  bool running = false;    ///< among the running statistics, not the parameters
  std::size_t bucket = 0;  ///< of a parameter
  std::size_t offset = 0;  ///< in elements

  [[nodiscard]] std::size_t elements() const;
  /// Where `values` hold it; `worker` says whose running statistics.
  [[nodiscard]] std::span<float> in(ModelValues& values, std::size_t worker = 0) const;
  [[nodiscard]] std::span<const float> in(const ModelValues& values, std::size_t worker = 0) const;
};

/// In the order of the layers.
[[nodiscard]] std::vector<StateEntry> state_dict(const Network& network);

}  // namespace stpt::models
