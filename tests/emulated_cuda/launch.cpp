// Kernel launches of the emulated runtime.
#include <cstring>
#include <string>
#include <utility>

#include "tests/emulated_cuda/streams.hpp"

namespace emulated_cuda {
namespace {

/// Pointers must be the device's own; in structs, where only bits can be seen, they must not be
/// another's.
cudaError_t check_argument(const Argument& argument, int device) {
  const Memory& memory = Memory::instance();
  if (argument.is_pointer) {
    const void* pointer = nullptr;
    std::memcpy(&pointer, argument.address, sizeof pointer);
    return pointer ? check_access(device, pointer, 1, "a kernel") : cudaSuccess;
  }
  for (std::size_t at = 0; at + sizeof(void*) <= argument.bytes; at += sizeof(void*)) {
    const void* word = nullptr;
    std::memcpy(&word, static_cast<const std::byte*>(argument.address) + at, sizeof word);
    const std::optional<Region> region = memory.find(word);
    if (region && region->device != host && region->device != device)
      return check_access(device, word, 1, "a kernel");
  }
  return cudaSuccess;
}

cudaError_t run_kernel(const dim3& grid, const dim3& block, const KernelCall& call, int device) {
  for (const Argument& argument : call.arguments()) {
    const cudaError_t error = check_argument(argument, device);
    if (error != cudaSuccess) return error;
  }
  count_kernel(device);
  if (lost(device)) return cudaErrorLaunchFailure;
  if (pretended().count() == 0) run_grid(grid, block, call);
  return cudaSuccess;
}

cudaError_t check_configuration(const cudaLaunchConfig_t& config) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const auto outside = [](const dim3& size, unsigned x, unsigned y, unsigned z) {
    return size.x < 1 || size.x > x || size.y < 1 || size.y > y || size.z < 1 || size.z > z;
  };
  if (outside(grid, 0x7fffffff, 65535, 65535) || outside(block, 1024, 1024, 64) ||
      block.x * block.y * block.z > 1024)
    return complain(cudaErrorInvalidConfiguration, "a kernel's grid or block has no valid size");
  if (config.dynamicSmemBytes != 0 || config.numAttrs != 0)
    return complain(cudaErrorNotSupported,
                    "dynamic shared memory and launch attributes are not emulated");
  return cudaSuccess;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, std::shared_ptr<const KernelCall> call) {
  return with_stream(config.stream, [&](CUstream_st& stream) {
    const cudaError_t valid = check_configuration(config);
    if (valid != cudaSuccess) return valid;
    if (stream.device != current_device())
      return complain(cudaErrorInvalidResourceHandle,
                      "a kernel is launched on a stream of another than the current device");
    if (!captures(stream)) ++counters().kernel_launches;
    return enqueue_on(
        stream, [grid = config.gridDim, block = config.blockDim, call, device = stream.device] {
          return run_kernel(grid, block, *call, device);
        });
  });
}

}  // namespace emulated_cuda
