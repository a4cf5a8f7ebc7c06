// Turns images of a dataset into a batch of floats: augments and normalises.
#pragma once

#include "data/dataset.hpp"

namespace stpt::data {

/// Per channel, in units where black is 0 and white 1: value = (pixel / 255 - mean) / stddev.
struct Normalization {
  std::vector<float> mean;
  std::vector<float> stddev;
};

/// Only scales the pixels to [0, 1].
[[nodiscard]] Normalization no_normalization(int channels);

/// Mean and standard deviation over the given images; exact sums, so the same for any order of
/// `indices`. A constant channel gets the standard deviation 1. Throws DataError if there is no
/// image.
[[nodiscard]] Normalization compute_normalization(const Dataset& dataset,
                                                  std::span<const std::uint32_t> indices);

struct Augmentation {
  int crop_padding = 0;  ///< pad by so many black pixels on each side and crop at random
  bool flip = false;     ///< mirror left to right with probability 1/2
};

/// Writes indices.size() images (channels x height x width floats each) and their labels. Without
/// an augmentation (null) the images are only normalised. Padding is pixel value 0 before
/// normalisation, as torchvision's RandomCrop has it when it stands before Normalize. An image's
/// random choices depend on (seed, epoch, index) alone, not on its place in the batch, the thread
/// or the other option. May be called from several threads.
void load_batch(const Dataset& dataset, std::span<const std::uint32_t> indices,
                const Augmentation* augmentation, const Normalization& normalization,
                std::uint64_t seed, std::uint64_t epoch, float* images_nchw, std::int32_t* labels);

}  // namespace stpt::data
