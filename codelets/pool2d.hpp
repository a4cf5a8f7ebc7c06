// Max and average pooling. Padded positions never win a maximum, and are not counted in an average
// unless that is asked for. The maximum with a NaN is NaN; of equal maxima the first (in rows)
// takes the gradient.
#pragma once

#include <string>

#include "codelets/kernel.hpp"
#include "codelets/window.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

enum class PoolKind { max, average };

/// Global average pooling is `average` with the kernel as large as the source and no padding.
struct Pool2d {
  PoolKind kind = PoolKind::max;
  TensorSpec src;  ///< n x c x h x w; on CUDA in nhwc
  TensorSpec dst;  ///< n x c x oh x ow, of src's type and layout
  Window window;   ///< not dilated
  /// An average counts the padding, which is 0, but nothing beyond it that ceil_mode adds.
  bool count_padding = false;
  bool ceil_mode = false;  ///< slide()'s
};

/// Throws std::invalid_argument if the window does not fit.
[[nodiscard]] runtime::Shape pool2d_output(const runtime::Shape& src, const Window& window,
                                           bool ceil_mode = false);

/// "pool2d forward max 8x3x32x32 float32 nchw -> ..., kernel 2x2, stride 2, padding 0", and
/// ", count_padding" and ", ceil_mode" of those.
[[nodiscard]] std::string describe_op(const char* op, const Pool2d& pool);

/// Bytes that forward leaves for backward (the winners' positions of max pooling), 0 where none.
[[nodiscard]] std::size_t pool2d_indices_bytes(const Pool2d& pool, Cpu);
[[nodiscard]] std::size_t pool2d_indices_bytes(const Pool2d& pool, Cuda);

/// run(src, dst, indices): indices may be nullptr when pool2d_indices_bytes() is 0 or `training` is
/// false.
struct Pool2dForward {
  Pool2d pool;
  bool training = true;
};

/// run(d_dst, indices, d_src): d_src is overwritten.
struct Pool2dBackward {
  Pool2d pool;
};

[[nodiscard]] KernelPtr plan(const Pool2dForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const Pool2dForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const Pool2dBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const Pool2dBackward& op, Cuda);

}  // namespace stpt::codelets
