// Sets apart the training images that score the candidates.
#pragma once

#include "data/dataset.hpp"

namespace stpt::data {

/// Indices into the training set, each list in rising order; the two are disjoint.
struct Split {
  std::vector<std::uint32_t> training;
  std::vector<std::uint32_t> hold_out;
};

/// Of the first `limit` images (0 = all), `hold_out` are drawn at random, from every class in
/// proportion to its size (rounded by largest remainder, equal ones by lot), but never a class's
/// last image. A hold-out of 0 is empty. Depends on the labels and the arguments alone. Throws
/// std::invalid_argument for a limit above the number of images, and for a hold-out that cannot be
/// met, with what is wrong with it.
[[nodiscard]] Split make_split(const Dataset& train, std::int64_t limit, std::int64_t hold_out,
                               std::uint64_t seed);

}  // namespace stpt::data
