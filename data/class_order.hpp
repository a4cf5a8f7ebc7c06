// An order of images that has the classes mixed. Batches of held-out images are normalised by their
// own statistics, which must be those of all classes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace stpt::data {

/// Positions in `labels`, each once: the first of every class, and from there on the images of each
/// class as evenly spaced as their number allows, in the order they had. So any stretch has the
/// classes about in the set's own proportions.
[[nodiscard]] std::vector<std::uint32_t> mixed_order(std::span<const std::uint32_t> labels);

/// Whether neighbours differ less than half as often as chance has it: a file sorted by class, or
/// several such files one after another.
[[nodiscard]] bool lies_by_class(std::span<const std::uint32_t> labels);

}  // namespace stpt::data
