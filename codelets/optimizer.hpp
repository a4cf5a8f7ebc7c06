// Momentum SGD over flat float32 buffers. A function, not a planned kernel: the learning rate
// changes from call to call.
#pragma once

#include <cstddef>
#include <span>

#include "codelets/kernel.hpp"

namespace stpt::codelets {

/// How a step changes velocity and weights.
enum class SgdForm {
  velocity,        ///< v = momentum*v + g; w -= lr*v  (the LR acts at once)
  nesterov,        ///< v = momentum*v + g; w -= lr*(momentum*v + g)  (looks a step ahead)
  lr_in_velocity,  ///< v = momentum*v - lr*g; w += v  (the LR is inside: Chainer's form)
};

struct SgdSettings {
  float momentum = 0.9f;
  float weight_decay = 0;
  SgdForm form = SgdForm::velocity;
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

}  // namespace stpt::codelets
