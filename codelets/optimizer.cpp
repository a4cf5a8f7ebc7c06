#include "codelets/optimizer.hpp"

#include <cmath>
#include <cstddef>

namespace stpt::codelets {
namespace {

struct Rates {
  float gradient_scale, learning_rate;
};

// The rule is a template argument so that the loop is free of branches and vectorised. Buffers of
// one step never overlap.
template <UpdateRule rule>
void sgd(std::size_t count, float* __restrict__ weights, float* __restrict__ velocity,
         const float* __restrict__ gradient, const Rates& rates, float momentum, float decay) {
  const auto [gradient_scale, learning_rate] = rates;
  for (std::size_t i = 0; i < count; ++i) {
    const float w = weights[i];
    const float g = gradient[i] * gradient_scale + decay * w;
    if constexpr (rule == UpdateRule::lr_in_velocity) {
      const float v = momentum * velocity[i] - learning_rate * g;
      velocity[i] = v;
      weights[i] = w + v;
    } else {
      const float v = momentum * velocity[i] + g;
      velocity[i] = v;
      weights[i] = w - learning_rate * (rule == UpdateRule::nesterov ? momentum * v + g : v);
    }
  }
}

template <UpdateRule rule>
void sgd_step(const UpdatedBucket& bucket, const Rates& rates, const OptimizerSettings& settings) {
  for (const auto& [offset, count, decay] : bucket.ranges) {
    sgd<rule>(count, bucket.weights + offset, bucket.moments + offset, bucket.gradient + offset,
              rates, settings.momentum, decay ? settings.weight_decay : 0);
  }
}

/// 1 / (1 - beta^steps), what a mean of that decay is divided by which began as 0.
float correction(float beta, float steps) {
  // 1 - beta^steps itself would lose digits.
  return static_cast<float>(
      -1 / std::expm1(static_cast<double>(steps) * std::log(static_cast<double>(beta))));
}

void adamw(std::size_t count, float* __restrict__ weights, float* __restrict__ first,
           float* __restrict__ second, const float* __restrict__ gradient, const Rates& rates,
           const OptimizerSettings& settings, float decay, float correct_first,
           float correct_second) {
  const auto [gradient_scale, learning_rate] = rates;
  const float beta1 = settings.momentum, beta2 = settings.beta2, epsilon = settings.epsilon;
  for (std::size_t i = 0; i < count; ++i) {
    const float w = weights[i];
    const float g = gradient[i] * gradient_scale;
    const float m = beta1 * first[i] + (1 - beta1) * g;
    const float v = beta2 * second[i] + (1 - beta2) * g * g;
    first[i] = m;
    second[i] = v;
    weights[i] =
        w -
        learning_rate * (m * correct_first / (std::sqrt(v * correct_second) + epsilon) + decay * w);
  }
}

void adamw_step(const UpdatedBucket& bucket, const Rates& rates,
                const OptimizerSettings& settings) {
  float* const second = bucket.moments + bucket.elements;
  float& steps = bucket.moments[2 * bucket.elements];
  steps += 1;  // stays at 2^24, where the corrections have long been 1
  const float correct_first = correction(settings.momentum, steps);
  const float correct_second = correction(settings.beta2, steps);
  for (const auto& [offset, count, decay] : bucket.ranges) {
    adamw(count, bucket.weights + offset, bucket.moments + offset, second + offset,
          bucket.gradient + offset, rates, settings, decay ? settings.weight_decay : 0,
          correct_first, correct_second);
  }
}

auto step_of(UpdateRule rule) {
  switch (rule) {
    case UpdateRule::nesterov:
      return sgd_step<UpdateRule::nesterov>;
    case UpdateRule::lr_in_velocity:
      return sgd_step<UpdateRule::lr_in_velocity>;
    case UpdateRule::adamw:
      return adamw_step;
    case UpdateRule::velocity:
      break;
  }
  return sgd_step<UpdateRule::velocity>;
}

}  // namespace

void optimizer_step(std::span<const UpdatedBucket> buckets, float gradient_scale,
                    float learning_rate, const OptimizerSettings& settings, Cpu, Stream) {
  const auto step = step_of(settings.rule);
  for (const UpdatedBucket& bucket : buckets)
    step(bucket, {gradient_scale, learning_rate}, settings);
}

}  // namespace stpt::codelets
