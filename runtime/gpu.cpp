#include "runtime/gpu.hpp"

#include <cstdlib>

#ifdef STPT_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace stpt::runtime {

void keep_streams_apart() { setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0); }

std::vector<Gpu> find_gpus() {
  std::vector<Gpu> gpus;
#ifdef STPT_HAS_CUDA
  keep_streams_apart();
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // or the next call of anyone reports it
    return gpus;
  }
  for (int number = 0; number < count; ++number) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, number) != cudaSuccess) continue;
    gpus.push_back({number, properties.name, properties.totalGlobalMem});
  }
#endif
  return gpus;
}

}  // namespace stpt::runtime
