#include <png.h>

#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>

#include "data/image_decoder.hpp"

namespace stpt::data {
namespace {

/// Brings every kind of PNG to 8 bits of gray or RGB as they are encoded: libpng's simplified API
/// would take 16 bits for linear light, and heed gAMA.
///
/// libpng reports errors by a function that must not return. It jumps back into open() or
/// decode(), where nothing that has a destructor lives between setjmp() and the calls.
class PngDecoder final : public ImageDecoder {
 public:
  PngDecoder() = default;
  ~PngDecoder() override { close(); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  Size open(std::span<const std::uint8_t> file) override {
    close();
    unread_ = file;
    if (setjmp(escape_) != 0) fail();
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, note_error_and_escape,
                                  [](png_structp, png_const_charp) {});
    info_ = png_create_info_struct(png_);
    if (info_ == nullptr) throw std::bad_alloc();
    png_set_read_fn(png_, this, read);
    // Of its chunks those alone that make the pixels.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_read_info(png_, info_);
    return {static_cast<int>(png_get_image_width(png_, info_)),
            static_cast<int>(png_get_image_height(png_, info_))};
  }

  void decode(int /*reduction*/, Picture& picture) override {
    if (setjmp(escape_) != 0) fail();
    png_set_expand(png_);  // palettes to RGB, few bits to 8, a transparent colour to alpha
    png_set_scale_16(png_);
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    lay_out(picture);
    // An interlaced image needs all its rows until the last pass, others one at a time.
    const std::size_t row_bytes = png_get_rowbytes(png_, info_);
    const png_uint_32 height = png_get_image_height(png_, info_);
    rows_.resize(row_bytes * (passes > 1 ? height : 1));
    for (int pass = 1; pass <= passes; ++pass) {
      for (png_uint_32 y = 0; y < height; ++y) {
        std::uint8_t* row = rows_.data() + (passes > 1 ? y * row_bytes : 0);
        png_read_row(png_, row, nullptr);
        if (pass == passes) unpack(row, y, picture);
      }
    }
    close();
  }

 private:
  static void note_error_and_escape(png_structp png, png_const_charp message) {
    auto* self = static_cast<PngDecoder*>(png_get_error_ptr(png));
    std::snprintf(self->error_.data(), self->error_.size(), "%s", message);
    std::longjmp(self->escape_, 1);
  }

  static void read(png_structp png, png_bytep out, std::size_t bytes) {
    auto* self = static_cast<PngDecoder*>(png_get_io_ptr(png));
    if (bytes > self->unread_.size()) png_error(png, "read beyond end of data");
    std::memcpy(out, self->unread_.data(), bytes);
    self->unread_ = self->unread_.subspan(bytes);
  }

  [[noreturn]] void fail() {
    close();
    throw ImageError(std::string("cannot be decoded as PNG: ") + error_.data());
  }

  void close() {
    png_destroy_read_struct(&png_, &info_, nullptr);
    rows_ = {};
  }

  void lay_out(Picture& picture) const {
    const bool color = (png_get_color_type(png_, info_) & PNG_COLOR_MASK_COLOR) != 0;
    const std::size_t width = png_get_image_width(png_, info_);
    const std::size_t height = png_get_image_height(png_, info_);
    picture.model = color ? ColorModel::rgb : ColorModel::gray;
    picture.planes.resize(color ? 3 : 1);
    picture.pixels.resize(width * height * picture.planes.size());
    for (std::size_t c = 0; c < picture.planes.size(); ++c) {
      picture.planes[c] = {{picture.pixels.data() + c * width * height,
                            {static_cast<int>(width), static_cast<int>(height)},
                            width},
                           1,
                           1};
    }
  }

  /// Row `y`, from its channels side by side; what is transparent, before black.
  void unpack(const std::uint8_t* row, std::size_t y, Picture& picture) const {
    const std::size_t width = png_get_image_width(png_, info_);
    const std::size_t channels = png_get_channels(png_, info_);
    const std::size_t colors = picture.planes.size();
    std::uint8_t* out = picture.pixels.data() + y * width;
    for (std::size_t c = 0; c < colors; ++c, out += picture.pixels.size() / colors) {
      for (std::size_t x = 0; x < width; ++x) out[x] = row[x * channels + c];
      if (channels == colors) continue;
      for (std::size_t x = 0; x < width; ++x) {
        out[x] = static_cast<std::uint8_t>((out[x] * row[x * channels + colors] + 127) / 255);
      }
    }
  }

  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::span<const std::uint8_t> unread_;
  std::jmp_buf escape_{};
  std::array<char, 256> error_{};
  std::vector<std::uint8_t> rows_;
};

}  // namespace

std::unique_ptr<ImageDecoder> make_png_decoder() { return std::make_unique<PngDecoder>(); }

}  // namespace stpt::data
