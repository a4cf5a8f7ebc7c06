// The element types of the emulated libraries.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace emulated_cuda {

enum class Number { float32, float16, bfloat16 };

constexpr std::size_t bytes_of(Number type) { return type == Number::float32 ? 4 : 2; }

inline float load(Number type, const void* array, std::int64_t index) {
  switch (type) {
    case Number::float16:
      return __half2float(static_cast<const __half*>(array)[index]);
    case Number::bfloat16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(array)[index]);
    case Number::float32:
      break;
  }
  return static_cast<const float*>(array)[index];
}

inline void store(Number type, void* array, std::int64_t index, float value) {
  switch (type) {
    case Number::float16:
      static_cast<__half*>(array)[index] = __float2half_rn(value);
      return;
    case Number::bfloat16:
      static_cast<__nv_bfloat16*>(array)[index] = __float2bfloat16_rn(value);
      return;
    case Number::float32:
      static_cast<float*>(array)[index] = value;
      return;
  }
}

/// To the 10 bits of a tensor core's float, as its float32 products see it.
inline float round_to_tf32(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7f800000u) == 0x7f800000u) return value;  // infinity, NaN
  bits = (bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulated_cuda
