#include "data/augmentation.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "runtime/random.hpp"

namespace stpt::data {
namespace {

/// value = (pixel - shift) * scale. A subtraction and a multiplication cannot be contracted into
/// one rounding, so every compiler and instruction set yields the same bits; unlike a table of the
/// 256 values it vectorises.
struct Affine {
  float shift;
  float scale;
  [[nodiscard]] float operator()(std::uint8_t pixel) const {
    return (static_cast<float>(pixel) - shift) * scale;
  }
};

Affine affine_of(float mean, float stddev) {
  return {static_cast<float>(double{mean} * 255.0),
          static_cast<float>(1.0 / (double{stddev} * 255.0))};
}

void convert(const std::uint8_t* pixels, std::size_t count, Affine affine, float* out) {
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = affine(pixels[i]);
  }
}

struct Extent {
  std::size_t channels;
  std::size_t height;
  std::size_t width;
  [[nodiscard]] std::size_t elements() const { return channels * height * width; }
};

/// What is done to one image: window at (dy, dx) of the padded image, then perhaps mirrored.
struct Choice {
  std::size_t padding = 0;
  std::size_t dy = 0;
  std::size_t dx = 0;
  bool flip = false;
};

/// `image` is cut to `result`.
Choice choose(const Augmentation& augmentation, Extent image, Extent result, std::uint64_t seed,
              std::uint64_t stream, std::uint32_t index) {
  runtime::Random random(seed, stream, index);
  Choice choice;
  // The coin first, drawn even where it is not used: each option alone decides what it does.
  choice.flip = (random.next() & 1U) != 0 && augmentation.flip;
  if (augmentation.random_resized_crop) return choice;
  choice.padding = static_cast<std::size_t>(augmentation.crop_padding);
  const auto positions = [&choice](std::size_t from, std::size_t to) {
    return static_cast<std::uint32_t>(from + 2 * choice.padding - to + 1);
  };
  choice.dy = random.below(positions(image.height, result.height));
  choice.dx = random.below(positions(image.width, result.width));
  return choice;
}

Choice centred(Extent image, Extent result) {
  return {0, (image.height - result.height) / 2, (image.width - result.width) / 2, false};
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

/// Crops and mirrors bytes: a quarter of the traffic of doing it with floats, and the conversion
/// that follows runs over whole channels.
void augment(const std::uint8_t* image, Extent extent, Choice choice, std::uint8_t* result,
             Extent cut) {
  // Column x of the result shows column x + dx - padding of the image where there is one, and so
  // for rows.
  const auto inside = [&choice](std::size_t offset, std::size_t size, std::size_t result_size) {
    const std::size_t padding = choice.padding;
    const std::size_t first = padding > offset ? std::min(padding - offset, result_size) : 0;
    const std::size_t last =
        size + padding > offset ? std::min(size + padding - offset, result_size) : 0;
    return std::pair{first, std::max(first, last)};
  };
  const auto [x_first, x_last] = inside(choice.dx, extent.width, cut.width);
  const auto [y_first, y_last] = inside(choice.dy, extent.height, cut.height);
  const std::size_t count = x_last - x_first;
  if (count < cut.width || y_last - y_first < cut.height) {
    std::fill_n(result, cut.elements(), std::uint8_t{0});
  }
  if (count == 0) {
    return;
  }
  for (std::size_t c = 0; c < extent.channels; ++c) {
    for (std::size_t y = y_first; y < y_last; ++y) {
      const std::uint8_t* from =
          image + (c * extent.height + y + choice.dy - choice.padding) * extent.width + x_first +
          choice.dx - choice.padding;
      std::uint8_t* to = result + (c * cut.height + y) * cut.width;
      if (choice.flip) {
        reverse_bytes(from, count, to + (cut.width - x_last));
      } else {
        std::copy_n(from, count, to + x_first);
      }
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
  const std::uint64_t stream = runtime::stream_id("augmentation", epoch);
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
      const Choice choice = augmentation != nullptr
                                ? choose(*augmentation, source, cut, seed, stream, index)
                                : centred(source, cut);
      augment(pixels, source, choice, changed.data(), cut);
      pixels = changed.data();
    }
    for (std::size_t c = 0; c < cut.channels; ++c, pixels += area, out += area) {
      convert(pixels, area, affine_of(normalization.mean[c], normalization.stddev[c]), out);
    }
  }
}

}  // namespace stpt::data
