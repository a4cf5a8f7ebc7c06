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
  Batch(int size, const runtime::Shape& image, const std::string& name, int parts = 1,
        bool with_keys = false);

  std::vector<runtime::Tensor> images;  ///< parts: size/parts x c x h x w float32 nchw
  runtime::Tensor labels;               ///< size int32
  runtime::Tensor keys;                 ///< empty, or size runtime::PhiloxKey (codelets::Dropout's)
};

/// A data set's pixels, for GPUs to make batches from: uint8, image after image. In main memory,
/// and on every GPU that has read it. Needs a live Runtime.
[[nodiscard]] std::shared_ptr<const runtime::Tensor> gather_pixels(const Dataset& dataset);

class Loader {
 public:
  /// Makes batches for programs of `device`. Without an augmentation images are only normalised.
  /// With `pixels` (of this data set) GPUs make them, else cores; not with random_resized_crop.
  Loader(std::shared_ptr<const Dataset> dataset, Normalization normalization,
         std::optional<Augmentation> augmentation, std::uint64_t seed,
         codelets::Device device = codelets::Cpu{},
         std::shared_ptr<const runtime::Tensor> pixels = nullptr);

  [[nodiscard]] const Dataset& dataset() const;

  /// Into how many parts a batch is divided. A GPU takes images faster than one core loads them: as
  /// many parts of at least 16 images as divide the batch evenly.
  [[nodiscard]] int parts(int batch) const;

  /// Adds the tasks that fill `batch` with these images, as many as it has room for, cut to its
  /// height and width. Asynchronous; `indices` is copied. `worker` is the GPU's worker that trains
  /// on the batch: it makes it, or has it brought as soon as cores have made it.
  void submit(const Batch& batch, std::span<const std::uint32_t> indices, std::uint64_t epoch,
              int worker = -1) const;

 private:
  struct Source;  // shared with the tasks
  struct Facts;   // of a batch's images
  void submit_to_cores(const Batch& batch, std::span<const std::uint32_t> indices,
                       std::uint64_t epoch, Facts facts, int worker) const;
  void submit_to_gpu(const Batch& batch, std::span<const std::uint32_t> indices,
                     std::uint64_t epoch, Facts facts, int worker) const;

  std::shared_ptr<const Source> source_;
  codelets::Device device_;
  std::shared_ptr<const runtime::Tensor> pixels_;
};

}  // namespace stpt::data
