// Batch normalisation over n, h, w for each channel (Ioffe & Szegedy 2015), with the residual
// addition and the ReLU that follow it fused in:
//   y = act(gamma * (x - mean) / sqrt(var + epsilon) + beta [+ residual])
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "codelets/elementwise.hpp"
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
  TensorSpec x;  ///< also the spec of y and residual; on CUDA in nhwc
  bool relu = false;
  bool residual = false;
  float epsilon = 1e-5f;
  /// running = (1 - momentum) * running + momentum * batch (of the variance: the unbiased one);
  /// with 1 it is not read
  float momentum = 0.1f;
  /// Instead of the ReLU, one that fuses_with_normalisations(); not with a residual.
  std::optional<Activation> function{};
  float slope = default_slope;  ///< of leaky_relu
};

/// What all implementations ask of the settings: throws std::invalid_argument, which begins with
/// `what`, for an epsilon that is no number of at least 0, and for fewer values of a channel than
/// batch statistics need.
void require_valid(const std::string& what, const BatchNorm& norm, BatchNormMode mode);

/// Bytes of what forward leaves to tell backward which values the ReLU has cut. 0 where backward
/// sees it in x or y.
[[nodiscard]] std::size_t batch_norm_mask_bytes(const BatchNorm& norm, Cpu);
[[nodiscard]] std::size_t batch_norm_mask_bytes(const BatchNorm& norm, Cuda);

/// run(x, [residual,] gamma, beta, running_mean, running_variance, y, mean, inverse_stddev, mask)
///
/// gamma ... running_variance, mean and inverse_stddev have c elements (float32, no padding). mean,
/// inverse_stddev and mask are what backward needs; nullptr except in training mode, mask also
/// where it would have 0 bytes. Unused running statistics: nullptr. Batch statistics need n*h*w
/// >= 2.
struct BatchNormForward {
  BatchNorm norm;
  BatchNormMode mode = BatchNormMode::training;
};

/// Gradient of the training mode. The gradient of y may come in two parts that are added on the fly
/// (a tensor with two readers).
/// run(x, mask, gamma, beta, mean, inverse_stddev, d_y, [d_y2,] d_x, [d_residual,] d_gamma, d_beta)
///
/// mask is read only with relu and residual together (else it follows from x), and may be nullptr
/// otherwise: forward's, or y where there is none. d_residual is the gradient behind the ReLU,
/// nullptr if nobody wants it. d_x, d_residual, d_gamma, d_beta are overwritten. d_x or d_residual
/// may be the same memory as d_y or d_y2 (but not as each other).
struct BatchNormBackward {
  BatchNorm norm;
  bool two_parts = false;
};

[[nodiscard]] KernelPtr plan(const BatchNormForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const BatchNormForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const BatchNormBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const BatchNormBackward& op, Cuda);

}  // namespace stpt::codelets
