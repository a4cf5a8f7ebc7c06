// Plain operations on flat buffers: sums, means, copies, zeros. Functions, not planned
// kernels; clear() is also an op, for lists of kernels.
#pragma once

#include <cstddef>
#include <span>

#include "codelets/kernel.hpp"

namespace stpt::codelets {

/// sum += term
void accumulate(std::size_t count, float* sum, const float* term, Cpu, Stream);
void accumulate(std::size_t count, float* sum, const float* term, Cuda, Stream);

/// A buffer of which a mean over several moments is kept.
struct MeanBuffer {
  std::size_t count;
  float* mean;
  const float* value;  ///< at this moment
};

/// mean += weight * (value - mean) in every buffer: the mean of n values where the n-th comes with
/// weight 1/n. With weight 1 mean = value, whatever it held.
void update_mean(std::span<const MeanBuffer> buffers, float weight, Cpu, Stream);
void update_mean(std::span<const MeanBuffer> buffers, float weight, Cuda, Stream);

/// destination = source, byte by byte
void copy(std::size_t bytes, void* destination, const void* source, Cpu, Stream);
void copy(std::size_t bytes, void* destination, const void* source, Cuda, Stream);

/// All bytes 0: 0.0f in every float.
void clear(std::size_t bytes, void* destination, Cpu, Stream);
void clear(std::size_t bytes, void* destination, Cuda, Stream);

/// All bytes 0. run(x)
struct Clear {
  std::size_t bytes = 0;
};

[[nodiscard]] KernelPtr plan(const Clear& op, Cpu);
[[nodiscard]] KernelPtr plan(const Clear& op, Cuda);

}  // namespace stpt::codelets
