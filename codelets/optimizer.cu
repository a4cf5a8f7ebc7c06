#include <algorithm>
#include <string>

#include "codelets/launch.cuh"
#include "codelets/optimizer.hpp"

namespace stpt::codelets {
namespace {

constexpr unsigned threads_a_block = 256;
constexpr std::size_t elements_a_block = 4096;

unsigned blocks_of(std::size_t count) {
  return static_cast<unsigned>((count + elements_a_block - 1) / elements_a_block);
}

// ---- SGD ----------------------------------------------------------------------------------------

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
template <bool lr_in_velocity, bool nesterov>
__device__ void step(float& w, float& v, float gradient, float weight_decay, const Rates& rates) {
  const auto [gradient_scale, learning_rate, momentum] = rates;
  const float g = gradient * gradient_scale + weight_decay * w;
  if constexpr (lr_in_velocity) {
    v = momentum * v - learning_rate * g;
    w += nesterov ? momentum * v - learning_rate * g : v;
  } else {
    v = momentum * v + g;
    w -= learning_rate * (nesterov ? momentum * v + g : v);
  }
}

/// Each block has some elements of one range.
template <bool lr_in_velocity, bool nesterov>
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
      step<lr_in_velocity, nesterov>(ws.values[k], vs.values[k], gs.values[k], range.weight_decay,
                                     rates);
    cuda::store(w + i, ws);
    cuda::store(v + i, vs);
  }
  for (int i = whole + thread; i < count; i += threads)
    step<lr_in_velocity, nesterov>(w[i], v[i], g[i], range.weight_decay, rates);
}

// ---- Means --------------------------------------------------------------------------------------

using MeanBuffers = cuda::Pieces<MeanBuffer>;

__global__ void __launch_bounds__(threads_a_block) mean_kernel(MeanBuffers buffers, float weight) {
  const auto [buffer, block] = buffers.own();
  const std::size_t begin = block * elements_a_block;
  const std::size_t end = min(buffer.count, begin + elements_a_block);
  for (std::size_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    const float value = buffer.value[i];
    buffer.mean[i] = weight == 1 ? value : buffer.mean[i] + weight * (value - buffer.mean[i]);
  }
}

// ---- Sums ---------------------------------------------------------------------------------------

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Scale {
  float factor;
  __device__ float operator()(float x) const { return x * factor; }
};

}  // namespace

void sgd_step(std::span<const SgdBucket> buckets, float gradient_scale, float learning_rate,
              const SgdSettings& settings, Cuda, Stream stream) {
  const auto kernel =
      settings.lr_in_velocity
          ? (settings.nesterov ? sgd_kernel<true, true> : sgd_kernel<true, false>)
          : (settings.nesterov ? sgd_kernel<false, true> : sgd_kernel<false, false>);
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
                blocks_of(count));
      if (batch.full()) launch_batch();
    }
  }
  launch_batch();
}

void accumulate(std::size_t count, float* sum, const float* term, Cuda, Stream stream) {
  cuda::map("sum of " + std::to_string(count) + " values", stream, static_cast<std::int64_t>(count),
            Sum{}, sum, sum, term);
}

void update_mean(std::span<const MeanBuffer> buffers, float weight, Cuda, Stream stream) {
  MeanBuffers batch{};
  const auto launch_batch = [&] {
    if (batch.count == 0) return;
    cuda::launch("mean of " + std::to_string(batch.count) + " buffers", mean_kernel, batch.blocks,
                 threads_a_block, stream, batch, weight);
    batch = {};
  };
  for (const MeanBuffer& buffer : buffers) {
    if (buffer.count == 0) continue;
    batch.add(buffer, blocks_of(buffer.count));
    if (batch.full()) launch_batch();
  }
  launch_batch();
}

void scale(std::size_t count, float* x, float factor, Cuda, Stream stream) {
  cuda::map("scaling of " + std::to_string(count) + " values", stream,
            static_cast<std::int64_t>(count), Scale{factor}, x, x);
}

void copy(std::size_t bytes, void* destination, const void* source, Cuda, Stream stream) {
  if (bytes == 0) return;
  cuda::check(
      cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, cuda::native(stream)),
      "copy of " + std::to_string(bytes) + " bytes");
}

void clear(std::size_t bytes, void* destination, Cuda, Stream stream) {
  if (bytes == 0) return;
  cuda::check(cudaMemsetAsync(destination, 0, bytes, cuda::native(stream)),
              "clearing of " + std::to_string(bytes) + " bytes");
}

}  // namespace stpt::codelets
