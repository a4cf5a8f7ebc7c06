// Lets g++ compile a .cu file as plain C++: included before anything else in it. A kernel's threads
// then run one after the other, as fibers where they wait for each other.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/emulated_cuda/emulation.hpp"

#ifdef __CUDACC__
#error "tests/emulated_cuda/device.hpp is for a C++ compiler"
#endif

// ---- Language ---------------------------------------------------------------------------------

// The other keywords are empty in NVIDIA's headers already. A block's threads all run on one host
// thread, and its blocks one after the other.
#undef __shared__
#define __shared__ static thread_local
#define __launch_bounds__(...)

extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;
inline constexpr int warpSize = 32;

// ---- Threads ----------------------------------------------------------------------------------

inline void __syncthreads(unsigned line = __builtin_LINE()) {
  emulated_cuda::synchronize_block(line);
}

namespace emulated_cuda {

template <typename T>
T shuffle(unsigned mask, T value, int source_lane, unsigned line) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange_in_warp(mask, bits, source_lane, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulated_cuda

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, unsigned line = __builtin_LINE()) {
  return emulated_cuda::shuffle(mask, value, lane & (warpSize - 1), line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, unsigned line = __builtin_LINE()) {
  return emulated_cuda::shuffle(mask, value, emulated_cuda::lane() ^ lanes, line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, unsigned line = __builtin_LINE()) {
  return emulated_cuda::shuffle(mask, value, emulated_cuda::lane() + static_cast<int>(lanes), line);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, unsigned line = __builtin_LINE()) {
  return emulated_cuda::shuffle(mask, value, emulated_cuda::lane() - static_cast<int>(lanes), line);
}

inline void __syncwarp(unsigned mask = ~0u, unsigned line = __builtin_LINE()) {
  emulated_cuda::exchange_in_warp(mask, 0, emulated_cuda::lane(), line);
}

// ---- Functions that only nvcc knows -----------------------------------------------------------

template <typename T, typename U>
constexpr std::common_type_t<T, U> min(T a, U b) {
  return b < a ? b : a;
}
template <typename T, typename U>
constexpr std::common_type_t<T, U> max(T a, U b) {
  return a < b ? b : a;
}
// CUDA's ignore a NaN, as fminf does.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

namespace emulated_cuda {

template <typename To, typename From>
To same_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

}  // namespace emulated_cuda

inline int __float_as_int(float x) { return emulated_cuda::same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulated_cuda::same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulated_cuda::same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated_cuda::same_bits<float>(x); }

// ---- Launching --------------------------------------------------------------------------------

namespace emulated_cuda {

template <typename... Params>
class Call final : public KernelCall {
 public:
  template <typename... Args>
  explicit Call(void (*kernel)(Params...), Args&&... args)
      : kernel_(kernel), args_(std::forward<Args>(args)...) {}

  void run_thread() const override { std::apply(kernel_, args_); }

  [[nodiscard]] std::vector<Argument> arguments() const override {
    return std::apply(
        [](const auto&... arg) {
          return std::vector<Argument>{
              {&arg, sizeof arg, std::is_pointer_v<std::remove_cvref_t<decltype(arg)>>}...};
        },
        args_);
  }

 private:
  static_assert((std::is_trivially_copyable_v<Params> && ...), "arguments are copied bit by bit");
  static_assert((sizeof(Params) + ... + 0) <= 4096, "a kernel takes at most 4 KiB of arguments");
  void (*kernel_)(Params...);
  std::tuple<std::remove_cv_t<Params>...> args_;
};

/// What stands in for cudaLaunchKernelEx.
template <typename... Params, typename... Args>
cudaError_t launch_kernel(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                          Args&&... args) {
  return launch(*config,
                std::make_shared<const Call<Params...>>(kernel, std::forward<Args>(args)...));
}

}  // namespace emulated_cuda

// CUDA's own is a template, too, which gives the runtime no types of the arguments.
#define cudaLaunchKernelEx emulated_cuda::launch_kernel
