// 2-D convolution (cross-correlation), optionally with bias and a fused ReLU, which keeps NaN.
//   dst[n,k,y,x] = act(bias[k] + sum_{c,i,j} weights[k,c,i,j] * src[n,first(k)+c,sy,sx])
//   where sy = y*stride - padding + i*dilation, with the height's numbers, and sx likewise with the
//   width's; outside the source is zero.
//   Filters and channels come in as many groups: a filter sees those channels, from first(k) on,
//   whose group is its own.
#pragma once

#include <cstdint>
#include <string>

#include "codelets/kernel.hpp"
#include "codelets/window.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// Geometry shared by the three convolution ops. On CUDA src and dst are in nhwc.
struct Conv2d {
  TensorSpec src;  ///< n x c x h x w
  TensorSpec dst;  ///< n x k x oh x ow; layout `any` until choose_layout()
  Window window;
  bool bias = false;
  int groups = 1;  ///< as many as channels: depthwise

  /// k x c / groups x the kernel's height x width
  [[nodiscard]] runtime::Shape weights() const {
    return {dst.shape.c, src.shape.c / groups, window.kernel.h, window.kernel.w};
  }
};

/// "conv2d forward 8x3x32x32 float32 nchw -> ..., kernel 3x3, stride 1, padding 1", and ", 4
/// groups" of more than one.
[[nodiscard]] std::string describe_op(const char* op, const Conv2d& conv);

/// Output shape for a source of shape `src`; throws std::invalid_argument if the kernel does not
/// fit or the groups are not equal.
[[nodiscard]] runtime::Shape conv2d_output(const runtime::Shape& src, std::int64_t filters,
                                           const Window& window, int groups = 1);

/// Fills conv.dst.layout with the layout the implementation computes fastest.
void choose_layout(Conv2d& conv, Cpu);
void choose_layout(Conv2d& conv, Cuda);

/// Channels that images of `type` are best given to convolutions with, those beyond `channels`
/// being 0. On CUDA half-precision ones get a multiple of 8: of others cuDNN's tensor-core kernels
/// make a copy that has it, at each call, or load values one by one.
[[nodiscard]] std::int64_t conv2d_channels(std::int64_t channels, runtime::DataType type, Cpu);
[[nodiscard]] std::int64_t conv2d_channels(std::int64_t channels, runtime::DataType type, Cuda);

/// What the three ops take the weights as, and give their gradient as, for weights of k x c /
/// groups x height x width and images of `type`. On cores row-major float32, in which
/// parameters are kept; on CUDA of the images' type in nhwc, rounded once.
[[nodiscard]] TensorSpec conv2d_weights(const runtime::Shape& weights, runtime::DataType type, Cpu);
[[nodiscard]] TensorSpec conv2d_weights(const runtime::Shape& weights, runtime::DataType type,
                                        Cuda);

/// run(src, weights, [bias,] dst)
struct Conv2dForward {
  Conv2d conv;
  bool relu = false;
};

/// run(weights, d_dst, d_src): d_src is overwritten.
struct Conv2dBackwardData {
  Conv2d conv;
};

/// run(src, d_dst, d_weights, [d_bias]): d_weights and d_bias are overwritten.
struct Conv2dBackwardWeights {
  Conv2d conv;
};

[[nodiscard]] KernelPtr plan(const Conv2dForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const Conv2dForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const Conv2dBackwardData& op, Cpu);
[[nodiscard]] KernelPtr plan(const Conv2dBackwardData& op, Cuda);
[[nodiscard]] KernelPtr plan(const Conv2dBackwardWeights& op, Cpu);
[[nodiscard]] KernelPtr plan(const Conv2dBackwardWeights& op, Cuda);

}  // namespace stpt::codelets
