#include "data/image_decoder.hpp"

#include <cmath>
#include <string>

#include "runtime/random.hpp"
#include "tests/catch.hpp"
#include "tests/data/image_files.hpp"

namespace {

using namespace stpt::data;
using namespace stpt::data::testing;

Bytes decoded(const Bytes& file, Size size) {
  Bytes out(3 * static_cast<std::size_t>(size.width) * static_cast<std::size_t>(size.height));
  decode_rgb(
      file,
      [](Size whole) {
        return Window{0, 0, whole.width, whole.height};
      },
      size, out);
  return out;
}

std::string error_of(const Bytes& file) {
  try {
    (void)decoded(file, {8, 8});
  } catch (const ImageError& error) {
    return error.what();
  }
  return "no error";
}

/// The first bytes of a file.
Bytes part(const Bytes& file, std::size_t size) {
  return {file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)};
}

/// The largest difference from a plain colour.
int distance(const Bytes& chw, Color color) {
  int worst = 0;
  for (std::size_t i = 0; i < chw.size(); ++i) {
    worst = std::max(worst, std::abs(chw[i] - color[i / (chw.size() / 3)]));
  }
  return worst;
}

Color gradient(int x, int y) {
  return {static_cast<std::uint8_t>(x), static_cast<std::uint8_t>(2 * y),
          static_cast<std::uint8_t>(255 - x), 0};
}

/// Mean difference from the gradient, for an image of 128 x 96 in its own size.
double gradient_error(const Bytes& chw) {
  double sum = 0;
  for (int y = 0; y < 96; ++y) {
    for (int x = 0; x < 128; ++x) {
      for (std::size_t c = 0; c < 3; ++c) {
        sum +=
            std::abs(chw[c * 128 * 96 + static_cast<std::size_t>(y * 128 + x)] - gradient(x, y)[c]);
      }
    }
  }
  return sum / static_cast<double>(chw.size());
}

constexpr Color orange{230, 120, 40, 0};
// Quality 100 quantises by 1: a level from the transform, one from each conversion of colours.
constexpr int jpeg_tolerance = 3;

}  // namespace

TEST_CASE("JPEG files of every kind give their colours", "[image]") {
  JpegOptions options;
  SECTION("subsampled chroma") {}
  SECTION("full chroma") { options.luma_factor = 1; }
  SECTION("progressive") { options.progressive = true; }
  SECTION("stored as RGB") {
    options.stored = JCS_RGB;
    options.luma_factor = 1;
  }
  CHECK(distance(decoded(jpeg_file({37, 21}, plain(orange), options), {16, 12}), orange) <=
        jpeg_tolerance);
  // Chroma of half the resolution is a ramp that interpolation restores, but for the border.
  CHECK(gradient_error(decoded(jpeg_file({128, 96}, gradient, options), {128, 96})) < 1.5);
}

TEST_CASE("a gray JPEG gives three equal channels", "[image]") {
  const JpegOptions options{JCS_GRAYSCALE, JCS_GRAYSCALE, 1};
  CHECK(distance(decoded(jpeg_file({20, 20}, plain({99}), options), {10, 10}), {99, 99, 99}) <= 1);
}

TEST_CASE("CMYK JPEG files give the colours of their inks", "[image]") {
  // Light let through by each ink and by black: 230/255 * 200/255 and so on.
  const Color light{230, 120, 40, 200};
  const Color seen{180, 94, 31, 0};
  Color ink = light;
  for (std::uint8_t& value : ink) value = static_cast<std::uint8_t>(255 - value);
  JpegOptions options{JCS_CMYK, JCS_CMYK, 1};
  SECTION("Adobe's, where bytes are light") {
    CHECK(distance(decoded(jpeg_file({20, 20}, plain(light), options), {10, 10}), seen) <=
          jpeg_tolerance);
  }
  SECTION("Adobe's as YCCK") {
    options.stored = JCS_YCCK;
    options.luma_factor = GENERATE(1, 2);
    CHECK(distance(decoded(jpeg_file({20, 20}, plain(light), options), {10, 10}), seen) <=
          jpeg_tolerance);
  }
  SECTION("others', where bytes are ink") {
    options.adobe_marker = false;
    CHECK(distance(decoded(jpeg_file({20, 20}, plain(ink), options), {10, 10}), seen) <=
          jpeg_tolerance);
  }
}

TEST_CASE("PNG files of every kind give their colours", "[image]") {
  const Size size{21, 13};
  const auto colors = [&](Color painted, const PngOptions& options) {
    return decoded(png_file(size, plain(painted), options), {9, 9});
  };
  const int bits = GENERATE(8, 16);
  const bool interlaced = GENERATE(false, true);
  // Chunks that say how bright the values are do not matter, as with PyTorch's readers.
  const double gamma = GENERATE(0.0, 0.45455, 1.0);
  PngOptions options{.bits = bits, .interlaced = interlaced, .gamma = gamma};
  CHECK(distance(colors(orange, options), orange) == 0);
  CHECK(gradient_error(decoded(png_file({128, 96}, gradient, options), {128, 96})) == 0);
  options.type = PNG_COLOR_TYPE_GRAY;
  CHECK(distance(colors({128}, options), {128, 128, 128}) == 0);
  CHECK(distance(colors({20}, options), {20, 20, 20}) == 0);
  // Opaque, half and not at all, before black: the values are mixed as they are.
  options.type = PNG_COLOR_TYPE_GRAY_ALPHA;
  CHECK(distance(colors({200, 255}, options), {200, 200, 200}) == 0);
  CHECK(distance(colors({200, 128}, options), {100, 100, 100}) == 0);
  options.type = PNG_COLOR_TYPE_RGB_ALPHA;
  CHECK(distance(colors({10, 20, 200, 255}, options), {10, 20, 200}) == 0);
  CHECK(distance(colors({10, 20, 200, 128}, options), {5, 10, 100}) == 0);
  CHECK(distance(colors({10, 20, 200, 0}, options), {0, 0, 0}) == 0);
}

TEST_CASE("PNG files of few bits give their grays", "[image]") {
  const int bits = GENERATE(1, 2, 4);
  const int most = (1 << bits) - 1;
  const PngOptions options{
      .type = PNG_COLOR_TYPE_GRAY, .bits = bits, .interlaced = GENERATE(false, true)};
  const Bytes ramp = decoded(
      png_file(
          {16, 3}, [most](int x, int) { return Color{static_cast<std::uint8_t>(x & most)}; },
          options),
      {16, 3});
  for (int x = 0; x < 16; ++x) CHECK(ramp[static_cast<std::size_t>(x)] == (x & most) * 255 / most);
}

TEST_CASE("a palette PNG gives its colours", "[image]") {
  PngOptions options{.type = PNG_COLOR_TYPE_PALETTE,
                     .bits = GENERATE(1, 2, 4, 8),
                     .interlaced = GENERATE(false, true),
                     .palette = {{1, 2, 3}, {200, 100, 50}}};
  CHECK(distance(decoded(png_file({5, 4}, plain({1}), options), {5, 4}), {200, 100, 50}) == 0);
  options.palette_alpha = {255, 128};
  CHECK(distance(decoded(png_file({5, 4}, plain({1}), options), {5, 4}), {100, 50, 25}) == 0);
}

TEST_CASE("the transparent colour of a PNG stands before black", "[image]") {
  // Left of column 4 a colour that is transparent, right of it one that differs by the least.
  const auto halves = [](int x, int) { return x < 4 ? Color{9, 9, 9} : Color{9, 9, 8}; };
  png_color_16 transparent{};
  PngOptions options{.bits = GENERATE(8, 16), .transparent = &transparent};
  transparent.red = transparent.green = transparent.blue = transparent.gray =
      static_cast<png_uint_16>(options.bits == 16 ? 9 * 257 : 9);
  const Bytes colors = decoded(png_file({8, 1}, halves, options), {8, 1});
  CHECK(colors == Bytes{0, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0, 8, 8, 8, 8});
  options.type = PNG_COLOR_TYPE_GRAY;
  CHECK(distance(decoded(png_file({8, 1}, plain({9}), options), {8, 1}), {0, 0, 0}) == 0);
  CHECK(distance(decoded(png_file({8, 1}, plain({8}), options), {8, 1}), {8, 8, 8}) == 0);
}

TEST_CASE("a large JPEG is decoded smaller, and looks the same", "[image]") {
  const auto wave = [](int x, int y) {
    const auto value = static_cast<std::uint8_t>(
        std::lround(127.5 + 80 * std::sin(x / 60.0) * std::cos(y / 50.0)));
    return Color{value, static_cast<std::uint8_t>(255 - value), value, 0};
  };
  const Bytes small = decoded(jpeg_file({640, 480}, wave), {40, 30});
  const Bytes reference = decoded(png_file({640, 480}, wave), {40, 30});
  double sum = 0;
  for (std::size_t i = 0; i < small.size(); ++i) sum += std::abs(small[i] - reference[i]);
  CHECK(sum / static_cast<double>(small.size()) < 1.0);
}

TEST_CASE("a window is cut out of the stored image", "[image]") {
  // Red left of column 64, blue right of it.
  const Bytes file = png_file({100, 40}, [](int x, int) {
    return x < 64 ? Color{255, 0, 0, 0} : Color{0, 0, 255, 0};
  });
  Bytes out(3 * 8 * 8);
  Size asked;
  decode_rgb(
      file,
      [&asked](Size size) {
        asked = size;
        return Window{70, 5, 30, 30};
      },
      {8, 8}, out);
  CHECK(asked == Size{100, 40});
  CHECK(distance(out, {0, 0, 255}) == 0);
}

TEST_CASE("Files that are no images are refused with a reason", "[image]") {
  const Bytes jpeg = jpeg_file({64, 64}, gradient);
  const Bytes png = png_file({64, 64}, gradient);
  const auto text = [](const std::string& words) { return Bytes(words.begin(), words.end()); };
  CHECK(error_of({}) == "is empty");
  CHECK(error_of(text("<html>404</html>")) == "is neither a JPEG nor a PNG file");
  CHECK(error_of(text("\xff\xd8")) == "cannot be decoded as JPEG: Premature end of JPEG file");
  CHECK(error_of(part(jpeg, jpeg.size() / 2)) ==
        "cannot be decoded as JPEG: Premature end of JPEG file");
  const std::string truncated = "cannot be decoded as PNG: read beyond end of data";
  CHECK(error_of(part(png, 6)) == truncated);
  CHECK(error_of(part(png, 30)) == truncated);
  CHECK(error_of(part(png, png.size() / 2)) == truncated);
  Bytes damaged = png;
  damaged[png.size() - 14] ^= 1U;  // before IEND, in the checksum of the pixels
  CHECK(error_of(damaged) == "cannot be decoded as PNG: IDAT: CRC error");

  // Both sides claim the most that libjpeg takes: in the frame header after 0xffc0, length and
  // precision.
  Bytes huge = jpeg;
  const Bytes frame{0xff, 0xc0};
  const auto found = std::search(huge.begin(), huge.end(), frame.begin(), frame.end());
  REQUIRE(found != huge.end());
  const Bytes sides{0xff, 0xdc, 0xff, 0xdc};
  std::ranges::copy(sides, found + 5);
  CHECK(error_of(huge) == "claims 65500x65500 pixels; at most 100000000 can be read");
  std::fill_n(found + 5, 4, std::uint8_t{0xff});
  CHECK_THAT(error_of(huge), Catch::Matchers::StartsWith("cannot be decoded as JPEG: Maximum "));
  std::fill_n(found + 5, 4, std::uint8_t{0});
  CHECK_THAT(error_of(huge), Catch::Matchers::StartsWith("cannot be decoded as JPEG: "));
}

TEST_CASE("the decoder works on after a broken file", "[image]") {
  const bool is_png = GENERATE(false, true);
  const Bytes file = is_png ? png_file({64, 64}, gradient) : jpeg_file({64, 64}, plain(orange));
  const Bytes before = decoded(file, {16, 16});
  CHECK(error_of(part(file, file.size() / 2)) != "no error");
  CHECK(decoded(file, {16, 16}) == before);
}

TEST_CASE("Damaged files neither crash nor hang", "[image]") {
  stpt::runtime::Random random(1, stpt::runtime::stream_id("damage"));
  JpegOptions progressive;
  progressive.progressive = true;
  int refused = 0;
  int accepted = 0;
  for (const Bytes& file :
       {jpeg_file({64, 48}, gradient), jpeg_file({64, 48}, gradient, progressive),
        jpeg_file({64, 48}, gradient, {JCS_CMYK, JCS_YCCK}), png_file({64, 48}, gradient),
        png_file({64, 48}, gradient, {.bits = 16, .interlaced = true})}) {
    for (int round = 0; round < 300; ++round) {
      Bytes damaged = file;
      for (std::uint32_t i = 0; i <= random.below(4); ++i) {
        damaged[random.below(static_cast<std::uint32_t>(damaged.size()))] =
            static_cast<std::uint8_t>(random.next());
      }
      (error_of(damaged) == "no error" ? accepted : refused) += 1;
    }
  }
  CHECK(refused > 0);
  CHECK(accepted > 0);
}
