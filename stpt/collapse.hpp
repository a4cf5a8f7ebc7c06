// Training that falls apart (option stpt.max_collapses).
#pragma once

#include "stpt/record.hpp"

namespace stpt {

/// Whether the epoch's Main-train has lost more than half of what the model had learnt before, or
/// has made it more than twice as bad as it was at its worst. By the training loss: what the model
/// had learnt is how far the epoch before, or the winner's Pre-train, got below that of guessing.
/// `before` is null in the first epoch. An epoch of one iteration never has.
[[nodiscard]] bool has_collapsed(const EpochRecord& epoch, const EpochRecord* before, int classes);

}  // namespace stpt
