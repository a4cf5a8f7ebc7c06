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

/// None where this program was built without CUDA, or where there is no driver. May be called
/// before a Runtime lives.
[[nodiscard]] std::vector<Gpu> find_gpus();

}  // namespace stpt::runtime
