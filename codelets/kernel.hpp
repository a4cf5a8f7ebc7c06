// A planned operation. An op is a plain value that says what is computed (shapes, layouts, flags);
// plan() turns it into a Kernel for one kind of device, and throws std::invalid_argument where that
// has none. Kernels know no task graph: pointers in, results out.
//
// Where an op's header does not say otherwise, tensors are float32 in any layout on the CPU, and
// float32, bfloat16 or float16 in nchw or nhwc on CUDA.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <variant>

#include "runtime/runtime.hpp"

namespace stpt::codelets {

/// Where a kernel is enqueued: a cudaStream_t on a CUDA device, nullptr on the CPU.
using Stream = void*;

/// Selects the CPU implementation in plan(op, Cpu{}).
struct Cpu {};

/// Selects the CUDA implementation in plan(op, Cuda{}).
struct Cuda {
  /// float32 convolutions and matrix products may round what they multiply to TF32 (10 bits of
  /// mantissa), which the tensor cores take.
  bool tf32 = false;
};

/// What this build has implementations for.
#ifdef STPT_HAS_CUDA
inline constexpr bool has_cuda = true;
using Device = std::variant<Cpu, Cuda>;
#else
inline constexpr bool has_cuda = false;
using Device = std::variant<Cpu>;
#endif

[[nodiscard]] inline bool on_gpu(const Device& device) {
  return !std::holds_alternative<Cpu>(device);
}

/// run(Cpu{}) or run(Cuda{}), for the kind of worker that a task runs on.
template <class Run>
void on_device(runtime::WorkerKind kind, Run run) {
  if constexpr (has_cuda) {
    if (kind == runtime::WorkerKind::cuda) return run(Cuda{});
  }
  run(Cpu{});
}

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

template <class Op>
[[nodiscard]] KernelPtr plan(const Op& op, const Device& device) {
  return std::visit([&op](auto chosen) { return plan(op, chosen); }, device);
}

}  // namespace stpt::codelets
