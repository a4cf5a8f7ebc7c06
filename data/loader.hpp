// Fills batches by tasks, ahead of the training steps that read them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/augmentation.hpp"
#include "data/dataset.hpp"
#include "runtime/tensor.hpp"

namespace stpt::data {

/// What one program execution reads.
struct Batch {
  Batch(int size, const runtime::Shape& image, const std::string& name);

  runtime::Tensor images;  ///< size x c x h x w float32 nchw
  runtime::Tensor labels;  ///< size int32
};

class Loader {
 public:
  /// Without an augmentation images are only normalised.
  Loader(std::shared_ptr<const Dataset> dataset, Normalization normalization,
         std::optional<Augmentation> augmentation, std::uint64_t seed);

  [[nodiscard]] const Dataset& dataset() const { return *dataset_; }

  /// Adds the task that fills `batch` with these images, as many as it has room for, cut to its
  /// height and width. Asynchronous; `indices` is copied.
  void submit(const Batch& batch, std::span<const std::uint32_t> indices,
              std::uint64_t epoch) const;

 private:
  struct Source;  // shared with the tasks
  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<const Source> source_;
};

}  // namespace stpt::data
