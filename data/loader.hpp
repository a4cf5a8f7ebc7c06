// Fills batches by tasks, ahead of the training steps that read them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codelets/kernel.hpp"
#include "data/augmentation.hpp"
#include "data/dataset.hpp"
#include "runtime/tensor.hpp"

namespace stpt::data {

/// What one program execution reads.
struct Batch {
  /// `parts` divides `size`. Each part is loaded by a task of its own.
  Batch(int size, const runtime::Shape& image, const std::string& name, int parts = 1);

  std::vector<runtime::Tensor> images;  ///< parts: size/parts x c x h x w float32 nchw
  runtime::Tensor labels;               ///< size int32
};

/// Into how many parts a batch for programs of that device is divided. A GPU takes images faster
/// than one core loads them: as many parts of at least 16 images as divide the batch evenly.
[[nodiscard]] int batch_parts(int size, const codelets::Device& device);

class Loader {
 public:
  /// Without an augmentation images are only normalised.
  Loader(std::shared_ptr<const Dataset> dataset, Normalization normalization,
         std::optional<Augmentation> augmentation, std::uint64_t seed);

  [[nodiscard]] const Dataset& dataset() const { return *dataset_; }

  /// Adds the tasks that fill `batch` with these images, as many as it has room for, cut to its
  /// height and width. Asynchronous; `indices` is copied.
  void submit(const Batch& batch, std::span<const std::uint32_t> indices,
              std::uint64_t epoch) const;

 private:
  struct Source;  // shared with the tasks
  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<const Source> source_;
};

}  // namespace stpt::data
