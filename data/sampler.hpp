// The order of the training images in each epoch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace stpt::data {

/// A pure function of (indices, seed, epoch): nothing to save, nothing to restore.
class Sampler {
 public:
  Sampler(std::vector<std::uint32_t> indices, std::uint64_t seed);

  [[nodiscard]] std::size_t size() const { return indices_.size(); }

  /// The indices, shuffled for this epoch.
  [[nodiscard]] std::vector<std::uint32_t> order(std::uint64_t epoch) const;

  /// Full global batches in an epoch; the incomplete rest is left out (another rest each epoch).
  /// Throws DataError if there is none.
  [[nodiscard]] std::size_t iterations(std::size_t workers, std::size_t batch_per_worker) const;

 private:
  std::vector<std::uint32_t> indices_;
  std::uint64_t seed_;
};

/// What all workers together train on in an iteration (counted from 0): a slice of `order`.
[[nodiscard]] std::span<const std::uint32_t> global_batch(std::span<const std::uint32_t> order,
                                                          std::size_t iteration,
                                                          std::size_t workers,
                                                          std::size_t batch_per_worker);

/// Worker i's share: the i-th contiguous part of the global batch.
[[nodiscard]] std::span<const std::uint32_t> worker_batch(std::span<const std::uint32_t> order,
                                                          std::size_t iteration, std::size_t worker,
                                                          std::size_t workers,
                                                          std::size_t batch_per_worker);

}  // namespace stpt::data
