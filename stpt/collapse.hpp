// Training that comes to nothing (option stpt.max_collapses).
#pragma once

#include <cstdint>
#include <span>

#include "stpt/choice.hpp"
#include "stpt/files/record.hpp"

namespace stpt {

/// Training loss and accuracy over consecutive steps; without points there were none.
struct TrainingCurve {
  std::span<const CurvePoint> points;
  std::int64_t first = 0;  ///< the run's iterations before the first of these steps
  std::int64_t batch = 0;  ///< images a step
};

/// Whether a Main-train has lost more than half of what the model had learnt, beyond what chance
/// explains, or has made it more than twice as bad as it was at its worst. What it had learnt is
/// how far the Main-train `before`, the winner's `pretrain` or an earlier part of this one got
/// below the loss of guessing. Always false for a single step, whose loss is what training before
/// has left.
[[nodiscard]] bool has_collapsed(const TrainingCurve& main, const TrainingCurve& before,
                                 const TrainingCurve& pretrain, int classes);

/// Whether a run's first training leaves the network at guessing: over the last quarter of the
/// curve it is right no more often than the best constant answer `guess`, by more than two standard
/// errors, and its loss is not clearly lower. False where that is less than 50 images a class.
[[nodiscard]] bool has_learnt_nothing(const TrainingCurve& curve, const Guess& guess, int classes);

}  // namespace stpt
