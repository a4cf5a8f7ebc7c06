// The same values in another layout, data type or number of channels.
#pragma once

#include <cstddef>
#include <vector>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// The same values in another layout; on CUDA also in another data type (rounded to nearest even),
/// and with more channels, which are 0, or fewer, where the last ones are left out. run(src, dst)
struct Reorder {
  TensorSpec src;
  TensorSpec dst;
};

/// Several reorders between some buffers: on CUDA, where all have the same two types, one launch
/// for every 64.
/// run(the sources..., the destinations...)
struct Reorders {
  struct Place {
    std::size_t buffer = 0;  ///< number among the sources or destinations
    std::size_t offset = 0;  ///< in bytes
  };
  struct Part {
    Reorder reorder;
    Place src, dst;
  };
  std::size_t sources = 1, destinations = 1;
  std::vector<Part> parts;
};

[[nodiscard]] KernelPtr plan(const Reorder& op, Cpu);
[[nodiscard]] KernelPtr plan(const Reorder& op, Cuda);
[[nodiscard]] KernelPtr plan(const Reorders& op, Cpu);
[[nodiscard]] KernelPtr plan(const Reorders& op, Cuda);

}  // namespace stpt::codelets
