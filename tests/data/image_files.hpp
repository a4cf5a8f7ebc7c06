// Small JPEG and PNG files for tests, written by the libraries themselves.
#pragma once

#include <png.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <vector>
// After <cstdio>: it uses FILE.
#include <jpeglib.h>

#include "data/dataset.hpp"

namespace stpt::data::testing {

using Bytes = std::vector<std::uint8_t>;
using Color = std::array<std::uint8_t, 4>;  ///< as many as there are channels
using Paint = std::function<Color(int x, int y)>;

inline Paint plain(Color color) {
  return [color](int, int) { return color; };
}

struct JpegOptions {
  J_COLOR_SPACE painted = JCS_RGB;
  J_COLOR_SPACE stored = JCS_YCbCr;
  int luma_factor = 2;  ///< 2: chroma has half the resolution both ways
  bool progressive = false;
  bool adobe_marker = true;  ///< of CMYK
};

/// Quality 100, so that what differs is the reader's.
inline Bytes jpeg_file(Size size, const Paint& paint, const JpegOptions& options = {}) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  errors.error_exit = [](j_common_ptr) { std::abort(); };  // the test itself is wrong
  jpeg_create_compress(&jpeg);
  unsigned char* memory = nullptr;
  unsigned long length = 0;  // NOLINT: libjpeg's type
  jpeg_mem_dest(&jpeg, &memory, &length);
  jpeg.image_width = static_cast<JDIMENSION>(size.width);
  jpeg.image_height = static_cast<JDIMENSION>(size.height);
  jpeg.in_color_space = options.painted;
  jpeg.input_components = options.painted == JCS_GRAYSCALE ? 1
                          : options.painted == JCS_CMYK    ? 4
                                                           : 3;
  jpeg_set_defaults(&jpeg);
  jpeg_set_colorspace(&jpeg, options.stored);
  jpeg_set_quality(&jpeg, 100, TRUE);
  if (!options.adobe_marker) jpeg.write_Adobe_marker = FALSE;
  jpeg.comp_info[0].h_samp_factor = jpeg.comp_info[0].v_samp_factor = options.luma_factor;
  if (options.progressive) jpeg_simple_progression(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  const auto channels = static_cast<std::size_t>(jpeg.input_components);
  Bytes row(static_cast<std::size_t>(size.width) * channels);
  for (int y = 0; y < size.height; ++y) {
    for (int x = 0; x < size.width; ++x) {
      const Color color = paint(x, y);
      std::copy_n(color.begin(), channels, row.begin() + x * static_cast<std::ptrdiff_t>(channels));
    }
    JSAMPROW pointer = row.data();
    jpeg_write_scanlines(&jpeg, &pointer, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  Bytes file(memory, memory + length);
  std::free(memory);
  return file;
}

/// `format` is one of libpng's PNG_FORMAT_...; 8 bits a channel, or 16 (linear light).
inline Bytes png_file(Size size, const Paint& paint, png_uint_32 format = PNG_FORMAT_RGB) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(size.width);
  image.height = static_cast<png_uint_32>(size.height);
  image.format = format;
  const std::size_t channels = PNG_IMAGE_SAMPLE_CHANNELS(format);
  const bool deep = (format & PNG_FORMAT_FLAG_LINEAR) != 0;
  std::vector<std::uint16_t> deep_pixels;
  Bytes pixels;
  for (int y = 0; y < size.height; ++y) {
    for (int x = 0; x < size.width; ++x) {
      const Color color = paint(x, y);
      for (std::size_t c = 0; c < channels; ++c) {
        pixels.push_back(color[c]);
        deep_pixels.push_back(static_cast<std::uint16_t>(color[c] * 257));
      }
    }
  }
  const void* buffer = deep ? static_cast<const void*>(deep_pixels.data()) : pixels.data();
  png_alloc_size_t length = 0;
  png_image_write_to_memory(&image, nullptr, &length, 0, buffer, 0, nullptr);
  Bytes file(length);
  if (png_image_write_to_memory(&image, file.data(), &length, 0, buffer, 0, nullptr) == 0) {
    throw std::runtime_error(image.message);
  }
  file.resize(length);
  return file;
}

inline void write_bytes(const std::filesystem::path& path, const Bytes& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  if (!out) throw std::runtime_error(path.string() + ": cannot be written");
}

}  // namespace stpt::data::testing
