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

struct PngOptions {
  int type = PNG_COLOR_TYPE_RGB;
  int bits = 8;  ///< a channel; 16: what is painted, twice
  bool interlaced = false;
  double gamma = 0;                     ///< what a gAMA chunk says; 0: there is none
  std::vector<png_color> palette = {};  ///< painted are indices
  Bytes palette_alpha = {};
  const png_color_16* transparent = nullptr;  ///< the colour that is, in the file's bits
};

/// A channel of fewer than 8 bits takes them from the lower ones of what is painted.
inline Bytes png_file(Size size, const Paint& paint, const PngOptions& options = {}) {
  // Without functions for errors libpng ends the program: the test itself is wrong.
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  Bytes file;
  png_set_write_fn(
      png, &file,
      [](png_structp to, png_bytep bytes, std::size_t count) {
        auto& out = *static_cast<Bytes*>(png_get_io_ptr(to));
        out.insert(out.end(), bytes, bytes + count);
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(size.width),
               static_cast<png_uint_32>(size.height), options.bits, options.type,
               options.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (options.gamma != 0) png_set_gAMA(png, info, options.gamma);
  if (!options.palette.empty())
    png_set_PLTE(png, info, options.palette.data(), static_cast<int>(options.palette.size()));
  if (!options.palette_alpha.empty() || options.transparent != nullptr) {
    png_set_tRNS(png, info, options.palette_alpha.data(),
                 static_cast<int>(options.palette_alpha.size()), options.transparent);
  }
  png_write_info(png, info);
  png_set_packing(png);
  const std::size_t channels = png_get_channels(png, info);
  const std::size_t bytes = options.bits == 16 ? 2 : 1;
  Bytes row(static_cast<std::size_t>(size.width) * channels * bytes);
  const int passes = png_set_interlace_handling(png);
  for (int pass = 0; pass < passes; ++pass) {
    for (int y = 0; y < size.height; ++y) {
      for (std::size_t i = 0; i < row.size(); ++i) {
        const std::size_t sample = i / bytes;
        row[i] = paint(static_cast<int>(sample / channels), y)[sample % channels];
      }
      png_write_row(png, row.data());
    }
  }
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
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
