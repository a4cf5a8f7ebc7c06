// The GPUs that CUDA's driver shows to this process (CUDA_VISIBLE_DEVICES).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stpt::runtime {

struct Gpu {
  int number = 0;  ///< CUDA's
  std::string name;
  std::uint64_t memory_bytes = 0;
};

/// Lets CUDA give each stream a queue of its own where it has enough (32),
/// CUDA_DEVICE_MAX_CONNECTIONS from outside wins: StarPU has a stream for each worker, and for
/// copies from each other GPU, which would wait for each other in CUDA's usual 8. To be called
/// before CUDA starts.
void keep_streams_apart();

/// None where this program was built without CUDA, or where there is no driver. May be called
/// before a Runtime lives.
[[nodiscard]] std::vector<Gpu> find_gpus();

}  // namespace stpt::runtime
