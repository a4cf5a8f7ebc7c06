// A planned operation. An op is a plain value that says what is computed (shapes, layouts, flags);
// plan() turns it into a Kernel for one kind of device. Kernels know no task graph: pointers in,
// results out.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace stpt::codelets {

/// Where a kernel is enqueued: a cudaStream_t on a CUDA device, nullptr on the CPU.
using Stream = void*;

/// Selects the CPU implementation in plan(op, Cpu{}).
struct Cpu {};

/// Immutable after planning: layouts, algorithms and the workspace size are fixed, run() only
/// computes and may be called from several threads at once with different pointers.
class Kernel {
 public:
  virtual ~Kernel() = default;

  /// `args`: one pointer per tensor in the order that the op's header documents, 64-byte aligned.
  /// `workspace`: at least workspace_bytes(), 64-byte aligned, contents undefined before and after.
  virtual void run(std::span<void* const> args, void* workspace, Stream stream) const = 0;

  [[nodiscard]] std::size_t workspace_bytes() const { return workspace_bytes_; }

 protected:
  std::size_t workspace_bytes_ = 0;
};

using KernelPtr = std::unique_ptr<const Kernel>;

}  // namespace stpt::codelets
