// Launching kernels. In .cu files only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "codelets/cuda.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::cuda {

/// Enqueues kernel<<<blocks, threads>>>(arguments...). `what` names the op in the error.
template <class... Parameters>
void launch(const std::string& what, void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
            Stream stream, std::type_identity_t<Parameters>... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.stream = native(stream);
  check(cudaLaunchKernelEx(&config, kernel, std::move(arguments)...), what);
}

/// Blocks for a loop over `count` items in steps of the whole grid.
[[nodiscard]] inline unsigned blocks_for(std::int64_t count, unsigned threads) {
  constexpr std::int64_t most = 4096;  // many waves on any GPU; the loop does the rest
  const std::int64_t wanted = (count + threads - 1) / threads;
  return static_cast<unsigned>(std::clamp<std::int64_t>(wanted, 1, most));
}

/// Calls visit(T{}) with the element type float, __nv_bfloat16 or __half; throws
/// std::invalid_argument, which begins with `what`, for others.
template <class Visit>
auto with_type(runtime::DataType type, const std::string& what, Visit visit) {
  switch (type) {
    case runtime::DataType::float32:
      return visit(float{});
    case runtime::DataType::bfloat16:
      return visit(__nv_bfloat16{});
    case runtime::DataType::float16:
      return visit(__half{});
    default:
      break;
  }
  throw std::invalid_argument(what + ": " + runtime::to_string(type) +
                              "; CUDA computes in float32, bfloat16 or float16");
}

template <class T>
__host__ __device__ inline float to_float(T value) {
  return static_cast<float>(value);
}

/// Rounds to nearest even.
template <class T>
__host__ __device__ inline T from_float(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

/// `width` neighbouring elements, loaded and stored at once.
template <class T, int width>
struct alignas(sizeof(T) * width) Vector {
  T values[width];
};

}  // namespace stpt::codelets::cuda
