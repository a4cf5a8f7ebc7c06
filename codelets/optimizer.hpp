// Momentum SGD and the sums of gradients, over flat float32 buffers. Functions, not planned
// kernels: the learning rate changes from call to call.
#pragma once

#include <cstddef>
#include <span>

#include "codelets/kernel.hpp"

namespace stpt::codelets {

struct SgdSettings {
  float momentum = 0.9f;
  float weight_decay = 0;
  /// Steps by the velocity of the step after:
  /// w -= lr*(momentum*v + g), or w += momentum*v - lr*g if lr_in_velocity
  bool nesterov = false;
  /// false: v = momentum*v + g; w -= lr*v  (the LR acts at once)
  /// true:  v = momentum*v - lr*g; w += v  (Chainer's form: the LR is inside the velocity)
  bool lr_in_velocity = false;
};

/// A stretch of a parameter bucket, in elements.
struct ParameterRange {
  std::size_t offset = 0, count = 0;
  bool decay = false;  ///< weight decay applies
};

/// What a step updates of a bucket, and where the bucket's three buffers lie.
struct SgdBucket {
  std::span<const ParameterRange> ranges;
  float* weights;
  float* velocity;
  const float* gradient;
};

/// One SGD step over the ranges of weights and velocity, in place, with
/// g = gradient * gradient_scale + weight_decay * w. No two buffers may overlap.
void sgd_step(std::span<const SgdBucket> buckets, float gradient_scale, float learning_rate,
              const SgdSettings& settings, Cpu, Stream);
void sgd_step(std::span<const SgdBucket> buckets, float gradient_scale, float learning_rate,
              const SgdSettings& settings, Cuda, Stream);

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

/// x *= factor
void scale(std::size_t count, float* x, float factor, Cpu, Stream);
void scale(std::size_t count, float* x, float factor, Cuda, Stream);

/// destination = source, byte by byte
void copy(std::size_t bytes, void* destination, const void* source, Cpu, Stream);
void copy(std::size_t bytes, void* destination, const void* source, Cuda, Stream);

/// All bytes 0: 0.0f in every float.
void clear(std::size_t bytes, void* destination, Cpu, Stream);
void clear(std::size_t bytes, void* destination, Cuda, Stream);

}  // namespace stpt::codelets
