#include "data/augmentation.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "runtime/random.hpp"

namespace stpt::data {
namespace {

using codelets::ImageCut;
using codelets::PixelScale;
using runtime::Shape;

PixelScale scale_of(float mean, float stddev) {
  return {static_cast<float>(double{mean} * 255.0),
          static_cast<float>(1.0 / (double{stddev} * 255.0))};
}

/// Unlike a table of the 256 values it vectorises.
void convert(const std::uint8_t* pixels, std::int64_t count, PixelScale scale, float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = (static_cast<float>(pixels[i]) - scale.shift) * scale.scale;
  }
}

/// Eight bytes at a time: compilers do not vectorise a reversal of bytes for plain x86-64.
void reverse_bytes(const std::uint8_t* from, std::int64_t count, std::uint8_t* to) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, from + i, 8);
    word = __builtin_bswap64(word);
    std::memcpy(to + (count - 8 - i), &word, 8);
  }
  std::reverse_copy(from + i, from + count, to);
}

/// Where pixel `i` of an image with reflecting borders lies in it.
std::int64_t reflect(std::int64_t i, std::int64_t side) {
  if (side == 1) return 0;
  const std::int64_t last = side - 1;
  const std::int64_t place = std::abs(i) % (2 * last);
  return place <= last ? place : 2 * last - place;
}

/// Crops and mirrors bytes: a quarter of the traffic of doing it with floats, and the conversion
/// that follows runs over whole channels.
void augment(const std::uint8_t* image, Shape stored, ImageCut choice, std::uint8_t* result,
             Shape cut) {
  // The first and last + 1 place along a side of the result that shows some of the image.
  const auto inside = [](std::int64_t offset, std::int64_t size, std::int64_t side) {
    const std::int64_t first = std::clamp<std::int64_t>(-offset, 0, side);
    return std::pair{first, std::clamp(size - offset, first, side)};
  };
  const auto [x_first, x_last] = inside(choice.dx, stored.w, cut.w);
  const auto [y_first, y_last] = inside(choice.dy, stored.h, cut.h);
  const std::int64_t count = x_last - x_first;
  const bool padded = count < cut.w || y_last - y_first < cut.h;
  if (padded && !choice.reflected) std::fill_n(result, cut.c * cut.spatial(), std::uint8_t{0});
  const bool all_rows = padded && choice.reflected;
  for (std::int64_t c = 0; c < cut.c; ++c) {
    for (std::int64_t y = all_rows ? 0 : y_first; y < (all_rows ? cut.h : y_last); ++y) {
      // Within the image, though the offsets may be negative.
      const std::int64_t place = y + choice.dy;
      const std::int64_t row = all_rows ? reflect(place, stored.h) : place;
      const std::uint8_t* from = image + (c * stored.h + row) * stored.w;
      std::uint8_t* to = result + (c * cut.h + y) * cut.w;
      if (count > 0) {
        const std::int64_t column = x_first + choice.dx;
        if (choice.mirrored) {
          reverse_bytes(from + column, count, to + (cut.w - x_last));
        } else {
          std::copy_n(from + column, count, to + x_first);
        }
      }
      if (!all_rows) continue;
      const auto fill = [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t x = first; x < last; ++x) {
          to[choice.mirrored ? cut.w - 1 - x : x] = from[reflect(x + choice.dx, stored.w)];
        }
      };
      fill(0, x_first);
      fill(x_last, cut.w);
    }
  }
}

}  // namespace

Normalization no_normalization(int channels) {
  const auto count = static_cast<std::size_t>(channels);
  return {std::vector<float>(count, 0.0F), std::vector<float>(count, 1.0F)};
}

std::vector<std::uint32_t> evenly_spaced(std::span<const std::uint32_t> indices, std::size_t most) {
  const std::size_t count = std::min(most, indices.size());
  std::vector<std::uint32_t> result(count);
  for (std::size_t i = 0; i < count; ++i) result[i] = indices[i * indices.size() / count];
  return result;
}

Normalization compute_normalization(const Dataset& dataset,
                                    std::span<const std::uint32_t> indices) {
  if (indices.empty()) {
    throw DataError(dataset.name() + ": no images to compute mean and standard deviation from");
  }
  const Shape shape = dataset.image_shape();
  const auto channels = static_cast<std::size_t>(shape.c);
  const auto area = static_cast<std::size_t>(shape.spatial());
  std::vector<std::uint8_t> image(channels * area);
  // Integers, hence exact in any order: up to 2^48 pixels fit.
  std::vector<std::uint64_t> sums(channels);
  std::vector<std::uint64_t> square_sums(channels);
  for (const std::uint32_t index : indices) {
    dataset.read(index, image);
    for (std::size_t c = 0; c < channels; ++c) {
      std::uint64_t sum = 0;
      std::uint64_t square_sum = 0;
      for (const std::uint8_t pixel : std::span(image).subspan(c * area, area)) {
        sum += pixel;
        square_sum += std::uint32_t{pixel} * pixel;
      }
      sums[c] += sum;
      square_sums[c] += square_sum;
    }
  }
  Normalization result;
  const double pixels = static_cast<double>(indices.size()) * static_cast<double>(area);
  for (std::size_t c = 0; c < channels; ++c) {
    const double mean = static_cast<double>(sums[c]) / pixels;
    const double mean_square = static_cast<double>(square_sums[c]) / pixels;
    const double variance = std::fma(-mean, mean, mean_square);  // fma: the same bits everywhere
    // Pixels are whole numbers: a channel that varies at all by more than rounding is far above.
    const bool constant = variance <= 1e-9;
    result.mean.push_back(static_cast<float>(mean / 255.0));
    result.stddev.push_back(constant ? 1.0F : static_cast<float>(std::sqrt(variance) / 255.0));
  }
  return result;
}

Window random_resized_window(Size image, std::uint64_t seed, std::uint64_t epoch,
                             std::uint32_t index) {
  constexpr double least_area = 0.08;
  constexpr double widest = 4.0 / 3.0;  // width to height; the narrowest is its inverse
  constexpr int attempts = 10;
  runtime::Random random(seed, runtime::stream_id("random resized crop", epoch), index);
  const double area = static_cast<double>(image.width) * image.height;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    const double part = area * random.uniform(least_area, 1.0);
    const double ratio = std::exp(random.uniform(-std::log(widest), std::log(widest)));
    const auto width = static_cast<int>(std::lround(std::sqrt(part * ratio)));
    const auto height = static_cast<int>(std::lround(std::sqrt(part / ratio)));
    if (width < 1 || height < 1 || width > image.width || height > image.height) continue;
    const auto x = random.below(static_cast<std::uint32_t>(image.width - width) + 1);
    const auto y = random.below(static_cast<std::uint32_t>(image.height - height) + 1);
    return {static_cast<int>(x), static_cast<int>(y), width, height};
  }
  const auto at_most = [](int side, int other) {
    return std::clamp(static_cast<int>(std::lround(other * widest)), 1, side);
  };
  const int width = at_most(image.width, image.height);
  const int height = at_most(image.height, image.width);
  return {(image.width - width) / 2, (image.height - height) / 2, width, height};
}

ImageCut image_cut(const Shape& stored, const Shape& shape, const Augmentation* augmentation,
                   std::uint64_t seed, std::uint64_t epoch, std::uint32_t index) {
  ImageCut cut{index};
  if (augmentation == nullptr) {
    cut.dy = static_cast<std::int16_t>((stored.h - shape.h) / 2);
    cut.dx = static_cast<std::int16_t>((stored.w - shape.w) / 2);
    return cut;
  }
  runtime::Random random(seed, runtime::stream_id("augmentation", epoch), index);
  cut.reflected = augmentation->padding == Padding::reflect;
  // The coin first, drawn even where it is not used: each option alone decides what it does.
  bool coin = (random.next() & 1U) != 0;
  if (augmentation->alternate_flip) {
    runtime::Random first(seed, runtime::stream_id("flip"), index);
    coin = ((first.next() + epoch) & 1U) != 0;
  }
  cut.mirrored = coin && augmentation->flip;
  if (augmentation->random_resized_crop) return cut;
  const int padding = augmentation->crop_padding;
  const auto position = [&](std::int64_t from, std::int64_t to) {
    const auto positions = static_cast<std::uint32_t>(from + 2 * padding - to + 1);
    return static_cast<std::int16_t>(static_cast<int>(random.below(positions)) - padding);
  };
  cut.dy = position(stored.h, shape.h);
  cut.dx = position(stored.w, shape.w);
  return cut;
}

std::vector<PixelScale> pixel_scales(const Normalization& normalization) {
  std::vector<PixelScale> scales;
  for (std::size_t c = 0; c < normalization.mean.size(); ++c)
    scales.push_back(scale_of(normalization.mean[c], normalization.stddev[c]));
  return scales;
}

void load_images(const Dataset& dataset, std::span<const std::uint32_t> indices, const Shape& shape,
                 const Augmentation* augmentation, const Normalization& normalization,
                 std::uint64_t seed, std::uint64_t epoch, float* images_nchw) {
  const Shape stored = dataset.image_shape();
  if (shape.c != stored.c || shape.h > stored.h || shape.w > stored.w) {
    throw std::invalid_argument("load_images: images of " + stored.to_string() +
                                " cannot be cut to " + shape.to_string());
  }
  const auto channels = static_cast<std::size_t>(shape.c);
  if (normalization.mean.size() != channels || normalization.stddev.size() != channels) {
    throw std::invalid_argument("load_images: normalization for " +
                                std::to_string(normalization.mean.size()) +
                                " channels, images have " + std::to_string(channels));
  }
  if (augmentation != nullptr &&
      (augmentation->crop_padding < 0 || augmentation->crop_padding > 4096)) {
    throw std::invalid_argument("load_images: crop_padding " +
                                std::to_string(augmentation->crop_padding));
  }
  const bool resized = augmentation != nullptr && augmentation->random_resized_crop;
  const bool same_size = shape.h == stored.h && shape.w == stored.w;
  const std::int64_t area = shape.spatial();
  // Kept by the thread: batches must not allocate.
  thread_local std::vector<std::uint8_t> image;
  thread_local std::vector<std::uint8_t> changed;
  image.resize(static_cast<std::size_t>(stored.elements()));
  changed.resize(static_cast<std::size_t>(shape.c * area));

  float* out = images_nchw;
  for (const std::uint32_t index : indices) {
    if (resized) {
      dataset.read_window(
          index, [&](Size size) { return random_resized_window(size, seed, epoch, index); },
          {static_cast<int>(shape.w), static_cast<int>(shape.h)}, image);
    } else {
      dataset.read(index, image);
    }
    const std::uint8_t* pixels = image.data();
    if (augmentation != nullptr || !same_size) {
      const Shape& source = resized ? shape : stored;
      augment(pixels, source, image_cut(source, shape, augmentation, seed, epoch, index),
              changed.data(), shape);
      pixels = changed.data();
    }
    for (std::size_t c = 0; c < channels; ++c, pixels += area, out += area) {
      convert(pixels, area, scale_of(normalization.mean[c], normalization.stddev[c]), out);
    }
  }
}

}  // namespace stpt::data
