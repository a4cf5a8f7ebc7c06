// Turns images of a dataset into a batch of floats: augments and normalises.
#pragma once

#include "codelets/image_batch.hpp"
#include "data/dataset.hpp"

namespace stpt::data {

/// Per channel, in units where black is 0 and white 1: value = (pixel / 255 - mean) / stddev.
struct Normalization {
  std::vector<float> mean;
  std::vector<float> stddev;
};

/// Only scales the pixels to [0, 1].
[[nodiscard]] Normalization no_normalization(int channels);

/// At most `most` of `indices`, evenly spaced: enough images to compute a normalization from where
/// reading all of them would take too long.
[[nodiscard]] std::vector<std::uint32_t> evenly_spaced(std::span<const std::uint32_t> indices,
                                                       std::size_t most);

/// Mean and standard deviation over the given images; exact sums, so the same for any order of
/// `indices`. A constant channel gets the standard deviation 1. Throws DataError if there is no
/// image.
[[nodiscard]] Normalization compute_normalization(const Dataset& dataset,
                                                  std::span<const std::uint32_t> indices);

/// What lies around an image.
enum class Padding {
  black,
  reflect,  ///< the image, mirrored at its outermost pixels, which are not repeated
};

struct Augmentation {
  int crop_padding = 0;  ///< pad by so many pixels on each side before the random crop
  Padding padding = Padding::black;
  bool flip = false;  ///< mirror left to right with probability 1/2
  /// Flip an image in every other epoch instead, from the first or the second on at random (Jordan,
  /// "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024).
  bool alternate_flip = false;
  /// Instead of padding and the random crop: a random part of the stored image, resized (Szegedy et
  /// al., "Going deeper with convolutions", 2014).
  bool random_resized_crop = false;
};

/// The part that random_resized_crop takes of an image of that size: area uniform in 8 % to 100 %
/// of it, logarithm of the aspect ratio uniform between those of 3/4 and 4/3, position uniform.
/// Where ten such parts do not fit, the largest centred one of allowed aspect ratio.
[[nodiscard]] Window random_resized_window(Size image, std::uint64_t seed, std::uint64_t epoch,
                                           std::uint32_t index);

/// What load_images does to image `index` of a data set of `stored` images, cut to `shape`. Not
/// with random_resized_crop, which depends on the image's own size.
[[nodiscard]] codelets::ImageCut image_cut(const runtime::Shape& stored,
                                           const runtime::Shape& shape,
                                           const Augmentation* augmentation, std::uint64_t seed,
                                           std::uint64_t epoch, std::uint32_t index);

/// One scale per channel.
[[nodiscard]] std::vector<codelets::PixelScale> pixel_scales(const Normalization& normalization);

/// Writes indices.size() images of channels x height x width floats. `shape` is
/// {.., channels, height, width}: the channels of the dataset, and a height and width that are at
/// most those of its images. With an augmentation it is cut out at a random place; without (null)
/// out of the middle, and the images are only normalised. Black is pixel value 0 before
/// normalisation, as torchvision's RandomCrop has it when it stands before Normalize. An image's
/// random choices depend on (seed, epoch, index) alone, not on its place in the batch, the thread
/// or the other options. May be called from several threads. Throws std::invalid_argument for
/// another number of channels or a larger size, and what Dataset::read throws.
void load_images(const Dataset& dataset, std::span<const std::uint32_t> indices,
                 const runtime::Shape& shape, const Augmentation* augmentation,
                 const Normalization& normalization, std::uint64_t seed, std::uint64_t epoch,
                 float* images_nchw);

}  // namespace stpt::data
