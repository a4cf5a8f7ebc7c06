#include "data/split.hpp"

#include <algorithm>
#include <set>
#include <stdexcept>

#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace {

using namespace stpt::data;
using stpt::data::testing::all_indices;
using stpt::data::testing::labelled;
using Indices = std::vector<std::uint32_t>;

/// Class k has sizes[k] images, all mixed.
MemoryDataset mixed(const std::vector<std::size_t>& sizes) {
  std::vector<std::uint8_t> labels;
  std::size_t longest = 0;
  for (const std::size_t size : sizes) {
    longest = std::max(longest, size);
  }
  for (std::size_t i = 0; i < longest; ++i) {
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      if (i < sizes[k]) {
        labels.push_back(static_cast<std::uint8_t>(k));
      }
    }
  }
  return labelled(std::move(labels), static_cast<int>(sizes.size()));
}

std::vector<int> class_counts(const Dataset& dataset, const Indices& indices) {
  std::vector<int> counts(static_cast<std::size_t>(dataset.classes()));
  for (const std::uint32_t index : indices) {
    ++counts.at(static_cast<std::size_t>(dataset.label(index)));
  }
  return counts;
}

void check_partition(const Split& split, std::size_t total) {
  CHECK(std::is_sorted(split.training.begin(), split.training.end()));
  CHECK(std::is_sorted(split.hold_out.begin(), split.hold_out.end()));
  Indices both;
  std::merge(split.training.begin(), split.training.end(), split.hold_out.begin(),
             split.hold_out.end(), std::back_inserter(both));
  CHECK(both == all_indices(total));
}

}  // namespace

TEST_CASE("The hold-out takes from each class in proportion", "[split]") {
  const MemoryDataset even = mixed({100, 100, 100, 100});
  const Split split = make_split(even, 0, 40, 1);
  check_partition(split, 400);
  CHECK(class_counts(even, split.hold_out) == std::vector<int>{10, 10, 10, 10});

  const MemoryDataset uneven = mixed({70, 20, 10});
  // 17.5, 5 and 2.5: one of the equal remainders gets the image left over.
  std::set<std::vector<int>> met;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Split other = make_split(uneven, 0, 25, seed);
    check_partition(other, 100);
    met.insert(class_counts(uneven, other.hold_out));
  }
  CHECK(met == std::set<std::vector<int>>{{17, 5, 3}, {18, 5, 2}});
}

TEST_CASE("A hold-out of fewer images than there are classes is of any of them", "[split]") {
  const MemoryDataset dataset = mixed(std::vector<std::size_t>(100, 4));
  std::vector<int> sums(100);
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const std::vector<int> counts =
        class_counts(dataset, make_split(dataset, 0, 40, seed).hold_out);
    CHECK(std::ranges::max(counts) == 1);
    for (std::size_t k = 0; k < counts.size(); ++k) sums[k] += counts[k];
  }
  // 20 on average, with a standard deviation of 3.5.
  CHECK(std::ranges::min(sums) > 4);
  CHECK(std::ranges::max(sums) < 36);
}

TEST_CASE("The split depends on the seed alone and is drawn at random", "[split]") {
  const MemoryDataset dataset = mixed({500, 500});
  const Split a = make_split(dataset, 0, 100, 1);
  const Split b = make_split(dataset, 0, 100, 1);
  const Split c = make_split(dataset, 0, 100, 2);
  CHECK(a.hold_out == b.hold_out);
  CHECK(a.training == b.training);
  CHECK(a.hold_out != c.hold_out);
  // Every image has the same chance: 200 splits, each image is held out 20 times on average.
  std::vector<int> counts(1000);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    for (const std::uint32_t index : make_split(dataset, 0, 100, seed).hold_out) {
      ++counts.at(index);
    }
  }
  CHECK(*std::min_element(counts.begin(), counts.end()) > 2);
  CHECK(*std::max_element(counts.begin(), counts.end()) < 45);
}

TEST_CASE("The limit cuts the training set before the split", "[split]") {
  const MemoryDataset dataset = mixed({100, 100});
  check_partition(make_split(dataset, 50, 10, 1), 50);
  check_partition(make_split(dataset, 200, 0, 1), 200);
  const Split whole = make_split(dataset, 0, 0, 1);
  CHECK(whole.hold_out.empty());
  CHECK(whole.training == all_indices(200));
}

TEST_CASE("Every class keeps an image to train on", "[split]") {
  const MemoryDataset dataset = mixed({97, 1, 2, 0});
  const Split split = make_split(dataset, 0, 97, 1);
  CHECK(class_counts(dataset, split.training) == std::vector<int>{1, 1, 1, 0});
  CHECK_THROWS_WITH(make_split(dataset, 0, 98, 1),
                    "is 98 of the 100 training images; must be 0 to 97, so that every class keeps "
                    "one to train on");
}

TEST_CASE("Splits that cannot be made", "[split]") {
  const MemoryDataset dataset = mixed({5, 5});
  CHECK_THROWS_AS(make_split(dataset, 11, 1, 1), std::invalid_argument);
  CHECK_THROWS_AS(make_split(dataset, -1, 1, 1), std::invalid_argument);
  CHECK_THROWS_WITH(make_split(dataset, 6, 5, 1),
                    "is 5 of the 6 training images; must be 0 to 4, so that every class keeps one "
                    "to train on");
  CHECK_THROWS_WITH(make_split(mixed({1, 1}), 0, 1, 1),
                    "is 1 of the 2 training images; must be 0, so that every class keeps one to "
                    "train on");
  CHECK_THROWS_AS(make_split(dataset, 0, -3, 1), std::invalid_argument);
}
