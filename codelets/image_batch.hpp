// Batches out of a data set that lies in a GPU's memory: crop, mirror, normalise. The same bits as
// data::load_images, which does it on cores.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

/// Which part of an image becomes one of the batch, and how. Pixel (x, y) of the result is pixel
/// (x + dx, y + dy) of the image; where that lies outside it is black, or the pixel that stands
/// there once the image is mirrored at its outermost pixels. Mirrored left to right after.
struct ImageCut {
  std::uint32_t index = 0;  ///< in the data set
  std::int16_t dy = 0, dx = 0;
  bool mirrored = false;
  bool reflected = false;  ///< what lies outside
};

/// value = (pixel - shift) * scale, of one channel. A subtraction and a multiplication cannot be
/// contracted into one rounding, so every compiler and processor yields the same bits.
struct PixelScale {
  float shift = 0;
  float scale = 1;
};

/// The most channels that load_images takes on CUDA.
inline constexpr std::size_t most_image_channels = 16;

/// images[i, c, y, x] = normalised pixel of cuts[i], i < cuts.size().
/// pixels: uint8, images of `stored` {.., c, h, w} one after the other, on the device; images:
/// float32 nchw of `shape` {.., c, h, w}, on the device. One scale per channel. The cuts are copied
/// before it returns. Throws std::invalid_argument for more channels than most_image_channels.
void load_images(std::span<const ImageCut> cuts, std::span<const PixelScale> scales,
                 const runtime::Shape& stored, const runtime::Shape& shape,
                 const std::uint8_t* pixels, float* images, Cuda, Stream);

}  // namespace stpt::codelets
