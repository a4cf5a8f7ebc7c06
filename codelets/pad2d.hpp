// Zeros around an image.
//   dst[n,c,y+before.h,x+before.w] = src[n,c,y,x], and 0 elsewhere.
#pragma once

#include <string>

#include "codelets/kernel.hpp"
#include "codelets/window.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// Both of one type and layout, on CUDA in nhwc.
struct Pad2d {
  TensorSpec src;
  TensorSpec dst;      ///< as many images and channels as src
  PerAxis before = 0;  ///< rows above src, and columns to the left of it
};

/// "Pad2dForward 8x16x32x32 float32 nhwc to 8x16x33x33".
[[nodiscard]] std::string describe_op(const char* op, const Pad2d& pad);

/// What all implementations ask: throws std::invalid_argument, which begins with `what`, unless src
/// lies within dst.
void require_consistent(const std::string& what, const Pad2d& pad);

/// run(src, dst)
struct Pad2dForward {
  Pad2d pad;
};

/// run(d_dst, d_src)
struct Pad2dBackward {
  Pad2d pad;
};

[[nodiscard]] KernelPtr plan(const Pad2dForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const Pad2dForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const Pad2dBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const Pad2dBackward& op, Cuda);

}  // namespace stpt::codelets
