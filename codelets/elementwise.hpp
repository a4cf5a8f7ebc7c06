// Elementwise ops on tensors of one spec, and sums over flat buffers.
#pragma once

#include <cstddef>
#include <vector>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// y = max(x, 0), where NaN stays NaN. run(x, y); y may be x.
struct ReluForward {
  TensorSpec x;
};

/// d_x = y > 0 ? d_y : 0. run(y, d_y, d_x); d_x may be d_y.
struct ReluBackward {
  TensorSpec x;
};

/// y = a + b, with ReLU if `relu`. run(a, b, y); y may be a or b.
struct Add {
  TensorSpec x;
  bool relu = false;
};

/// The same values in another layout; on CUDA also in another data type (rounded to nearest even),
/// and with more channels, which are 0, or fewer, where the last ones are left out. run(src, dst)
struct Reorder {
  TensorSpec src;
  TensorSpec dst;
};

/// Several reorders between some buffers: one launch on CUDA, where all have the same two types.
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

/// All bytes 0. run(x)
struct Clear {
  std::size_t bytes = 0;
};

[[nodiscard]] KernelPtr plan(const ReluForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ReluForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const ReluBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ReluBackward& op, Cuda);
[[nodiscard]] KernelPtr plan(const Add& op, Cpu);
[[nodiscard]] KernelPtr plan(const Add& op, Cuda);
[[nodiscard]] KernelPtr plan(const Reorder& op, Cpu);
[[nodiscard]] KernelPtr plan(const Reorder& op, Cuda);
[[nodiscard]] KernelPtr plan(const Reorders& op, Cpu);
[[nodiscard]] KernelPtr plan(const Reorders& op, Cuda);
[[nodiscard]] KernelPtr plan(const Clear& op, Cpu);
[[nodiscard]] KernelPtr plan(const Clear& op, Cuda);

}  // namespace stpt::codelets
