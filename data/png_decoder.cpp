#include <png.h>

#include <string>

#include "data/image_decoder.hpp"

namespace stpt::data {
namespace {

/// By libpng's simplified API, which brings every kind of PNG to 8 bits of gray or RGB.
class PngDecoder final : public ImageDecoder {
 public:
  PngDecoder() = default;
  ~PngDecoder() override { png_image_free(&image_); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  Size open(std::span<const std::uint8_t> file) override {
    png_image_free(&image_);
    image_ = {};
    image_.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_memory(&image_, file.data(), file.size()) == 0) fail();
    return {static_cast<int>(image_.width), static_cast<int>(image_.height)};
  }

  void decode(int /*reduction*/, Picture& picture) override {
    const bool color = (image_.format & PNG_FORMAT_FLAG_COLOR) != 0;
    const std::size_t channels = color ? 3 : 1;
    const std::size_t area = std::size_t{image_.width} * image_.height;
    image_.format = color ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
    interleaved_.resize(area * channels);
    const png_color black{0, 0, 0};
    if (png_image_finish_read(&image_, &black, interleaved_.data(), 0, nullptr) == 0) fail();
    picture.model = color ? ColorModel::rgb : ColorModel::gray;
    picture.pixels.resize(area * channels);
    picture.planes.resize(channels);
    for (std::size_t c = 0; c < channels; ++c) {
      std::uint8_t* plane = picture.pixels.data() + c * area;
      for (std::size_t i = 0; i < area; ++i) plane[i] = interleaved_[i * channels + c];
      picture.planes[c] = {
          {plane, {static_cast<int>(image_.width), static_cast<int>(image_.height)}, image_.width},
          1,
          1};
    }
    interleaved_ = {};
  }

 private:
  [[noreturn]] void fail() {
    const std::string text = image_.message;
    png_image_free(&image_);
    throw ImageError("cannot be decoded as PNG: " + text);
  }

  png_image image_{};
  std::vector<std::uint8_t> interleaved_;
};

}  // namespace

std::unique_ptr<ImageDecoder> make_png_decoder() { return std::make_unique<PngDecoder>(); }

}  // namespace stpt::data
