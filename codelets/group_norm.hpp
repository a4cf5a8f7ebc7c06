// Group normalisation (Wu & He 2018): the channels of each image, in groups of neighbouring ones,
// are normalised over the group and its pixels, with the residual addition and the ReLU that follow
// it fused in:
//   y = act(gamma * (x - mean) / sqrt(var + epsilon) + beta [+ residual])
// With as many groups as channels it is instance normalisation. It is the same in training and
// inference.
#pragma once

#include <cstddef>
#include <optional>

#include "codelets/elementwise.hpp"
#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

struct GroupNorm {
  TensorSpec x;    ///< also the spec of y and residual; on CUDA in nhwc
  int groups = 1;  ///< divides the channels
  bool relu = false;
  bool residual = false;
  float epsilon = 1e-5f;
  /// Instead of the ReLU, one that fuses_with_normalisations(); not with a residual.
  std::optional<Activation> function{};
  float slope = default_slope;  ///< of leaky_relu
};

/// Throws std::invalid_argument unless the groups divide the channels and have more than one value
/// each, and epsilon is a number of at least 0.
void require_valid(const GroupNorm& norm);

/// Bytes of what forward leaves to tell backward which values the ReLU has cut. 0 where backward
/// sees it in x or y.
[[nodiscard]] std::size_t group_norm_mask_bytes(const GroupNorm& norm, Cpu);
[[nodiscard]] std::size_t group_norm_mask_bytes(const GroupNorm& norm, Cuda);

/// run(x, [residual,] gamma, beta, y, mean, inverse_stddev, mask)
///
/// gamma and beta have c elements (float32). mean and inverse_stddev, of each image and channel its
/// group's (n x c, float32), and mask are what backward needs. mask may be nullptr, as where it
/// would have 0 bytes: then there is no backward.
struct GroupNormForward {
  GroupNorm norm;
};

/// run(x, mask, gamma, beta, mean, inverse_stddev, d_y, [d_y2,] d_x, [d_residual,] d_gamma, d_beta)
///
/// As BatchNormBackward.
struct GroupNormBackward {
  GroupNorm norm;
  bool two_parts = false;
};

[[nodiscard]] KernelPtr plan(const GroupNormForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const GroupNormForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const GroupNormBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const GroupNormBackward& op, Cuda);

}  // namespace stpt::codelets
