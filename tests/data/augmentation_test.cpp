#include "data/augmentation.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "runtime/random.hpp"
#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace {

using namespace stpt::data;
using stpt::data::testing::all_indices;
using stpt::data::testing::error_of;

constexpr std::size_t channels = 2;
constexpr std::size_t height = 5;
constexpr std::size_t width = 19;  // more than two groups of eight and a rest
constexpr std::size_t elements = channels * height * width;

/// Random pixels, none of them 0, so that padding shows.
MemoryDataset noise(std::size_t images) {
  stpt::runtime::Random random(1, stpt::runtime::stream_id("test"));
  std::vector<std::uint8_t> pixels(images * elements);
  for (std::uint8_t& pixel : pixels) {
    pixel = static_cast<std::uint8_t>(1 + random.below(255));
  }
  std::vector<std::uint8_t> labels(images);
  for (std::size_t i = 0; i < images; ++i) {
    labels[i] = static_cast<std::uint8_t>(i % 3);
  }
  return {"noise", 3, stpt::runtime::Shape{1, channels, height, width}, std::move(pixels),
          std::move(labels)};
}

struct Batch {
  std::vector<float> images;
  friend bool operator==(const Batch&, const Batch&) = default;
};

Batch load(const Dataset& dataset, std::span<const std::uint32_t> indices,
           const Augmentation* augmentation, const Normalization& normalization,
           std::uint64_t seed = 1, std::uint64_t epoch = 1) {
  Batch batch{std::vector<float>(indices.size() * elements)};
  load_images(dataset, indices, dataset.image_shape(), augmentation, normalization, seed, epoch,
              batch.images.data());
  return batch;
}

/// The image as crop and flip should leave it, written pixel by pixel.
std::vector<float> expected(const Dataset& dataset, std::size_t index, int dy, int dx, bool flip) {
  std::vector<std::uint8_t> image(elements);
  dataset.read(index, image);
  std::vector<float> result;
  for (int c = 0; c < static_cast<int>(channels); ++c) {
    for (int y = 0; y < static_cast<int>(height); ++y) {
      for (int x = 0; x < static_cast<int>(width); ++x) {
        const int from_x = (flip ? static_cast<int>(width) - 1 - x : x) + dx;
        const int from_y = y + dy;
        const bool inside = from_x >= 0 && from_x < static_cast<int>(width) && from_y >= 0 &&
                            from_y < static_cast<int>(height);
        const int position =
            (c * static_cast<int>(height) + from_y) * static_cast<int>(width) + from_x;
        const float pixel = inside ? image[static_cast<std::size_t>(position)] : 0.0F;
        result.push_back(pixel * (1.0F / 255.0F));
      }
    }
  }
  return result;
}

}  // namespace

TEST_CASE("Normalisation is exact and does not depend on the order", "[augmentation]") {
  // Channel 0: 0, 255, 0, 255; channel 1: constant.
  const MemoryDataset dataset("test", 2, stpt::runtime::Shape{1, 2, 1, 2},
                              {0, 255, 51, 51, 0, 255, 51, 51}, {0, 1});
  const Normalization normalization = compute_normalization(dataset, all_indices(2));
  CHECK(normalization.mean == std::vector<float>{0.5F, 0.2F});
  CHECK(normalization.stddev == std::vector<float>{0.5F, 1.0F});

  const MemoryDataset images = noise(50);
  std::vector<std::uint32_t> indices = all_indices(50);
  const Normalization forward = compute_normalization(images, indices);
  std::reverse(indices.begin(), indices.end());
  const Normalization backward = compute_normalization(images, indices);
  CHECK(forward.mean == backward.mean);
  CHECK(forward.stddev == backward.stddev);
  CHECK(error_of([&] { (void)compute_normalization(images, {}); }) ==
        "noise: no images to compute mean and standard deviation from");
}

TEST_CASE("Normalised images have mean 0 and variance 1 in each channel", "[augmentation]") {
  const MemoryDataset dataset = noise(200);
  const auto indices = all_indices(200);
  const Batch batch = load(dataset, indices, nullptr, compute_normalization(dataset, indices));
  for (std::size_t c = 0; c < channels; ++c) {
    double sum = 0;
    double squares = 0;
    for (std::size_t i = 0; i < 200; ++i) {
      for (std::size_t j = 0; j < height * width; ++j) {
        const double value = batch.images[i * elements + c * height * width + j];
        sum += value;
        squares += value * value;
      }
    }
    CHECK(std::abs(sum / (200 * height * width)) < 1e-5);
    CHECK(std::abs(squares / (200 * height * width) - 1) < 1e-5);
  }
}

TEST_CASE("Without augmentation the pixels are scaled and nothing else", "[augmentation]") {
  const MemoryDataset dataset = noise(4);
  const std::vector<std::uint32_t> indices = {2, 0, 2};
  const Batch batch = load(dataset, indices, nullptr, no_normalization(channels));
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const auto image = expected(dataset, indices[i], 0, 0, false);
    CHECK(std::equal(image.begin(), image.end(),
                     batch.images.begin() + static_cast<std::ptrdiff_t>(i * elements)));
  }
  const Augmentation nothing{};
  CHECK(load(dataset, indices, &nothing, no_normalization(channels)) == batch);
}

TEST_CASE("Padding is black before normalisation", "[augmentation]") {
  const MemoryDataset dataset = noise(1);
  const Normalization normalization{{0.25F, 0.5F}, {0.5F, 0.125F}};
  const Augmentation far{.crop_padding = 4096};  // nearly always beside the image
  const Batch batch = load(dataset, all_indices(1), &far, normalization);
  for (std::size_t j = 0; j < height * width; ++j) {
    REQUIRE(batch.images[j] == -0.5F);
    REQUIRE(batch.images[height * width + j] == -4.0F);
  }
}

TEST_CASE("Reflecting padding shows the image mirrored at its outermost pixels", "[augmentation]") {
  // As numpy.pad has it in mode "reflect".
  const MemoryDataset row("row", 2, stpt::runtime::Shape{1, 1, 1, 4}, {1, 2, 3, 4}, {0});
  const std::vector<long> around = {2, 3, 4, 3, 2, 1, 2, 3, 4, 3, 2, 1, 2, 3};
  for (const bool flip : {false, true}) {
    const Augmentation augmentation{.crop_padding = 5, .padding = Padding::reflect, .flip = flip};
    std::set<std::vector<long>> expected_rows, rows;
    for (auto from = around.begin(); from + 4 <= around.end(); ++from) {
      expected_rows.emplace(from, from + 4);
      if (flip) expected_rows.emplace(std::reverse_iterator(from + 4), std::reverse_iterator(from));
    }
    for (std::uint64_t epoch = 0; epoch < 500; ++epoch) {
      std::vector<float> out(4);
      load_images(row, all_indices(1), row.image_shape(), &augmentation, {{0.0F}, {1.0F / 255.0F}},
                  1, epoch, out.data());
      std::vector<long> pixels;
      for (const float value : out) pixels.push_back(std::lround(value));
      rows.insert(pixels);
    }
    CHECK(rows == expected_rows);
  }
}

TEST_CASE("Reflecting is right in both directions, cropped or not", "[augmentation]") {
  const MemoryDataset dataset = noise(20);
  const Normalization normalization = no_normalization(channels);
  // Padding within the image, and far beyond it.
  for (const int padding : {3, 40}) {
    for (const auto& [cut_height, cut_width] :
         {std::pair{std::size_t{5}, std::size_t{19}}, std::pair{std::size_t{3}, std::size_t{8}}}) {
      const stpt::runtime::Shape shape{1, channels, static_cast<std::int64_t>(cut_height),
                                       static_cast<std::int64_t>(cut_width)};
      const Augmentation black{.crop_padding = padding, .flip = true};
      Augmentation reflecting = black;
      reflecting.padding = Padding::reflect;
      for (std::uint32_t index = 0; index < 20; ++index) {
        const auto cut = image_cut(dataset.image_shape(), shape, &reflecting, 1, 2, index);
        const auto black_cut = image_cut(dataset.image_shape(), shape, &black, 1, 2, index);
        CHECK((cut.dy == black_cut.dy && cut.dx == black_cut.dx &&
               cut.mirrored == black_cut.mirrored));
        std::vector<float> out(channels * cut_height * cut_width);
        load_images(dataset, std::vector{index}, shape, &reflecting, normalization, 1, 2,
                    out.data());
        std::vector<std::uint8_t> image(elements);
        dataset.read(index, image);
        // Walks towards the pixel and turns around at each border.
        const auto walk = [](int to, int side) {
          int place = 0, direction = to < 0 ? -1 : 1;
          for (int step = 0; step != to; step += to < 0 ? -1 : 1) {
            if (place + direction < 0 || place + direction >= side) direction = -direction;
            place += direction;
          }
          return static_cast<std::size_t>(place);
        };
        std::vector<float> right;
        for (std::size_t c = 0; c < channels; ++c) {
          for (std::size_t y = 0; y < cut_height; ++y) {
            for (std::size_t x = 0; x < cut_width; ++x) {
              const int column = static_cast<int>(cut.mirrored ? cut_width - 1 - x : x);
              const std::size_t from_y = walk(static_cast<int>(y) + cut.dy, height);
              const std::size_t from_x = walk(column + cut.dx, width);
              right.push_back(static_cast<float>(image[(c * height + from_y) * width + from_x]) *
                              (1.0F / 255.0F));
            }
          }
        }
        CHECK(out == right);
      }
    }
  }
}

TEST_CASE("Alternating flips mirror an image in every other epoch", "[augmentation]") {
  const MemoryDataset dataset = noise(1);
  const Augmentation at_random{.crop_padding = 2, .flip = true};
  Augmentation alternating = at_random;
  alternating.alternate_flip = true;
  Augmentation never = alternating;
  never.flip = false;
  constexpr std::uint32_t images = 1000;
  constexpr int epochs = 7;
  int mirrored = 0, changes_at_random = 0;
  const auto cut = [&](const Augmentation& augmentation, std::uint64_t epoch, std::uint32_t index) {
    return image_cut(dataset.image_shape(), dataset.image_shape(), &augmentation, 1, epoch, index);
  };
  for (std::uint32_t index = 0; index < images; ++index) {
    const bool first = cut(alternating, 1, index).mirrored;
    mirrored += first ? 1 : 0;
    for (std::uint64_t epoch = 1; epoch <= epochs; ++epoch) {
      const auto now = cut(alternating, epoch, index);
      REQUIRE(now.mirrored == (epoch % 2 == 1 ? first : !first));
      REQUIRE_FALSE(cut(never, epoch, index).mirrored);
      const auto random = cut(at_random, epoch, index);
      REQUIRE((now.dx == random.dx && now.dy == random.dy));
      if (random.mirrored != cut(at_random, epoch + 1, index).mirrored) ++changes_at_random;
    }
  }
  CHECK(std::abs(mirrored - 500) < 5 * std::sqrt(images / 4.0));
  constexpr int changes = images * epochs;  // if they alternated, too
  CHECK(std::abs(changes_at_random - changes / 2) < 5 * std::sqrt(changes / 4.0));
}

TEST_CASE("Images are cropped at uniform offsets and half of them mirrored", "[augmentation]") {
  const MemoryDataset dataset = noise(1);
  const std::vector<std::uint32_t> indices = {0};
  constexpr int padding = 3;
  constexpr int positions = 2 * padding + 1;
  constexpr int draws = 9800;
  const Augmentation augmentation{.crop_padding = padding, .flip = true};
  const Normalization normalization = no_normalization(channels);
  std::map<std::vector<float>, int> counts;  // by content
  for (std::uint64_t epoch = 0; epoch < draws; ++epoch) {
    ++counts[load(dataset, indices, &augmentation, normalization, 1, epoch).images];
  }
  CHECK(counts.size() == std::size_t{positions} * positions * 2);
  double chi_square = 0;
  int flipped = 0;
  for (int dy = -padding; dy <= padding; ++dy) {
    for (int dx = -padding; dx <= padding; ++dx) {
      for (const bool flip : {false, true}) {
        const int count = counts[expected(dataset, 0, dy, dx, flip)];
        constexpr double mean = static_cast<double>(draws) / (positions * positions * 2);
        chi_square += (count - mean) * (count - mean) / mean;
        flipped += flip ? count : 0;
      }
    }
  }
  CHECK(chi_square < 150);                     // 97 degrees of freedom: 99.95 %
  CHECK(std::abs(flipped - draws / 2) < 200);  // 4 standard deviations
}

TEST_CASE("Mirroring is exact at any width", "[augmentation]") {
  for (std::size_t w = 1; w <= 33; ++w) {
    std::vector<std::uint8_t> pixels(w);
    for (std::size_t x = 0; x < w; ++x) {
      pixels[x] = static_cast<std::uint8_t>(x + 1);
    }
    const MemoryDataset dataset(
        "row", 2, stpt::runtime::Shape{1, 1, 1, static_cast<std::int64_t>(w)}, pixels, {0});
    const Augmentation augmentation{.flip = true};
    int flipped = 0;
    for (std::uint64_t epoch = 0; epoch < 64; ++epoch) {
      std::vector<float> out(w);
      load_images(dataset, all_indices(1), dataset.image_shape(), &augmentation,
                  {{0.0F}, {1.0F / 255.0F}}, 1, epoch, out.data());
      const bool mirrored = std::lround(out[0]) == static_cast<long>(w);
      flipped += mirrored ? 1 : 0;
      bool right = true;
      for (std::size_t x = 0; x < w; ++x) {
        right = right && std::lround(out[x]) == static_cast<long>(mirrored ? w - x : x + 1);
      }
      CHECK(right);
    }
    CHECK(flipped > 10);
  }
}

TEST_CASE("Each option leaves the other's choices alone", "[augmentation]") {
  const MemoryDataset dataset = noise(1);
  const Normalization normalization = no_normalization(channels);
  const Augmentation both{.crop_padding = 1, .flip = true};
  const Augmentation crop{.crop_padding = 1};
  const Augmentation flip{.flip = true};
  for (std::uint64_t epoch = 0; epoch < 40; ++epoch) {
    const auto indices = all_indices(1);
    const bool mirrored = load(dataset, indices, &flip, normalization, 1, epoch).images ==
                          expected(dataset, 0, 0, 0, true);
    const auto cropped = load(dataset, indices, &crop, normalization, 1, epoch).images;
    const auto result = load(dataset, indices, &both, normalization, 1, epoch).images;
    bool found = false;
    for (int dy = -1; dy <= 1; ++dy) {
      for (int dx = -1; dx <= 1; ++dx) {
        found = found || (cropped == expected(dataset, 0, dy, dx, false) &&
                          result == expected(dataset, 0, dy, dx, mirrored));
      }
    }
    CHECK(found);
  }
}

TEST_CASE("An image is the same at any place, in any batch, on any thread", "[augmentation]") {
  constexpr std::size_t images = 64;
  const MemoryDataset dataset = noise(images);
  const auto indices = all_indices(images);
  const Augmentation augmentation{.crop_padding = 2, .flip = true};
  const Normalization normalization = compute_normalization(dataset, indices);
  const Batch whole = load(dataset, indices, &augmentation, normalization, 5, 3);
  CHECK(whole == load(dataset, indices, &augmentation, normalization, 5, 3));
  CHECK(whole.images != load(dataset, indices, &augmentation, normalization, 6, 3).images);
  CHECK(whole.images != load(dataset, indices, &augmentation, normalization, 5, 4).images);

  // Four threads, backwards, in batches of 3.
  std::vector<Batch> parts(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < parts.size(); ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::uint32_t> reversed(indices.rbegin(), indices.rend());
      Batch& part = parts[t];
      part = {std::vector<float>(images * elements)};
      for (std::size_t i = 0; i < images; i += 3) {
        const std::size_t count = std::min<std::size_t>(3, images - i);
        load_images(dataset, std::span(reversed).subspan(i, count), dataset.image_shape(),
                    &augmentation, normalization, 5, 3, part.images.data() + i * elements);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const Batch& part : parts) {
    bool equal = true;
    for (std::size_t i = 0; i < images; ++i) {
      const std::size_t j = images - 1 - i;
      equal = equal &&
              std::equal(whole.images.begin() + static_cast<std::ptrdiff_t>(i * elements),
                         whole.images.begin() + static_cast<std::ptrdiff_t>((i + 1) * elements),
                         part.images.begin() + static_cast<std::ptrdiff_t>(j * elements));
    }
    CHECK(equal);
  }
}

TEST_CASE("Misuse of load_images is caught", "[augmentation]") {
  const MemoryDataset dataset = noise(1);
  CHECK_THROWS_AS(load(dataset, all_indices(1), nullptr, no_normalization(3)),
                  std::invalid_argument);
  const Augmentation negative{.crop_padding = -1};
  CHECK_THROWS_AS(load(dataset, all_indices(1), &negative, no_normalization(channels)),
                  std::invalid_argument);
  CHECK_THROWS_AS(load(dataset, all_indices(2), nullptr, no_normalization(channels)),
                  std::out_of_range);
}

namespace {

/// Pixel (x, y) of both channels is 10 * y + x.
MemoryDataset ramp(int side) {
  std::vector<std::uint8_t> pixels;
  for (int i = 0; i < 2 * side * side; ++i) {
    pixels.push_back(static_cast<std::uint8_t>(10 * (i / side % side) + i % side));
  }
  return {"ramp", 2, stpt::runtime::Shape{1, 2, side, side}, std::move(pixels), {0}};
}

/// The first row of what the network sees, as pixels.
std::vector<int> first_row(const Dataset& dataset, int side, const Augmentation* augmentation,
                           std::uint64_t epoch) {
  std::vector<float> images(2 * static_cast<std::size_t>(side) * static_cast<std::size_t>(side));
  load_images(dataset, all_indices(1), {1, 2, side, side}, augmentation, no_normalization(2), 1,
              epoch, images.data());
  std::vector<int> row;
  for (int x = 0; x < side; ++x) {
    row.push_back(static_cast<int>(std::lround(images[static_cast<std::size_t>(x)] * 255)));
  }
  return row;
}

}  // namespace

TEST_CASE("A crop is cut out of the middle without augmentation", "[augmentation]") {
  const MemoryDataset dataset = ramp(9);
  CHECK(first_row(dataset, 5, nullptr, 1) == std::vector{22, 23, 24, 25, 26});
  CHECK(first_row(dataset, 4, nullptr, 1) == std::vector{22, 23, 24, 25});
  CHECK(first_row(dataset, 9, nullptr, 1) == std::vector{0, 1, 2, 3, 4, 5, 6, 7, 8});
  CHECK_THROWS_AS(first_row(dataset, 10, nullptr, 1), std::invalid_argument);
}

TEST_CASE("Random crops are uniform, half of them mirrored", "[augmentation]") {
  const MemoryDataset dataset = ramp(9);
  const Augmentation augmentation{.flip = true};
  constexpr int expected_count = 400;
  constexpr int epochs = expected_count * 5 * 5;  // a crop of 5 has 5 x 5 places
  std::map<int, int> counts;
  int mirrored = 0;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    const std::vector<int> row =
        first_row(dataset, 5, &augmentation, static_cast<std::uint64_t>(epoch));
    mirrored += row[1] > row[3] ? 1 : 0;
    counts[row[2]] += 1;  // the middle tells the place, mirrored or not
  }
  // Five standard deviations of a binomial count.
  CHECK(std::abs(mirrored - epochs / 2) < 5 * std::sqrt(epochs / 4.0));
  CHECK(counts.size() == 25);
  for (const auto& [place, count] : counts) {
    CHECK(std::abs(count - expected_count) < 5 * std::sqrt(expected_count));
  }
}

TEST_CASE("Random resized crops have the areas, ratios and places they should", "[augmentation]") {
  const Size image{500, 375};
  constexpr int draws = 20000;
  double area = 0;
  double log_ratio = 0;
  double left = 0;
  for (std::uint32_t index = 0; index < draws; ++index) {
    const Window window = random_resized_window(image, 1, 1, index);
    REQUIRE(window.x >= 0);
    REQUIRE(window.y >= 0);
    REQUIRE(window.x + window.width <= image.width);
    REQUIRE(window.y + window.height <= image.height);
    const double share = window.width * window.height / (500.0 * 375.0);
    const double ratio = static_cast<double>(window.width) / window.height;
    // Rounding to pixels: sides are at least 90 pixels long.
    REQUIRE(share > 0.08 * 0.98);
    REQUIRE(ratio > 0.75 * 0.98);
    REQUIRE(ratio < 4.0 / 3.0 * 1.02);
    area += share / draws;
    log_ratio += std::log(ratio) / draws;
    if (window.width < image.width)
      left += window.x / static_cast<double>(image.width - window.width);
  }
  // The means over all parts that fit, since others are drawn anew.
  double fitting = 0;
  double fitting_area = 0;
  double fitting_log_ratio = 0;
  constexpr int steps = 400;
  for (int i = 0; i < steps; ++i) {
    for (int j = 0; j < steps; ++j) {
      const double share = 0.08 + 0.92 * (i + 0.5) / steps;
      const double log_of_ratio = std::log(4.0 / 3.0) * (2 * (j + 0.5) / steps - 1);
      const double pixels = share * 500 * 375;
      if (std::sqrt(pixels * std::exp(log_of_ratio)) > 500) continue;
      if (std::sqrt(pixels / std::exp(log_of_ratio)) > 375) continue;
      fitting += 1;
      fitting_area += share;
      fitting_log_ratio += log_of_ratio;
    }
  }
  // Standard deviations of both are about 0.2; five of those of the mean, and rounding to pixels.
  CHECK(std::abs(area - fitting_area / fitting) < 0.01);
  CHECK(std::abs(log_ratio - fitting_log_ratio / fitting) < 0.01);
  CHECK(std::abs(left / draws - 0.5) < 0.02);
  CHECK(random_resized_window(image, 1, 1, 7) == random_resized_window(image, 1, 1, 7));
  CHECK_FALSE(random_resized_window(image, 1, 1, 7) == random_resized_window(image, 1, 2, 7));
  CHECK_FALSE(random_resized_window(image, 1, 1, 7) == random_resized_window(image, 2, 1, 7));
  // Nothing of the ratios fits into a strip: the largest that does, from its middle.
  CHECK(random_resized_window({1000, 30}, 1, 1, 1) == Window{480, 0, 40, 30});
  CHECK(random_resized_window({30, 1000}, 1, 1, 1) == Window{0, 480, 30, 40});
  CHECK(random_resized_window({1, 1}, 1, 1, 1) == Window{0, 0, 1, 1});
}

TEST_CASE("A random resized crop shows its window, mirrored as without it", "[augmentation]") {
  // Of two values a pixel: left of the middle 0, right of it 200.
  std::vector<std::uint8_t> pixels;
  for (int i = 0; i < 2 * 64 * 64; ++i) pixels.push_back(i % 64 < 32 ? 0 : 200);
  const MemoryDataset dataset("test", 2, stpt::runtime::Shape{1, 2, 64, 64}, pixels, {0});
  const Augmentation resized{.random_resized_crop = true};
  const Augmentation both{.flip = true, .random_resized_crop = true};
  const Augmentation flip{.flip = true};
  int differ = 0;
  for (std::uint64_t epoch = 1; epoch <= 40; ++epoch) {
    const Window window = random_resized_window({64, 64}, 1, epoch, 0);
    const std::vector<int> row = first_row(dataset, 16, &resized, epoch);
    // Well inside of either half.
    if (window.x + window.width / 16 < 28) CHECK(row.front() == 0);
    if (window.x + window.width - window.width / 16 > 36) CHECK(row.back() == 200);
    std::vector<int> mirrored(row.rbegin(), row.rend());
    const bool flipped = first_row(dataset, 64, &flip, epoch).front() == 200;
    CHECK(first_row(dataset, 16, &both, epoch) == (flipped ? mirrored : row));
    differ += flipped ? 1 : 0;
  }
  CHECK(differ > 5);
  CHECK(differ < 35);
}

TEST_CASE("Evenly spaced indices are a sample of all", "[augmentation]") {
  const auto indices = all_indices(10);
  CHECK(evenly_spaced(indices, 4) == std::vector<std::uint32_t>{0, 2, 5, 7});
  CHECK(evenly_spaced(indices, 10) == indices);
  CHECK(evenly_spaced(indices, 99) == indices);
  CHECK(evenly_spaced({}, 4).empty());
}
