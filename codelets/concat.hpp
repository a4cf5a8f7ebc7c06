// Joins tensors along their channels, and takes them apart again.
//   whole[n,first(i)+c,y,x] = part_i[n,c,y,x], where first(i) is the channels of the parts before
//   i.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// All of one type and layout, on CUDA in nhwc. In a blocked layout every part but the last has
/// whole blocks of channels.
struct Concat {
  std::vector<TensorSpec> parts;  ///< n x c_i x h x w
  TensorSpec whole;               ///< n x (sum of c_i) x h x w
};

/// "concat forward of 2 parts to 8x48x32x32 float32 nhwc".
[[nodiscard]] std::string describe_op(const char* op, const Concat& concat);

/// Shape of what parts of these shapes make; throws std::invalid_argument if they differ in more
/// than the channels.
[[nodiscard]] runtime::Shape concat_output(std::span<const runtime::Shape> parts);

/// Gives the whole and all parts one layout: on cores the first part's if it will do, else nchw.
void choose_layout(Concat& concat, Cpu);
void choose_layout(Concat& concat, Cuda);

/// run(part..., whole): parts that are null are zeros.
struct ConcatForward {
  Concat concat;
};

/// run(d_whole, d_part...): each d_part is overwritten, but for those that are null.
struct ConcatBackward {
  Concat concat;
};

[[nodiscard]] KernelPtr plan(const ConcatForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ConcatForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const ConcatBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ConcatBackward& op, Cuda);

/// What all implementations ask: throws std::invalid_argument, which begins with `what`.
void require_consistent(const std::string& what, const Concat& concat);

}  // namespace stpt::codelets
