// Layer normalisation (Ba et al. 2016) across the channels of each pixel, as ConvNeXt has it (Liu
// et al. 2022, section 2.6):
//   y[n,c,i,j] = gamma[c] * (x[n,c,i,j] - mean[n,i,j]) / sqrt(var[n,i,j] + epsilon) + beta[c]
// It is the same in training and inference.
#pragma once

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

struct LayerNorm {
  TensorSpec x;  ///< also the spec of y; in nhwc, or on cores in nchw8c or nchw16c
  float epsilon = 1e-5f;
};

/// Throws std::invalid_argument unless there is more than one channel and epsilon is a number of at
/// least 0.
void require_valid(const LayerNorm& norm);

/// Replaces a layout that it cannot have.
void choose_layout(LayerNorm& norm, Cpu);
void choose_layout(LayerNorm& norm, Cuda);

/// run(x, gamma, beta, y, mean, inverse_stddev)
///
/// gamma and beta have c elements; mean and inverse_stddev, a number for each pixel of each image
/// (n x h x w), are what backward needs. All four are float32.
struct LayerNormForward {
  LayerNorm norm;
};

/// run(x, gamma, mean, inverse_stddev, d_y, d_x, d_gamma, d_beta); d_x may be d_y.
struct LayerNormBackward {
  LayerNorm norm;
};

[[nodiscard]] KernelPtr plan(const LayerNormForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const LayerNormForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const LayerNormBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const LayerNormBackward& op, Cuda);

}  // namespace stpt::codelets
