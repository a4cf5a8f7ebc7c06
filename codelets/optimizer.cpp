#include "codelets/optimizer.hpp"

#include <cstddef>

namespace stpt::codelets {
namespace {

// The form is a template argument so that the loop is free of branches and vectorised. Buffers of
// one step never overlap.
template <SgdForm form>
void step(std::size_t count, float* __restrict__ weights, float* __restrict__ velocity,
          const float* __restrict__ gradient, float gradient_scale, float learning_rate,
          const SgdSettings& settings) {
  const float momentum = settings.momentum, decay = settings.weight_decay;
  for (std::size_t i = 0; i < count; ++i) {
    const float w = weights[i];
    const float g = gradient[i] * gradient_scale + decay * w;
    if constexpr (form == SgdForm::lr_in_velocity) {
      const float v = momentum * velocity[i] - learning_rate * g;
      velocity[i] = v;
      weights[i] = w + v;
    } else {
      const float v = momentum * velocity[i] + g;
      velocity[i] = v;
      weights[i] = w - learning_rate * (form == SgdForm::nesterov ? momentum * v + g : v);
    }
  }
}

auto step_of(SgdForm form) {
  switch (form) {
    case SgdForm::nesterov:
      return step<SgdForm::nesterov>;
    case SgdForm::lr_in_velocity:
      return step<SgdForm::lr_in_velocity>;
    case SgdForm::velocity:
      break;
  }
  return step<SgdForm::velocity>;
}

}  // namespace

void sgd_step(std::span<const SgdBucket> buckets, float gradient_scale, float learning_rate,
              const SgdSettings& settings, Cpu, Stream) {
  const auto function = step_of(settings.form);
  for (const auto& [ranges, weights, velocity, gradient] : buckets) {
    for (const auto& [offset, count, decay] : ranges) {
      SgdSettings effective = settings;
      if (!decay) effective.weight_decay = 0;
      function(count, weights + offset, velocity + offset, gradient + offset, gradient_scale,
               learning_rate, effective);
    }
  }
}

}  // namespace stpt::codelets
