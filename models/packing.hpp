// Places buffers in one stretch of memory so that those alive at the same time do not overlap.
#pragma once

#include <cstddef>
#include <vector>

namespace stpt::models {

/// Alive from operation `first` to operation `last`, both included.
struct Lifetime {
  std::size_t bytes = 0;
  int first = 0;
  int last = 0;
};

struct Packing {
  std::vector<std::size_t> offsets;  ///< one per lifetime, aligned
  std::size_t bytes = 0;             ///< of the whole stretch
};

/// Largest first, each at the lowest offset that is free during its life.
[[nodiscard]] Packing pack(const std::vector<Lifetime>& lifetimes);

}  // namespace stpt::models
