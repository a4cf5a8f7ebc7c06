#include "models/team.hpp"

#include <algorithm>
#include <numeric>

namespace stpt::models {

std::vector<int> bucket_owners(std::span<const std::size_t> buckets, int first_rank, int ranks) {
  std::vector<std::size_t> order(buckets.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order,
                           [&](std::size_t a, std::size_t b) { return buckets[a] > buckets[b]; });
  std::vector<std::size_t> given(static_cast<std::size_t>(ranks), 0);
  std::vector<int> owners(order.size());
  for (const std::size_t bucket : order) {
    const auto least = std::ranges::min_element(given);
    *least += buckets[bucket];
    owners[bucket] = first_rank + static_cast<int>(least - given.begin());
  }
  return owners;
}

}  // namespace stpt::models
