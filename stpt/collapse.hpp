// Training that falls apart (option stpt.max_collapses).
#pragma once

#include <cstdint>
#include <span>

#include "stpt/files/record.hpp"

namespace stpt {

/// The training loss over consecutive steps; without points there were none.
struct LossCurve {
  std::span<const CurvePoint> points;
  std::int64_t first = 0;  ///< the run's iterations before the first of these steps
  std::int64_t batch = 0;  ///< images a step
};

/// Whether a Main-train has lost more than half of what the model had learnt, beyond what chance
/// explains, or has made it more than twice as bad as it was at its worst. What it had learnt is
/// how far the Main-train `before`, the winner's `pretrain` or an earlier part of this one got
/// below the loss of guessing. Always false for a single step, whose loss is what training before
/// has left.
[[nodiscard]] bool has_collapsed(const LossCurve& main, const LossCurve& before,
                                 const LossCurve& pretrain, int classes);

}  // namespace stpt
