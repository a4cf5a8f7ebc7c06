#include "models/team.hpp"

#include <algorithm>
#include <numeric>

namespace stpt::models {

std::vector<int> bucket_owners(const Network& network, const Team& team) {
  std::vector<std::size_t> order(network.buckets.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(
      order, [&](std::size_t a, std::size_t b) { return network.buckets[a] > network.buckets[b]; });
  std::vector<std::size_t> given(static_cast<std::size_t>(team.ranks), 0);
  std::vector<int> owners(order.size());
  for (const std::size_t bucket : order) {
    const auto least = std::ranges::min_element(given);
    *least += network.buckets[bucket];
    owners[bucket] = team.first_rank + static_cast<int>(least - given.begin());
  }
  return owners;
}

}  // namespace stpt::models
