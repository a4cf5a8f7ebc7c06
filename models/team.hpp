// The ranks that train one model data-parallel, which logical workers live on each, and which rank
// owns which part of the model.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "models/network.hpp"

namespace stpt::models {

/// Ranks [first_rank, first_rank + ranks) and `workers` logical workers, in contiguous blocks whose
/// sizes differ by at most one. A rank may have none, if there are more ranks than workers.
struct Team {
  int first_rank = 0;
  int ranks = 1;
  int workers = 1;

  [[nodiscard]] bool has(int rank) const { return rank >= first_rank && rank < first_rank + ranks; }
  /// The rank that logical worker `worker` lives on.
  [[nodiscard]] int rank_of(int worker) const {
    return first_rank + ((worker + 1) * ranks - 1) / workers;
  }
  /// The rank's workers are [first_worker(rank), first_worker(rank + 1)).
  [[nodiscard]] int first_worker(int rank) const { return (rank - first_rank) * workers / ranks; }
  [[nodiscard]] int workers_on(int rank) const {
    return has(rank) ? first_worker(rank + 1) - first_worker(rank) : 0;
  }
  friend bool operator==(const Team&, const Team&) = default;
};

/// The rank of [first_rank, first_rank + ranks) that owns each bucket, of so many elements: it sums
/// the bucket's gradient, updates it and keeps its moments. The largest buckets are given away
/// first, each to the rank that has the least, so ranks move about the same number of bytes.
[[nodiscard]] std::vector<int> bucket_owners(std::span<const std::size_t> buckets, int first_rank,
                                             int ranks);

/// Where the parts of one model are: parameters on all ranks of the team, a bucket's moments on
/// its owner, a worker's running statistics where it lives.
struct Placement {
  Placement(const Network& network, const Team& model_team)
      : team(model_team),
        owners(bucket_owners(network.buckets, model_team.first_rank, model_team.ranks)) {}

  Team team;
  std::vector<int> owners;  ///< rank per bucket
  friend bool operator==(const Placement&, const Placement&) = default;
};

}  // namespace stpt::models
