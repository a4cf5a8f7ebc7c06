// Fully connected layer, optionally with bias and a ReLU, which keeps NaN:
//   dst[n,k] = act(bias[k] + sum_i src[n,i] * weights[k,i])
//   where i runs over the source's c, h, w in row-major order whatever its layout in memory.
#pragma once

#include <string>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// Weights are k x (c*h*w), row-major; the bias has k elements (float32).
struct FullyConnected {
  TensorSpec src;  ///< n x c x h x w
  TensorSpec dst;  ///< n x k x 1 x 1, nchw, of src's type or float32
  bool bias = true;
};

/// "fully connected forward 8x64x1x1 float32 nchw -> ...".
[[nodiscard]] std::string describe_op(const char* op, const FullyConnected& fc);

/// What forward and backward take the weights as, for a source of `type`: float32, in which
/// parameters are kept, on cores; the source's type on CUDA. Their gradient is float32 on both.
[[nodiscard]] TensorSpec fully_connected_weights(const runtime::Shape& weights,
                                                 runtime::DataType type, Cpu);
[[nodiscard]] TensorSpec fully_connected_weights(const runtime::Shape& weights,
                                                 runtime::DataType type, Cuda);

/// run(src, weights, [bias,] dst)
struct FullyConnectedForward {
  FullyConnected fc;
  bool relu = false;
};

/// run(weights, d_dst, d_src): d_src is overwritten.
struct FullyConnectedBackwardData {
  FullyConnected fc;
};

/// run(src, d_dst, d_weights, [d_bias]): d_weights and d_bias are overwritten.
struct FullyConnectedBackwardWeights {
  FullyConnected fc;
};

[[nodiscard]] KernelPtr plan(const FullyConnectedForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const FullyConnectedForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const FullyConnectedBackwardData& op, Cpu);
[[nodiscard]] KernelPtr plan(const FullyConnectedBackwardData& op, Cuda);
[[nodiscard]] KernelPtr plan(const FullyConnectedBackwardWeights& op, Cpu);
[[nodiscard]] KernelPtr plan(const FullyConnectedBackwardWeights& op, Cuda);

}  // namespace stpt::codelets
