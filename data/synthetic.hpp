// Learnable images made from a seed, for runs and tests without a download.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/dataset.hpp"

namespace stpt::data {

/// What is made at most. One channel and pixel and two classes are the least.
namespace synthetic_limits {
inline constexpr int classes = 256, channels = 64, side = 1024, images = 10'000'000;
inline constexpr std::int64_t bytes = std::int64_t{16} << 30;  ///< of both sets' pixels
}  // namespace synthetic_limits

struct SyntheticOptions {
  int classes = 10, channels = 3, height = 32, width = 32;
  int train_images = 10000, test_images = 2000;
  friend bool operator==(const SyntheticOptions&, const SyntheticOptions&) = default;
};

/// An option that cannot be, and why.
struct SyntheticProblem {
  std::string option, text;
};

[[nodiscard]] std::optional<SyntheticProblem> find_problem(const SyntheticOptions& options);

/// Each class has a smooth random pattern; an image is its class's pattern, shifted at random and
/// covered with noise. Image i of either set has label i mod classes and depends on the seed, the
/// set and i alone. Throws DataError where there is a problem.
[[nodiscard]] DatasetPair make_synthetic(const SyntheticOptions& options, std::uint64_t seed);

}  // namespace stpt::data
