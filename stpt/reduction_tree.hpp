// The fixed binary tree in which the workers' gradients are summed, laid over ranks: pure rules.
//
//   partial[i] += partial[i + d]   for d = 1, 2, 4, ... and i = 0, 2d, 4d, ...
//
// The tree depends on the number of workers alone, so the sum has the same bits wherever they live;
// where a sum is taken is chosen so that few partial sums change ranks.
#pragma once

#include <vector>

#include "models/team.hpp"

namespace stpt {

/// One addition, partial[left] += partial[right], as one rank sees it.
struct ReductionStep {
  enum class Kind {
    add,      ///< both are here when those marked `receive` have come
    send,     ///< partial[left] goes to rank `peer`
    receive,  ///< partial[left] comes from rank `peer`
  };
  Kind kind;
  int left = 0;
  int right = 0;  ///< for add
  int peer = -1;  ///< for send and receive
  friend bool operator==(const ReductionStep&, const ReductionStep&) = default;
};

/// What `rank` does, in order, to get the sum of all workers' partials as partial[0] to rank
/// `root`, both of the team. Where workers per rank are a power of two, the ranks together send one
/// partial less than there are ranks with workers, which is the least; the root needs one more if
/// it has none.
[[nodiscard]] std::vector<ReductionStep> reduction_steps(const models::Team& team, int root,
                                                         int rank);

}  // namespace stpt
