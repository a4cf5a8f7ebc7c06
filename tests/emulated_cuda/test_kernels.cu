#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "tests/emulated_cuda/test_kernels.hpp"

namespace stpt::testing {
namespace {

constexpr int warps = 8;
constexpr int threads = 32 * warps;

__device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

__global__ void __launch_bounds__(threads)
    sum_blocks_kernel(const float* __restrict__ values, int count, float* __restrict__ sums) {
  __shared__ float of_warps[warps];
  float sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count;
       i += static_cast<int>(gridDim.x * blockDim.x))
    sum += values[i];
  sum = sum_of_warp(sum);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = threadIdx.x < warps ? of_warps[threadIdx.x] : 0.0f;
    for (int lanes = 16; lanes > 0; lanes /= 2)
      sum += __shfl_down_sync(0xffffffffu, sum, static_cast<unsigned>(lanes));
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  }
}

__global__ void scale_kernel(float* values, int count, float a, float b) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) values[i] = a * values[i] + b;
}

struct Buffers {
  const float* from;
  float* to;
};

__global__ void half_kernel(Buffers buffers, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) buffers.to[i] = __half2float(__float2half_rn(buffers.from[i]));
}

__global__ void reverse_kernel(float* values) {
  __shared__ float staged[threads];
  float* block = values + blockIdx.x * threads;
  staged[threadIdx.x] = block[threadIdx.x];
  __syncthreads();
  block[threadIdx.x] = staged[threads - 1 - threadIdx.x];
}

__global__ void diverge_kernel(float* values) {
  if (threadIdx.x >= threads / 2) return;
  __syncthreads();
  values[threadIdx.x] = 0;
}

__global__ void overwrite_kernel(float* values) {
  __shared__ float of_warps[warps];
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    const float own = sum_of_warp(static_cast<float>(round));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = own;
    __syncthreads();
    for (int warp = 0; warp < warps; ++warp) sum += of_warps[warp];
  }
  values[blockIdx.x * threads + threadIdx.x] = sum;
}

__global__ void places_kernel(float* values) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned size = blockDim.x * blockDim.y * blockDim.z;
  values[blockIdx.x * size + thread] =
      static_cast<float>(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x);
}

cudaLaunchConfig_t grid(int blocks, dim3 block, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = block;
  config.stream = stream;
  return config;
}

cudaLaunchConfig_t one_thread_each(int count, cudaStream_t stream) {
  return grid((count + threads - 1) / threads, threads, stream);
}

}  // namespace

cudaError_t sum_blocks(const float* values, int count, float* sums, int blocks,
                       cudaStream_t stream) {
  const cudaLaunchConfig_t config = grid(blocks, threads, stream);
  return cudaLaunchKernelEx(&config, sum_blocks_kernel, values, count, sums);
}

cudaError_t scale(float* values, int count, float a, float b, cudaStream_t stream) {
  const cudaLaunchConfig_t config = one_thread_each(count, stream);
  return cudaLaunchKernelEx(&config, scale_kernel, values, count, a, b);
}

cudaError_t to_half_and_back(const float* from, float* to, int count, cudaStream_t stream) {
  const cudaLaunchConfig_t config = one_thread_each(count, stream);
  return cudaLaunchKernelEx(&config, half_kernel, Buffers{from, to}, count);
}

cudaError_t reverse(float* values, int blocks, cudaStream_t stream) {
  const cudaLaunchConfig_t config = grid(blocks, threads, stream);
  return cudaLaunchKernelEx(&config, reverse_kernel, values);
}

cudaError_t diverge(float* values, cudaStream_t stream) {
  const cudaLaunchConfig_t config = grid(1, threads, stream);
  return cudaLaunchKernelEx(&config, diverge_kernel, values);
}

cudaError_t overwrite(float* values, int blocks, cudaStream_t stream) {
  const cudaLaunchConfig_t config = grid(blocks, threads, stream);
  return cudaLaunchKernelEx(&config, overwrite_kernel, values);
}

cudaError_t write_places(float* values, int blocks, cudaStream_t stream) {
  const cudaLaunchConfig_t config = grid(blocks, dim3(4, 3, 2), stream);
  return cudaLaunchKernelEx(&config, places_kernel, values);
}

}  // namespace stpt::testing
