// Multiplies each channel of an image by a number of its own, as squeeze-and-excitation does (Hu et
// al. 2018, equation 4):
//   y[n,c,i,j] = x[n,c,i,j] * factor[n,c]
//   d_x[n,c,i,j] = d_y[n,c,i,j] * factor[n,c]
//   d_factor[n,c] = sum_{i,j} d_y[n,c,i,j] * x[n,c,i,j]
#pragma once

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// What the factors are in memory: n x c x 1 x 1 of x's type and layout. On CUDA x is in nhwc.
[[nodiscard]] TensorSpec multiply_factors(const TensorSpec& x);

/// run(x, factors, y); y may be x.
struct MultiplyForward {
  TensorSpec x;
};

/// run(x, factors, d_y, d_x, d_factors): d_x may be d_y, or null.
struct MultiplyBackward {
  TensorSpec x;
};

[[nodiscard]] KernelPtr plan(const MultiplyForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const MultiplyForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const MultiplyBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const MultiplyBackward& op, Cuda);

}  // namespace stpt::codelets
