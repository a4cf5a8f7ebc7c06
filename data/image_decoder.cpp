#include "data/image_decoder.hpp"

#include <algorithm>
#include <string>

namespace stpt::data {
namespace {

/// The most that a decoder may reduce both sides by and still have a pixel for each wanted one.
int reduction_for(const Window& window, Size size) {
  int reduction = 8;
  while (reduction > 1 &&
         (window.width < size.width * reduction || window.height < size.height * reduction)) {
    reduction /= 2;
  }
  return reduction;
}

std::uint8_t to_byte(int value) { return static_cast<std::uint8_t>(std::clamp(value, 0, 255)); }

/// In place, from Y, Cb, Cr to red, green, blue; in 2^-16, rounded.
void ycc_to_rgb(std::size_t count, std::uint8_t* __restrict first, std::uint8_t* __restrict second,
                std::uint8_t* __restrict third) {
  constexpr int half = 1 << 15;
  constexpr int red_of_cr = 91881;     // 1.402
  constexpr int green_of_cb = -22554;  // -0.344136
  constexpr int green_of_cr = -46802;  // -0.714136
  constexpr int blue_of_cb = 116130;   // 1.772
  for (std::size_t i = 0; i < count; ++i) {
    const int y = (first[i] << 16) + half;
    const int cb = second[i] - 128;
    const int cr = third[i] - 128;
    first[i] = to_byte((y + red_of_cr * cr) >> 16);
    second[i] = to_byte((y + green_of_cb * cb + green_of_cr * cr) >> 16);
    third[i] = to_byte((y + blue_of_cb * cb) >> 16);
  }
}

/// In place: the light that an ink and black let through together, of bytes that say how much each
/// lets through once the masks have turned them round.
void cmyk_to_rgb(std::size_t count, int ink_mask, int black_mask, std::uint8_t* ink,
                 const std::uint8_t* black) {
  for (std::size_t i = 0; i < count; ++i) {
    const int light = (ink[i] ^ ink_mask) * (black[i] ^ black_mask);
    ink[i] = static_cast<std::uint8_t>((light + 127) / 255);
  }
}

ImageDecoder& decoder_of(std::span<const std::uint8_t> file) {
  thread_local const std::unique_ptr<ImageDecoder> jpeg = make_jpeg_decoder();
  thread_local const std::unique_ptr<ImageDecoder> png = make_png_decoder();
  const auto starts_with = [file](std::initializer_list<std::uint8_t> signature) {
    return file.size() >= signature.size() &&
           std::equal(signature.begin(), signature.end(), file.begin());
  };
  if (file.empty()) throw ImageError("is empty");
  if (starts_with({0xff, 0xd8})) return *jpeg;
  if (starts_with({0x89, 'P', 'N', 'G'})) return *png;
  throw ImageError("is neither a JPEG nor a PNG file");
}

}  // namespace

void decode_rgb(std::span<const std::uint8_t> file, const ChooseWindow& choose, Size size,
                std::span<std::uint8_t> chw) {
  // Kept by the thread: images must not allocate.
  thread_local Picture picture;
  thread_local std::vector<std::uint8_t> black;
  ImageDecoder& decoder = decoder_of(file);
  const Size stored = decoder.open(file);
  if (stored.area() > most_pixels) {
    throw ImageError("claims " + std::to_string(stored.width) + "x" +
                     std::to_string(stored.height) + " pixels; at most " +
                     std::to_string(most_pixels) + " can be read");
  }
  const Window window = choose(stored);
  decoder.decode(reduction_for(window, size), picture);

  const std::size_t area = size.area();
  if (picture.planes.size() > 3) black.resize(area);
  const auto channel = [&](std::size_t number) {
    return number < 3 ? chw.data() + number * area : black.data();
  };
  for (std::size_t number = 0; number < picture.planes.size(); ++number) {
    const Plane& plane = picture.planes[number];
    resize(plane.view,
           {window.x * plane.scale_x, window.y * plane.scale_y, window.width * plane.scale_x,
            window.height * plane.scale_y},
           size, channel(number));
  }
  switch (picture.model) {
    case ColorModel::gray:
      std::copy_n(channel(0), area, channel(1));
      std::copy_n(channel(0), area, channel(2));
      break;
    case ColorModel::rgb:
      break;
    case ColorModel::ycc:
      ycc_to_rgb(area, channel(0), channel(1), channel(2));
      break;
    case ColorModel::ycck:
      ycc_to_rgb(area, channel(0), channel(1), channel(2));
      [[fallthrough]];
    case ColorModel::cmyk:
    case ColorModel::cmyk_inverted:
      for (std::size_t number = 0; number < 3; ++number) {
        cmyk_to_rgb(area, picture.model == ColorModel::cmyk_inverted ? 0 : 255,
                    picture.model == ColorModel::cmyk ? 255 : 0, channel(number), black.data());
      }
      break;
  }
  // One huge image must not keep its memory for ever.
  constexpr std::size_t usual_bytes = std::size_t{64} << 20U;
  if (picture.pixels.size() > usual_bytes) picture = {};
}

}  // namespace stpt::data
