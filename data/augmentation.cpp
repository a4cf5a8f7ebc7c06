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

PixelScale scale_of(float mean, float stddev) {
  return {static_cast<float>(double{mean} * 255.0),
          static_cast<float>(1.0 / (double{stddev} * 255.0))};
}

/// Unlike a table of the 256 values it vectorises.
void convert(const std::uint8_t* pixels, std::size_t count, PixelScale scale, float* out) {
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = (static_cast<float>(pixels[i]) - scale.shift) * scale.scale;
  }
}

struct Extent {
  std::size_t channels;
  std::size_t height;
  std::size_t width;
  [[nodiscard]] std::size_t elements() const { return channels * height * width; }
};

/// `image` is cut to `result`.
ImageCut choose(const Augmentation& augmentation, Extent image, Extent result, std::uint64_t seed,
                std::uint64_t epoch, std::uint32_t index) {
  runtime::Random random(seed, runtime::stream_id("augmentation", epoch), index);
  ImageCut cut{index};
  cut.reflected = augmentation.padding == Padding::reflect;
  // The coin first, drawn even where it is not used: each option alone decides what it does.
  bool coin = (random.next() & 1U) != 0;
  if (augmentation.alternate_flip) {
    runtime::Random first(seed, runtime::stream_id("flip"), index);
    coin = ((first.next() + epoch) & 1U) != 0;
  }
  cut.mirrored = coin && augmentation.flip;
  if (augmentation.random_resized_crop) return cut;
  const int padding = augmentation.crop_padding;
  const auto position = [&](std::size_t from, std::size_t to) {
    const std::size_t positions = from + 2 * static_cast<std::size_t>(padding) - to + 1;
    return static_cast<std::int16_t>(
        static_cast<int>(random.below(static_cast<std::uint32_t>(positions))) - padding);
  };
  cut.dy = position(image.height, result.height);
  cut.dx = position(image.width, result.width);
  return cut;
}

ImageCut centred(Extent image, Extent result, std::uint32_t index) {
  return {index, static_cast<std::int16_t>((image.height - result.height) / 2),
          static_cast<std::int16_t>((image.width - result.width) / 2), false};
}

Extent extent_of(const runtime::Shape& shape) {
  return {static_cast<std::size_t>(shape.c), static_cast<std::size_t>(shape.h),
          static_cast<std::size_t>(shape.w)};
}

/// Eight bytes at a time: compilers do not vectorise a reversal of bytes for plain x86-64.
void reverse_bytes(const std::uint8_t* from, std::size_t count, std::uint8_t* to) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, from + i, 8);
    word = __builtin_bswap64(word);
    std::memcpy(to + (count - 8 - i), &word, 8);
  }
  std::reverse_copy(from + i, from + count, to);
}

/// Where pixel `i` of an image with reflecting borders lies in it.
std::size_t reflect(std::ptrdiff_t i, std::size_t side) {
  if (side == 1) return 0;
  const auto last = static_cast<std::ptrdiff_t>(side) - 1;
  const std::ptrdiff_t place = std::abs(i) % (2 * last);
  return static_cast<std::size_t>(place <= last ? place : 2 * last - place);
}

/// Crops and mirrors bytes: a quarter of the traffic of doing it with floats, and the conversion
/// that follows runs over whole channels.
void augment(const std::uint8_t* image, Extent extent, ImageCut choice, std::uint8_t* result,
             Extent cut) {
  // The first and last + 1 place along a side of the result that shows some of the image.
  const auto inside = [](std::ptrdiff_t offset, std::size_t size, std::size_t result_size) {
    const auto side = static_cast<std::ptrdiff_t>(result_size);
    const std::ptrdiff_t first = std::clamp<std::ptrdiff_t>(-offset, 0, side);
    const std::ptrdiff_t last =
        std::clamp<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(size) - offset, first, side);
    return std::pair{static_cast<std::size_t>(first), static_cast<std::size_t>(last)};
  };
  const auto [x_first, x_last] = inside(choice.dx, extent.width, cut.width);
  const auto [y_first, y_last] = inside(choice.dy, extent.height, cut.height);
  const std::size_t count = x_last - x_first;
  const bool padded = count < cut.width || y_last - y_first < cut.height;
  if (padded && !choice.reflected) std::fill_n(result, cut.elements(), std::uint8_t{0});
  const bool all_rows = padded && choice.reflected;
  for (std::size_t c = 0; c < extent.channels; ++c) {
    for (std::size_t y = all_rows ? 0 : y_first; y < (all_rows ? cut.height : y_last); ++y) {
      // Within the image, though the offsets may be negative.
      const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(y) + choice.dy;
      const std::size_t row =
          all_rows ? reflect(place, extent.height) : static_cast<std::size_t>(place);
      const std::uint8_t* from = image + (c * extent.height + row) * extent.width;
      std::uint8_t* to = result + (c * cut.height + y) * cut.width;
      if (count > 0) {
        const auto column = static_cast<std::ptrdiff_t>(x_first) + choice.dx;
        if (choice.mirrored) {
          reverse_bytes(from + column, count, to + (cut.width - x_last));
        } else {
          std::copy_n(from + column, count, to + x_first);
        }
      }
      if (!all_rows) continue;
      const auto fill = [&](std::size_t first, std::size_t last) {
        for (std::size_t x = first; x < last; ++x) {
          to[choice.mirrored ? cut.width - 1 - x : x] =
              from[reflect(static_cast<std::ptrdiff_t>(x) + choice.dx, extent.width)];
        }
      };
      fill(0, x_first);
      fill(x_last, cut.width);
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
  const Extent extent = extent_of(dataset.image_shape());
  const std::size_t area = extent.height * extent.width;
  std::vector<std::uint8_t> image(extent.elements());
  // Integers, hence exact in any order: up to 2^48 pixels fit.
  std::vector<std::uint64_t> sums(extent.channels);
  std::vector<std::uint64_t> square_sums(extent.channels);
  for (const std::uint32_t index : indices) {
    dataset.read(index, image);
    for (std::size_t c = 0; c < extent.channels; ++c) {
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
  for (std::size_t c = 0; c < extent.channels; ++c) {
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

ImageCut image_cut(const runtime::Shape& stored, const runtime::Shape& shape,
                   const Augmentation* augmentation, std::uint64_t seed, std::uint64_t epoch,
                   std::uint32_t index) {
  const Extent from = extent_of(stored), to = extent_of(shape);
  return augmentation != nullptr ? choose(*augmentation, from, to, seed, epoch, index)
                                 : centred(from, to, index);
}

std::vector<PixelScale> pixel_scales(const Normalization& normalization) {
  std::vector<PixelScale> scales;
  for (std::size_t c = 0; c < normalization.mean.size(); ++c)
    scales.push_back(scale_of(normalization.mean[c], normalization.stddev[c]));
  return scales;
}

void load_images(const Dataset& dataset, std::span<const std::uint32_t> indices,
                 const runtime::Shape& shape, const Augmentation* augmentation,
                 const Normalization& normalization, std::uint64_t seed, std::uint64_t epoch,
                 float* images_nchw) {
  const Extent stored = extent_of(dataset.image_shape());
  const Extent cut = extent_of(shape);
  if (cut.channels != stored.channels || cut.height > stored.height || cut.width > stored.width) {
    throw std::invalid_argument("load_images: images of " + dataset.image_shape().to_string() +
                                " cannot be cut to " + shape.to_string());
  }
  if (normalization.mean.size() != cut.channels || normalization.stddev.size() != cut.channels) {
    throw std::invalid_argument("load_images: normalization for " +
                                std::to_string(normalization.mean.size()) +
                                " channels, images have " + std::to_string(cut.channels));
  }
  if (augmentation != nullptr &&
      (augmentation->crop_padding < 0 || augmentation->crop_padding > 4096)) {
    throw std::invalid_argument("load_images: crop_padding " +
                                std::to_string(augmentation->crop_padding));
  }
  const bool resized = augmentation != nullptr && augmentation->random_resized_crop;
  const bool same_size = cut.height == stored.height && cut.width == stored.width;
  // Kept by the thread: batches must not allocate.
  thread_local std::vector<std::uint8_t> image;
  thread_local std::vector<std::uint8_t> changed;
  image.resize(stored.elements());
  changed.resize(cut.elements());

  const std::size_t area = cut.height * cut.width;
  float* out = images_nchw;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const std::uint32_t index = indices[i];
    if (resized) {
      dataset.read_window(
          index, [&](Size size) { return random_resized_window(size, seed, epoch, index); },
          {static_cast<int>(cut.width), static_cast<int>(cut.height)}, image);
    } else {
      dataset.read(index, image);
    }
    const std::uint8_t* pixels = image.data();
    if (augmentation != nullptr || !same_size) {
      const Extent source = resized ? cut : stored;
      const ImageCut choice = augmentation != nullptr
                                  ? choose(*augmentation, source, cut, seed, epoch, index)
                                  : centred(source, cut, index);
      augment(pixels, source, choice, changed.data(), cut);
      pixels = changed.data();
    }
    for (std::size_t c = 0; c < cut.channels; ++c, pixels += area, out += area) {
      convert(pixels, area, scale_of(normalization.mean[c], normalization.stddev[c]), out);
    }
  }
}

}  // namespace stpt::data
