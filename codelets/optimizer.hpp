// What a training step does to flat float32 buffers of weights: momentum SGD and AdamW. A function,
// not a planned kernel: the learning rate changes from call to call.
#pragma once

#include <cstddef>
#include <span>

#include "codelets/kernel.hpp"

namespace stpt::codelets {

/// How a step changes a weight w and its moments. With
/// g = gradient * gradient_scale, for SGD + weight_decay * w:
enum class UpdateRule {
  velocity,        ///< SGD: v = momentum*v + g; w -= lr*v  (the LR acts at once)
  nesterov,        ///< SGD: v = momentum*v + g; w -= lr*(momentum*v + g)  (looks a step ahead)
  lr_in_velocity,  ///< SGD: v = momentum*v - lr*g; w += v  (the LR is inside: Chainer's form)
  /// Loshchilov and Hutter 2019, Algorithm 2, without its schedule, as in PyTorch. In step t
  /// m = momentum*m + (1 - momentum)*g; v = beta2*v + (1 - beta2)*g*g;
  /// w -= lr*(m / (1 - momentum^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay*w)
  adamw,
};

struct OptimizerSettings {
  float momentum = 0.9f;  ///< for adamw its beta1
  float weight_decay = 0;
  UpdateRule rule = UpdateRule::velocity;
  // adamw
  float beta2 = 0.999f;
  float epsilon = 1e-8f;
};

/// A stretch of a parameter bucket, in elements.
struct ParameterRange {
  std::size_t offset = 0, count = 0;
  bool decay = false;  ///< weight decay applies
};

/// How many floats a rule keeps for a bucket of `elements` weights: the velocity of each; for adamw
/// m of each, v of each, and the number of steps made. All begin as 0.
[[nodiscard]] constexpr std::size_t moment_elements(UpdateRule rule, std::size_t elements) {
  return rule == UpdateRule::adamw ? 2 * elements + 1 : elements;
}

/// What a step updates of a bucket, and where the bucket's buffers lie.
struct UpdatedBucket {
  std::span<const ParameterRange> ranges;
  std::size_t elements;  ///< of weights and gradient
  float* weights;
  float* moments;  ///< moment_elements()
  const float* gradient;
};

/// One step over the ranges of weights and moments, in place. No two buffers may overlap.
void optimizer_step(std::span<const UpdatedBucket> buckets, float gradient_scale,
                    float learning_rate, const OptimizerSettings& settings, Cpu, Stream);
void optimizer_step(std::span<const UpdatedBucket> buckets, float gradient_scale,
                    float learning_rate, const OptimizerSettings& settings, Cuda, Stream);

}  // namespace stpt::codelets
