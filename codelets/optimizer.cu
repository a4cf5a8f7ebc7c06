#include <cmath>
#include <string>

#include "codelets/launch.cuh"
#include "codelets/optimizer.hpp"

namespace stpt::codelets {
namespace {

constexpr unsigned threads_a_block = 256;
constexpr std::size_t elements_a_block = 4096;

struct Range {
  float* weights;
  float* first;   ///< moments: the velocity, or adamw's m
  float* second;  ///< adamw's v
  const float* gradient;
  const float* steps;  ///< adamw: how many there have been with this one
  std::size_t count;
  float weight_decay;
};
using Ranges = cuda::Pieces<Range>;

struct Rates {
  float gradient_scale, learning_rate, momentum;
  // adamw
  float beta2, epsilon;
  float log_beta1, log_beta2;
};

/// What Cpu's sgd() does to one element.
template <UpdateRule rule>
struct Sgd {
  static constexpr int moments = 1;
  __device__ Sgd(const Range& range, const Rates& of) : rates(of), decay(range.weight_decay) {}

  __device__ void operator()(float& w, float& v, float& /*second*/, float gradient) const {
    const float g = gradient * rates.gradient_scale + decay * w;
    if constexpr (rule == UpdateRule::lr_in_velocity) {
      v = rates.momentum * v - rates.learning_rate * g;
      w += v;
    } else {
      v = rates.momentum * v + g;
      w -= rates.learning_rate * (rule == UpdateRule::nesterov ? rates.momentum * v + g : v);
    }
  }

  const Rates& rates;
  float decay;
};

/// What Cpu's adamw() does to one element.
struct AdamW {
  static constexpr int moments = 2;
  __device__ AdamW(const Range& range, const Rates& of)
      : rates(of),
        decay(range.weight_decay),
        correct_first(-1 / expm1f(*range.steps * of.log_beta1)),
        correct_second(-1 / expm1f(*range.steps * of.log_beta2)) {}

  __device__ void operator()(float& w, float& m, float& v, float gradient) const {
    const float g = gradient * rates.gradient_scale;
    m = rates.momentum * m + (1 - rates.momentum) * g;
    v = rates.beta2 * v + (1 - rates.beta2) * g * g;
    w -= rates.learning_rate *
         (m * correct_first / (sqrtf(v * correct_second) + rates.epsilon) + decay * w);
  }

  const Rates& rates;
  float decay, correct_first, correct_second;
};

/// Each block has some elements of one range.
template <class Rule>
__global__ void __launch_bounds__(threads_a_block) update_kernel(Ranges ranges, Rates rates) {
  const auto [range, block] = ranges.own();
  const Rule step(range, rates);
  const std::size_t begin = block * elements_a_block;
  const int count = static_cast<int>(min(range.count - begin, elements_a_block));
  constexpr bool two = Rule::moments == 2;
  float* __restrict__ w = range.weights + begin;
  float* __restrict__ m = range.first + begin;
  float* __restrict__ v = two ? range.second + begin : nullptr;
  const float* __restrict__ g = range.gradient + begin;

  constexpr int width = 4;
  const auto aligned = [](const void* at) {
    return reinterpret_cast<std::uintptr_t>(at) % 16 == 0;
  };
  const int whole =
      aligned(w) && aligned(m) && aligned(v) && aligned(g) ? count / width * width : 0;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int i = thread * width; i < whole; i += threads * width) {
    auto ws = cuda::load<width>(w + i), ms = cuda::load<width>(m + i);
    cuda::Vector<float, width> vs{};
    if constexpr (two) vs = cuda::load<width>(v + i);
    const auto gs = cuda::load<width>(g + i);
#pragma unroll
    for (int k = 0; k < width; ++k) step(ws.values[k], ms.values[k], vs.values[k], gs.values[k]);
    cuda::store(w + i, ws);
    cuda::store(m + i, ms);
    if constexpr (two) cuda::store(v + i, vs);
  }
  for (int i = whole + thread; i < count; i += threads) {
    float none = 0;
    step(w[i], m[i], two ? v[i] : none, g[i]);
  }
}

using Counts = cuda::Pieces<float*>;

/// Each block adds a step to one count.
__global__ void count_step_kernel(Counts counts) { *counts.own().piece += 1; }

auto kernel_of(UpdateRule rule) {
  switch (rule) {
    case UpdateRule::nesterov:
      return update_kernel<Sgd<UpdateRule::nesterov>>;
    case UpdateRule::lr_in_velocity:
      return update_kernel<Sgd<UpdateRule::lr_in_velocity>>;
    case UpdateRule::adamw:
      return update_kernel<AdamW>;
    case UpdateRule::velocity:
      break;
  }
  return update_kernel<Sgd<UpdateRule::velocity>>;
}

}  // namespace

void optimizer_step(std::span<const UpdatedBucket> buckets, float gradient_scale,
                    float learning_rate, const OptimizerSettings& settings, Cuda, Stream stream) {
  const bool adamw = settings.rule == UpdateRule::adamw;
  if (adamw) {
    auto counts = cuda::in_batches<float*>([&](const Counts& batch) {
      cuda::launch("step count of " + std::to_string(batch.count) + " buckets", count_step_kernel,
                   batch.blocks, 1, stream, batch);
    });
    for (const UpdatedBucket& bucket : buckets) counts.add(bucket.moments + 2 * bucket.elements, 1);
    counts.finish();
  }
  const auto kernel = kernel_of(settings.rule);
  const Rates rates{gradient_scale,          learning_rate,    settings.momentum,
                    settings.beta2,          settings.epsilon, std::log(settings.momentum),
                    std::log(settings.beta2)};
  auto batches = cuda::in_batches<Range>([&](const Ranges& batch) {
    cuda::launch("update of " + std::to_string(batch.count) + " parameter ranges", kernel,
                 batch.blocks, threads_a_block, stream, batch, rates);
  });
  for (const auto& [ranges, elements, weights, moments, gradient] : buckets) {
    float* const second = adamw ? moments + elements : nullptr;
    for (const auto& [offset, count, decay] : ranges) {
      batches.add(
          {weights + offset, moments + offset, adamw ? second + offset : nullptr, gradient + offset,
           adamw ? second + elements : nullptr, count, decay ? settings.weight_decay : 0.0f},
          cuda::blocks_for_all(count, elements_a_block));
    }
  }
  batches.finish();
}

}  // namespace stpt::codelets
