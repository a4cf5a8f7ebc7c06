// Learnable images made from a seed, for runs and tests without a download.
#pragma once

#include "data/dataset.hpp"

namespace stpt::data {

struct SyntheticOptions {
  int classes = 10;
  int channels = 3;
  int height = 32;
  int width = 32;
  int train_images = 2048;
  int test_images = 512;
};

/// Each class has a smooth random pattern; an image is its class's pattern, shifted at random and
/// covered with noise. Image i of either set has label i mod classes and depends on the seed, the
/// set and i alone. Throws DataError on sizes that make no sense.
[[nodiscard]] DatasetPair make_synthetic(const SyntheticOptions& options, std::uint64_t seed);

}  // namespace stpt::data
