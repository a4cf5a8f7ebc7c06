// Batch normalisation over n, h, w for each channel (Ioffe & Szegedy 2015), with the residual
// addition and the ReLU that follow it fused in:
//   y = act(gamma * (x - mean) / sqrt(var + epsilon) + beta [+ residual])
#pragma once

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

enum class BatchNormMode {
  training,          ///< batch statistics; running statistics are updated
  batch_statistics,  ///< batch statistics; running statistics are neither read nor written
  inference,         ///< running statistics
};

struct BatchNorm {
  TensorSpec x;  ///< also the spec of y and residual
  bool relu = false;
  bool residual = false;
  float epsilon = 1e-5f;
  /// running = (1 - momentum) * running + momentum * batch (of the variance: the unbiased one)
  float momentum = 0.1f;
};

/// run(x, [residual,] gamma, beta, running_mean, running_variance, y, mean, inverse_stddev)
///
/// gamma ... running_variance, mean and inverse_stddev have c elements (float32, no padding). mean
/// and inverse_stddev are what backward needs; nullptr except in training mode. Unused running
/// statistics: nullptr. Batch statistics need n*h*w >= 2.
struct BatchNormForward {
  BatchNorm norm;
  BatchNormMode mode = BatchNormMode::training;
};

/// Gradient of the training mode. The gradient of y may come in two parts that are added on the fly
/// (a tensor with two readers).
/// run(x, y, gamma, beta, mean, inverse_stddev, d_y, [d_y2,] d_x, [d_residual,] d_gamma, d_beta)
///
/// y is read only with relu and residual together (else the mask follows from x), and may be
/// nullptr otherwise. d_residual is the gradient behind the ReLU, nullptr if nobody wants it. d_x,
/// d_residual, d_gamma, d_beta are overwritten. d_x or d_residual may be the same memory as d_y or
/// d_y2 (but not as each other).
struct BatchNormBackward {
  BatchNorm norm;
  bool two_parts = false;
};

[[nodiscard]] KernelPtr plan(const BatchNormForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const BatchNormForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const BatchNormBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const BatchNormBackward& op, Cuda);

}  // namespace stpt::codelets
