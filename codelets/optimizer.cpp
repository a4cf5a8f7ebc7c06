#include "codelets/optimizer.hpp"

#include <algorithm>
#include <cstring>

namespace stpt::codelets {
namespace {

// The flags are template arguments so that the loop is free of branches and vectorised. Buffers of
// one step never overlap.
template <bool LrInVelocity, bool Nesterov>
void step(std::size_t count, float* __restrict__ weights, float* __restrict__ velocity,
          const float* __restrict__ gradient, float gradient_scale, float learning_rate,
          const SgdSettings& settings) {
  const float momentum = settings.momentum, decay = settings.weight_decay;
  for (std::size_t i = 0; i < count; ++i) {
    const float w = weights[i];
    const float g = gradient[i] * gradient_scale + decay * w;
    if constexpr (LrInVelocity) {
      const float v = momentum * velocity[i] - learning_rate * g;
      velocity[i] = v;
      weights[i] = w + (Nesterov ? momentum * v - learning_rate * g : v);
    } else {
      const float v = momentum * velocity[i] + g;
      velocity[i] = v;
      weights[i] = w - learning_rate * (Nesterov ? momentum * v + g : v);
    }
  }
}

}  // namespace

void sgd_step(std::span<const SgdBucket> buckets, float gradient_scale, float learning_rate,
              const SgdSettings& settings, Cpu, Stream) {
  const auto function = settings.lr_in_velocity
                            ? (settings.nesterov ? step<true, true> : step<true, false>)
                            : (settings.nesterov ? step<false, true> : step<false, false>);
  for (const auto& [ranges, weights, velocity, gradient] : buckets) {
    for (const auto& [offset, count, decay] : ranges) {
      SgdSettings effective = settings;
      if (!decay) effective.weight_decay = 0;
      function(count, weights + offset, velocity + offset, gradient + offset, gradient_scale,
               learning_rate, effective);
    }
  }
}

void accumulate(std::size_t count, float* sum, const float* term, Cpu, Stream) {
  for (std::size_t i = 0; i < count; ++i) sum[i] += term[i];
}

void update_mean(std::span<const MeanBuffer> buffers, float weight, Cpu, Stream) {
  for (const auto& [count, mean, value] : buffers) {
    if (weight == 1) {
      std::copy_n(value, count, mean);
    } else {
      for (std::size_t i = 0; i < count; ++i) mean[i] += weight * (value[i] - mean[i]);
    }
  }
}

void scale(std::size_t count, float* x, float factor, Cpu, Stream) {
  for (std::size_t i = 0; i < count; ++i) x[i] *= factor;
}

void copy(std::size_t bytes, void* destination, const void* source, Cpu, Stream) {
  std::memcpy(destination, source, bytes);
}

void clear(std::size_t bytes, void* destination, Cpu, Stream) {
  std::memset(destination, 0, bytes);
}

}  // namespace stpt::codelets
