// Decodes JPEG and PNG files into planes, and those into RGB of a wanted size.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "data/dataset.hpp"
#include "data/resize.hpp"

namespace stpt::data {

/// Why a file cannot be decoded; its name is the caller's to add.
class ImageError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Pixels that an image may have: 100 million. A file of a few bytes can claim four billion.
inline constexpr std::size_t most_pixels = 100'000'000;

/// What the planes of a picture hold. YCbCr is that of JFIF (full range, BT.601).
enum class ColorModel : std::uint8_t {
  gray,
  rgb,
  ycc,
  cmyk,           ///< 255 is full ink
  cmyk_inverted,  ///< 0 is full ink, as Adobe's programs write it
  ycck,           ///< the YCbCr of red = 255 - C and so on, and K, of cmyk_inverted
};

struct Plane {
  PlaneView view;
  /// Pixels of this plane for one of the image: below 1 where chroma is subsampled.
  double scale_x = 1;
  double scale_y = 1;
};

/// A decoded image as the file stores it: every channel in the resolution that it has there.
struct Picture {
  ColorModel model = ColorModel::gray;
  std::vector<Plane> planes;
  std::vector<std::uint8_t> pixels;  ///< what the planes point into
};

/// One file format. For many images one after the other; one thread at a time.
class ImageDecoder {
 public:
  virtual ~ImageDecoder() = default;
  /// Reads the header. The bytes must live until decode() has returned. Throws ImageError.
  virtual Size open(std::span<const std::uint8_t> file) = 0;
  /// The opened image, both sides divided by `reduction` (1, 2, 4 or 8) or less. Throws ImageError.
  virtual void decode(int reduction, Picture& picture) = 0;
};

[[nodiscard]] std::unique_ptr<ImageDecoder> make_jpeg_decoder();
[[nodiscard]] std::unique_ptr<ImageDecoder> make_png_decoder();

/// Decodes the part of a JPEG or PNG file, told apart by their first bytes, that `choose` picks,
/// and resizes it to `size`: 3 x height x width bytes of red, green and blue. Gray images get three
/// equal channels, CMYK is converted without colour profiles, transparent PNG pixels stand before
/// black. Throws ImageError. May be called from several threads.
void decode_rgb(std::span<const std::uint8_t> file, const ChooseWindow& choose, Size size,
                std::span<std::uint8_t> chw);

}  // namespace stpt::data
