#include <string>

#include "codelets/launch.cuh"
#include "codelets/optimizer.hpp"

namespace stpt::codelets {
namespace {

constexpr unsigned threads_a_block = 256;
constexpr std::size_t elements_a_block = 4096;

struct Range {
  float* weights;
  float* velocity;
  const float* gradient;
  std::size_t count;
  float weight_decay;
};
using Ranges = cuda::Pieces<Range>;

struct Rates {
  float gradient_scale, learning_rate, momentum;
};

/// What Cpu's step() does to one element.
template <SgdForm form>
__device__ void step(float& w, float& v, float gradient, float weight_decay, const Rates& rates) {
  const auto [gradient_scale, learning_rate, momentum] = rates;
  const float g = gradient * gradient_scale + weight_decay * w;
  if constexpr (form == SgdForm::lr_in_velocity) {
    v = momentum * v - learning_rate * g;
    w += v;
  } else {
    v = momentum * v + g;
    w -= learning_rate * (form == SgdForm::nesterov ? momentum * v + g : v);
  }
}

/// Each block has some elements of one range.
template <SgdForm form>
__global__ void __launch_bounds__(threads_a_block) sgd_kernel(Ranges ranges, Rates rates) {
  const auto [range, block] = ranges.own();
  const std::size_t begin = block * elements_a_block;
  const int count = static_cast<int>(min(range.count - begin, elements_a_block));
  float* __restrict__ w = range.weights + begin;
  float* __restrict__ v = range.velocity + begin;
  const float* __restrict__ g = range.gradient + begin;

  constexpr int width = 4;
  const auto aligned = [](const void* at) {
    return reinterpret_cast<std::uintptr_t>(at) % 16 == 0;
  };
  const int whole = aligned(w) && aligned(v) && aligned(g) ? count / width * width : 0;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int i = thread * width; i < whole; i += threads * width) {
    auto ws = cuda::load<width>(w + i), vs = cuda::load<width>(v + i);
    const auto gs = cuda::load<width>(g + i);
#pragma unroll
    for (int k = 0; k < width; ++k)
      step<form>(ws.values[k], vs.values[k], gs.values[k], range.weight_decay, rates);
    cuda::store(w + i, ws);
    cuda::store(v + i, vs);
  }
  for (int i = whole + thread; i < count; i += threads)
    step<form>(w[i], v[i], g[i], range.weight_decay, rates);
}

auto kernel_of(SgdForm form) {
  switch (form) {
    case SgdForm::nesterov:
      return sgd_kernel<SgdForm::nesterov>;
    case SgdForm::lr_in_velocity:
      return sgd_kernel<SgdForm::lr_in_velocity>;
    case SgdForm::velocity:
      break;
  }
  return sgd_kernel<SgdForm::velocity>;
}

}  // namespace

void sgd_step(std::span<const SgdBucket> buckets, float gradient_scale, float learning_rate,
              const SgdSettings& settings, Cuda, Stream stream) {
  const auto kernel = kernel_of(settings.form);
  Ranges batch{};
  const auto launch_batch = [&] {
    if (batch.count == 0) return;
    cuda::launch("SGD step of " + std::to_string(batch.count) + " parameter ranges", kernel,
                 batch.blocks, threads_a_block, stream, batch,
                 Rates{gradient_scale, learning_rate, settings.momentum});
    batch = {};
  };
  for (const auto& [ranges, weights, velocity, gradient] : buckets) {
    for (const auto& [offset, count, decay] : ranges) {
      if (count == 0) continue;
      batch.add({weights + offset, velocity + offset, gradient + offset, count,
                 decay ? settings.weight_decay : 0.0f},
                cuda::blocks_for_all(count, elements_a_block));
      if (batch.full()) launch_batch();
    }
  }
  launch_batch();
}

}  // namespace stpt::codelets
