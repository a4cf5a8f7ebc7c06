#include "data/class_order.hpp"

#include <algorithm>

#include "data/memory_dataset.hpp"
#include "tests/catch.hpp"

namespace {

using namespace stpt::data;
using Labels = std::vector<std::uint32_t>;

Labels sorted_labels(const std::vector<std::size_t>& sizes) {
  Labels labels;
  for (std::size_t k = 0; k < sizes.size(); ++k)
    labels.insert(labels.end(), sizes[k], static_cast<std::uint32_t>(k));
  return labels;
}

}  // namespace

TEST_CASE("A mixed order begins with every class and keeps the order within each",
          "[class order]") {
  CHECK(mixed_order(Labels{0, 0, 0, 1, 1}) == Labels{0, 3, 1, 4, 2});
  CHECK(mixed_order(Labels{2, 2, 0, 2, 1, 2}) == Labels{2, 4, 0, 1, 3, 5});
  CHECK(mixed_order(Labels{3, 3}) == Labels{0, 1});
  CHECK(mixed_order(Labels{}).empty());
}

TEST_CASE("Every stretch of a mixed order has the classes in proportion", "[class order]") {
  const std::vector<std::size_t> sizes{700, 200, 97, 3};
  const Labels labels = sorted_labels(sizes);
  const Labels order = mixed_order(labels);
  Labels all = order;
  std::sort(all.begin(), all.end());
  for (std::size_t i = 0; i < all.size(); ++i) REQUIRE(all[i] == i);
  constexpr std::size_t stretch = 100;
  for (std::size_t begin = 0; begin < order.size(); begin += stretch) {
    std::vector<std::size_t> counts(sizes.size());
    for (std::size_t i = begin; i < begin + stretch; ++i) ++counts[labels[order[i]]];
    // A tenth of each class, but for what falls on either side of a border.
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      INFO("class " << k << " from " << begin);
      CHECK(counts[k] <= sizes[k] / 10 + 2);
      CHECK(counts[k] + 2 >= sizes[k] / 10);
    }
  }
}

TEST_CASE("Files sorted by class are told from mixed ones", "[class order]") {
  CHECK(lies_by_class(sorted_labels({500, 500})));
  CHECK(lies_by_class(sorted_labels({900, 50, 50})));
  Labels several;  // as of five sorted batches
  for (int file = 0; file < 5; ++file) {
    const Labels one = sorted_labels({20, 20, 20, 20, 20});
    several.insert(several.end(), one.begin(), one.end());
  }
  CHECK(lies_by_class(several));

  for (const std::vector<std::size_t>& sizes :
       {std::vector<std::size_t>{500, 500}, {900, 50, 50}, {1, 1}, {2, 1}}) {
    const Labels labels = sorted_labels(sizes);
    Labels mixed;
    for (const std::uint32_t position : mixed_order(labels)) mixed.push_back(labels[position]);
    INFO(sizes.size() << " classes, the first of " << sizes.front());
    CHECK_FALSE(lies_by_class(mixed));
  }
  CHECK_FALSE(lies_by_class(sorted_labels({100})));
  CHECK_FALSE(lies_by_class({}));
}

TEST_CASE("Images of a sorted file are mixed, pixels with labels", "[class order]") {
  const auto make = [](std::vector<std::uint8_t> labels) {
    std::vector<std::uint8_t> pixels;
    for (std::uint8_t i = 0; i < labels.size(); ++i) {
      pixels.push_back(i);
      pixels.push_back(static_cast<std::uint8_t>(100 + i));
    }
    return make_mixed_dataset("set", 2, stpt::runtime::Shape{1, 1, 1, 2}, std::move(pixels),
                              std::move(labels));
  };
  const auto first_pixels = [](const Dataset& dataset) {
    std::vector<int> values;
    for (std::size_t i = 0; i < dataset.size(); ++i) {
      std::vector<std::uint8_t> image(2);
      dataset.read(i, image);
      CHECK(image[1] == 100 + image[0]);
      values.push_back(image[0]);
    }
    return values;
  };
  const auto sorted = make({0, 0, 0, 0, 1, 1, 1, 1});
  CHECK(first_pixels(*sorted) == std::vector<int>{0, 4, 1, 5, 2, 6, 3, 7});
  CHECK(sorted->label(1) == 1);
  CHECK(sorted->label(6) == 0);
  const auto mixed = make({1, 0, 0, 1, 0, 1, 1, 0});
  CHECK(first_pixels(*mixed) == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
}
