#include "models/packing.hpp"

#include <algorithm>
#include <numeric>

#include "runtime/tensor.hpp"

namespace stpt::models {

Packing pack(const std::vector<Lifetime>& lifetimes) {
  std::vector<std::size_t> order(lifetimes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return lifetimes[a].bytes > lifetimes[b].bytes;
  });

  Packing packing{std::vector<std::size_t>(lifetimes.size(), 0), 0};
  std::vector<std::size_t> placed;  // by offset
  for (const std::size_t index : order) {
    const Lifetime& life = lifetimes[index];
    const std::size_t bytes = runtime::align_up(life.bytes);
    std::size_t offset = 0;
    for (const std::size_t other : placed) {
      const bool alive_together =
          lifetimes[other].first <= life.last && life.first <= lifetimes[other].last;
      if (!alive_together) continue;
      if (offset + bytes <= packing.offsets[other]) break;  // fits into the gap before `other`
      offset = std::max(offset, packing.offsets[other] + runtime::align_up(lifetimes[other].bytes));
    }
    packing.offsets[index] = offset;
    packing.bytes = std::max(packing.bytes, offset + bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), index,
                                   [&](std::size_t a, std::size_t b) {
                                     return packing.offsets[a] < packing.offsets[b];
                                   }),
                  index);
  }
  return packing;
}

}  // namespace stpt::models
