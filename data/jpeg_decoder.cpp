#include <csetjmp>
#include <cstdio>
// After <cstdio>: it uses FILE.
#include <jerror.h>
#include <jpeglib.h>

#include <array>
#include <string>

#include "data/image_decoder.hpp"

namespace stpt::data {
namespace {

// libjpeg's API from version 7 on scales both directions separately.
#if JPEG_LIB_VERSION >= 70
int scaled_size(const jpeg_component_info& component) { return component.DCT_h_scaled_size; }
int scaled_size(const jpeg_decompress_struct& jpeg) { return jpeg.min_DCT_h_scaled_size; }
#else
int scaled_size(const jpeg_component_info& component) { return component.DCT_scaled_size; }
int scaled_size(const jpeg_decompress_struct& jpeg) { return jpeg.min_DCT_scaled_size; }
#endif

/// Decodes into the components as they are stored: chroma is not brought to the size of luma and
/// no colours are converted, since resizing to the wanted size does the one and leaves less to do
/// for the other.
///
/// libjpeg reports errors by a function that must not return. It jumps back into open() or
/// decode(), where nothing that has a destructor lives between setjmp() and the calls.
class JpegDecoder final : public ImageDecoder {
 public:
  JpegDecoder() {
    jpeg_.err = jpeg_std_error(&errors_);
    errors_.error_exit = [](j_common_ptr jpeg) {
      std::longjmp(static_cast<JpegDecoder*>(jpeg->client_data)->escape_, 1);
    };
    errors_.emit_message = [](j_common_ptr jpeg, int level) {
      // Of what is merely odd, only lost image data counts: libjpeg would fill in gray.
      const int code = jpeg->err->msg_code;
      if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER ||
                        code == JWRN_HUFF_BAD_CODE || code == JWRN_MUST_RESYNC)) {
        jpeg->err->error_exit(jpeg);
      }
    };
    progress_.progress_monitor = [](j_common_ptr jpeg) {
      // A hostile progressive file can ask for work without end.
      constexpr int most_scans = 500;
      auto* self = static_cast<JpegDecoder*>(jpeg->client_data);
      if (self->jpeg_.input_scan_number > most_scans) {
        jpeg->err->msg_code = 0;
        self->too_many_scans_ = true;
        jpeg->err->error_exit(jpeg);
      }
    };
    jpeg_.client_data = this;
    if (setjmp(escape_) != 0) fail();
    jpeg_create_decompress(&jpeg_);  // keeps client_data
    jpeg_.progress = &progress_;
  }
  ~JpegDecoder() override { jpeg_destroy_decompress(&jpeg_); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  Size open(std::span<const std::uint8_t> file) override {
    jpeg_abort_decompress(&jpeg_);
    too_many_scans_ = false;
    if (setjmp(escape_) != 0) fail();
    jpeg_mem_src(&jpeg_, file.data(), file.size());
    jpeg_read_header(&jpeg_, TRUE);
    return {static_cast<int>(jpeg_.image_width), static_cast<int>(jpeg_.image_height)};
  }

  void decode(int reduction, Picture& picture) override {
    picture.model = model();
    jpeg_.scale_num = 1;
    jpeg_.scale_denom = static_cast<unsigned>(reduction);
    jpeg_.out_color_space = jpeg_.jpeg_color_space;
    jpeg_.raw_data_out = TRUE;
    if (setjmp(escape_) != 0) fail();
    jpeg_start_decompress(&jpeg_);
    lay_out(picture);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPARRAY components[MAX_COMPS_IN_SCAN];
      for (int c = 0; c < jpeg_.num_components; ++c) {
        const Plane& plane = picture.planes[static_cast<std::size_t>(c)];
        const jpeg_component_info& component = jpeg_.comp_info[c];
        components[c] = rows_[c];
        const int rows = component.v_samp_factor * scaled_size(component);
        for (int r = 0; r < rows; ++r, next_[c] += plane.view.stride) rows_[c][r] = next_[c];
      }
      jpeg_read_raw_data(&jpeg_, components,
                         static_cast<JDIMENSION>(jpeg_.max_v_samp_factor * scaled_size(jpeg_)));
    }
    jpeg_finish_decompress(&jpeg_);
  }

 private:
  [[noreturn]] void fail() {
    std::string text = "has too many scans";
    if (!too_many_scans_) {
      char message[JMSG_LENGTH_MAX];
      errors_.format_message(reinterpret_cast<j_common_ptr>(&jpeg_), message);
      text = message;
    }
    jpeg_abort_decompress(&jpeg_);
    throw ImageError("cannot be decoded as JPEG: " + text);
  }

  [[nodiscard]] ColorModel model() const {
    switch (jpeg_.jpeg_color_space) {
      case JCS_GRAYSCALE:
        return ColorModel::gray;
      case JCS_RGB:
        return ColorModel::rgb;
      case JCS_YCbCr:
        return ColorModel::ycc;
      case JCS_CMYK:
        return jpeg_.saw_Adobe_marker != 0 ? ColorModel::cmyk_inverted : ColorModel::cmyk;
      case JCS_YCCK:
        return ColorModel::ycck;
      default:
        throw ImageError("cannot be decoded as JPEG: " + std::to_string(jpeg_.num_components) +
                         " components of no known colour space");
    }
  }

  /// Whole blocks, as libjpeg writes them; the planes show the part that belongs to the image.
  void lay_out(Picture& picture) {
    const auto count = static_cast<std::size_t>(jpeg_.num_components);
    picture.planes.resize(count);
    std::array<std::size_t, MAX_COMPS_IN_SCAN> offsets{};
    std::size_t bytes = 0;
    for (std::size_t c = 0; c < count; ++c) {
      const jpeg_component_info& component = jpeg_.comp_info[c];
      const auto side = static_cast<std::size_t>(scaled_size(component));
      const auto padded = [side](JDIMENSION blocks, int factor) {
        const auto whole = static_cast<std::size_t>(factor);
        return (blocks + whole - 1) / whole * whole * side;
      };
      Plane& plane = picture.planes[c];
      plane.view.size = {static_cast<int>(component.downsampled_width),
                         static_cast<int>(component.downsampled_height)};
      plane.view.stride = padded(component.width_in_blocks, component.h_samp_factor);
      const double per_pixel = static_cast<double>(side) / DCTSIZE;
      plane.scale_x = per_pixel * component.h_samp_factor / jpeg_.max_h_samp_factor;
      plane.scale_y = per_pixel * component.v_samp_factor / jpeg_.max_v_samp_factor;
      offsets[c] = bytes;
      bytes += plane.view.stride * padded(component.height_in_blocks, component.v_samp_factor);
    }
    picture.pixels.resize(bytes);
    for (std::size_t c = 0; c < count; ++c) {
      next_[c] = picture.pixels.data() + offsets[c];
      picture.planes[c].view.pixels = next_[c];
    }
  }

  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf escape_{};
  bool too_many_scans_ = false;
  JSAMPROW rows_[MAX_COMPS_IN_SCAN][MAX_SAMP_FACTOR * DCTSIZE] = {};
  JSAMPROW next_[MAX_COMPS_IN_SCAN] = {};  ///< the row of each component that comes next
};

}  // namespace

std::unique_ptr<ImageDecoder> make_jpeg_decoder() { return std::make_unique<JpegDecoder>(); }

}  // namespace stpt::data
