// Elementwise ops on tensors of one spec.
#pragma once

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

[[nodiscard]] KernelPtr plan(const ReluForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ReluForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const ReluBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ReluBackward& op, Cuda);
[[nodiscard]] KernelPtr plan(const Add& op, Cpu);
[[nodiscard]] KernelPtr plan(const Add& op, Cuda);

}  // namespace stpt::codelets
