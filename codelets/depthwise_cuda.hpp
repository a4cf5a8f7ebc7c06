// Depthwise convolutions on CUDA by kernels of this program, in nhwc: for most of them in float32
// and bfloat16 cuDNN 9 names its reference engine.
#pragma once

#include <string>

#include "codelets/conv2d.hpp"

namespace stpt::codelets::depthwise {

/// Whether each channel has one filter, of its own.
[[nodiscard]] bool is_depthwise(const Conv2d& conv);

// Kernels for such a convolution, of any window. It is consistent; its tensors, and the weights
// (c x 1 x height x width, row-major), are of one type. Sums are float32, and
// the same bits at each run and on each device. `what` names the op in errors:
// std::invalid_argument if a tensor or the kernel is too large.

/// run(src, weights, [bias,] dst); the bias, float32, is added before the one rounding.
[[nodiscard]] KernelPtr plan_forward(const Conv2d& conv, bool relu, const std::string& what);

/// run(weights, d_dst, d_src)
[[nodiscard]] KernelPtr plan_backward_data(const Conv2d& conv, const std::string& what);

/// run(src, d_dst, d_weights); no d_bias.
[[nodiscard]] KernelPtr plan_backward_weights(const Conv2d& conv, const std::string& what);

}  // namespace stpt::codelets::depthwise
