#include "models/team.hpp"

#include <algorithm>
#include <numeric>

#include "models/zoo.hpp"
#include "tests/catch.hpp"

namespace stpt::models {
namespace {

TEST_CASE("a team's workers live on its ranks in contiguous, even blocks", "[team]") {
  for (int ranks = 1; ranks <= 9; ++ranks) {
    for (int workers = 1; workers <= 20; ++workers) {
      const Team team{3, ranks, workers};
      int next = 0, least = workers, most = 0;
      for (int rank = 3; rank < 3 + ranks; ++rank) {
        REQUIRE(team.has(rank));
        REQUIRE(team.first_worker(rank) == next);
        for (int worker = next; worker < next + team.workers_on(rank); ++worker)
          REQUIRE(team.rank_of(worker) == rank);
        next += team.workers_on(rank);
        least = std::min(least, team.workers_on(rank));
        most = std::max(most, team.workers_on(rank));
      }
      REQUIRE(next == workers);
      REQUIRE(most - least <= 1);
    }
  }
  const Team team{1, 2, 5};
  CHECK_FALSE(team.has(0));
  CHECK_FALSE(team.has(3));
  CHECK(team.workers_on(0) == 0);
}

TEST_CASE("buckets are owned so that ranks have about the same to do", "[team]") {
  const Network network = make_network("resnet56", {1, 3, 32, 32}, 10);
  for (const int ranks : {1, 2, 3, 4, 8}) {
    const std::vector<int> owners = bucket_owners(network.buckets, 2, ranks);
    REQUIRE(owners.size() == network.buckets.size());
    std::vector<std::size_t> bytes(static_cast<std::size_t>(ranks), 0);
    std::size_t largest = 0;
    for (std::size_t bucket = 0; bucket < owners.size(); ++bucket) {
      REQUIRE(owners[bucket] >= 2);
      REQUIRE(owners[bucket] < 2 + ranks);
      bytes[static_cast<std::size_t>(owners[bucket] - 2)] += network.buckets[bucket];
      largest = std::max(largest, network.buckets[bucket]);
    }
    // Giving each to the one that has least never leaves two further apart than one bucket.
    const auto [least, most] = std::ranges::minmax_element(bytes);
    CHECK(*most - *least <= largest);
  }
}

}  // namespace
}  // namespace stpt::models
