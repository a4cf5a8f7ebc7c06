#include "data/synthetic.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "data/memory_dataset.hpp"
#include "runtime/random.hpp"

namespace stpt::data {
namespace {

constexpr std::uint32_t grid = 4;  // random values per side of a pattern
using Grid = std::array<int, std::size_t{grid} * grid>;

/// Bilinear interpolation of a grid that repeats in both directions, in integers, so that every
/// machine makes the same pixels.
std::vector<std::uint8_t> upsample(const Grid& values, int height, int width) {
  constexpr int one = 256;
  std::vector<std::uint8_t> pixels;
  pixels.reserve(static_cast<std::size_t>(height) * static_cast<std::size_t>(width));
  for (int y = 0; y < height; ++y) {
    const int fy = y * static_cast<int>(grid) * one / height;
    const auto y0 = static_cast<std::uint32_t>(fy / one);
    const int wy = fy % one;
    for (int x = 0; x < width; ++x) {
      const int fx = x * static_cast<int>(grid) * one / width;
      const auto x0 = static_cast<std::uint32_t>(fx / one);
      const int wx = fx % one;
      const auto at = [&values](std::uint32_t row, std::uint32_t column) {
        return values[(row % grid) * grid + column % grid];
      };
      const int top = at(y0, x0) * (one - wx) + at(y0, x0 + 1) * wx;
      const int bottom = at(y0 + 1, x0) * (one - wx) + at(y0 + 1, x0 + 1) * wx;
      pixels.push_back(static_cast<std::uint8_t>((top * (one - wy) + bottom * wy) / (one * one)));
    }
  }
  return pixels;
}

/// One pattern of channels x height x width for each class, values 64 to 191.
std::vector<std::uint8_t> make_patterns(const SyntheticOptions& options, std::uint64_t seed) {
  std::vector<std::uint8_t> patterns;
  for (int k = 0; k < options.classes; ++k) {
    runtime::Random random(seed, runtime::stream_id("synthetic pattern"),
                           static_cast<std::uint32_t>(k));
    for (int c = 0; c < options.channels; ++c) {
      Grid values{};
      for (int& value : values) {
        value = 64 + static_cast<int>(random.below(128));
      }
      const auto channel = upsample(values, options.height, options.width);
      patterns.insert(patterns.end(), channel.begin(), channel.end());
    }
  }
  return patterns;
}

std::shared_ptr<const Dataset> make_set(const SyntheticOptions& options, std::uint64_t seed,
                                        const std::string& set, int images,
                                        const std::vector<std::uint8_t>& patterns) {
  const auto channels = static_cast<std::size_t>(options.channels);
  const auto height = static_cast<std::size_t>(options.height);
  const auto width = static_cast<std::size_t>(options.width);
  const std::size_t image_bytes = channels * height * width;
  const auto count = static_cast<std::size_t>(images);
  const std::uint64_t stream = runtime::stream_id("synthetic " + set);

  std::vector<std::uint8_t> pixels(count * image_bytes);
  std::vector<std::uint8_t> labels(count);
  std::uint8_t* out = pixels.data();
  for (std::size_t i = 0; i < count; ++i) {
    runtime::Random random(seed, stream, static_cast<std::uint32_t>(i));
    const std::size_t label = i % static_cast<std::size_t>(options.classes);
    labels[i] = static_cast<std::uint8_t>(label);
    // Up to an eighth of the image; the pattern repeats, so a shift goes round.
    const std::size_t dy = random.below(static_cast<std::uint32_t>(height / 8 + 1));
    const std::size_t dx = random.below(static_cast<std::uint32_t>(width / 8 + 1));
    std::uint32_t bits = 0;
    std::size_t values = 0;
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t y = 0; y < height; ++y) {
        const std::uint8_t* row =
            patterns.data() + ((label * channels + c) * height + (y + dy) % height) * width;
        for (std::size_t x = 0; x < width; ++x) {
          if (values++ % 2 == 0) {
            bits = random.next();
          }
          // Sum of two uniform values, centred: triangular noise of standard deviation 52.
          const int noise =
              static_cast<int>(bits & 127U) + static_cast<int>((bits >> 8U) & 127U) - 127;
          bits >>= 16U;
          const int value = row[(x + dx) % width] + noise;
          *out++ = static_cast<std::uint8_t>(std::clamp(value, 0, 255));
        }
      }
    }
  }
  return std::make_shared<MemoryDataset>(
      "synthetic " + set, options.classes,
      runtime::Shape{1, options.channels, options.height, options.width}, std::move(pixels),
      std::move(labels));
}

}  // namespace

std::optional<SyntheticProblem> find_problem(const SyntheticOptions& options) {
  using namespace synthetic_limits;
  struct Range {
    const char* option;
    std::int64_t value, low, high;
  };
  const Range ranges[] = {
      {"classes", options.classes, 2, classes},
      {"channels", options.channels, 1, channels},
      {"height", options.height, 1, side},
      {"width", options.width, 1, side},
      // Each class is to be there.
      {"train_images", options.train_images, options.classes, images},
      {"test_images", options.test_images, 1, images},
  };
  for (const Range& range : ranges) {
    if (range.value >= range.low && range.value <= range.high) continue;
    return {{range.option, "is " + std::to_string(range.value) + "; must lie between " +
                               std::to_string(range.low) + " and " + std::to_string(range.high)}};
  }
  const std::int64_t image = std::int64_t{options.channels} * options.height * options.width;
  const std::int64_t all = (std::int64_t{options.train_images} + options.test_images) * image;
  if (all <= bytes) return std::nullopt;
  return {{"train_images", "is " + std::to_string(options.train_images) +
                               "; with the test images " + std::to_string(all) +
                               " bytes, must be at most " + std::to_string(bytes) + " (" +
                               std::to_string(bytes / image) + " images of this size)"}};
}

DatasetPair make_synthetic(const SyntheticOptions& options, std::uint64_t seed) {
  if (const auto problem = find_problem(options))
    throw DataError("data.synthetic." + problem->option + ": " + problem->text);
  const std::vector<std::uint8_t> patterns = make_patterns(options, seed);
  return {make_set(options, seed, "train", options.train_images, patterns),
          make_set(options, seed, "test", options.test_images, patterns), "synthetic"};
}

}  // namespace stpt::data
