#include "runtime/gpu.hpp"

#ifdef STPT_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace stpt::runtime {

std::vector<Gpu> find_gpus() {
  std::vector<Gpu> gpus;
#ifdef STPT_HAS_CUDA
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
