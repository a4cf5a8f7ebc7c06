// What CUDA's convolutions and matrix products leave to be done on each channel (c; for a matrix a
// column). The tensors are in nhwc, the biases and sums float32.
#pragma once

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

/// x += bias of the channel, then ReLU if `relu`, which keeps NaN (as the libraries' own does not).
/// run(bias, x): in place.
struct AddBias {
  runtime::TensorSpec x;
  bool relu = false;
};

/// The sum over each channel. run(x, sums)
struct ChannelSums {
  runtime::TensorSpec x;
};

[[nodiscard]] KernelPtr plan(const AddBias& op, Cuda);
[[nodiscard]] KernelPtr plan(const ChannelSums& op, Cuda);

}  // namespace stpt::codelets
