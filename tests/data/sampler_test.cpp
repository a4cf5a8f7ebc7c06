#include "data/sampler.hpp"

#include <algorithm>

#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace {

using namespace stpt::data;
using stpt::data::testing::error_of;
using Indices = std::vector<std::uint32_t>;

}  // namespace

TEST_CASE("An epoch's order is a permutation of the indices by seed and epoch", "[sampler]") {
  Indices indices;
  for (std::uint32_t i = 0; i < 101; ++i) {
    indices.push_back(3 * i + 1);
  }
  const Sampler sampler(indices, 9);
  CHECK(sampler.size() == 101);
  const Indices third = sampler.order(3);
  CHECK(third == Sampler(indices, 9).order(3));  // no memory of the epochs before
  CHECK(third != sampler.order(4));
  CHECK(third != Sampler(indices, 10).order(3));
  CHECK(third != indices);
  Indices sorted = third;
  std::sort(sorted.begin(), sorted.end());
  CHECK(sorted == indices);
}

TEST_CASE("Workers share the global batch out without gap or overlap", "[sampler]") {
  const Sampler sampler(stpt::data::testing::all_indices(103), 1);
  const Indices order = sampler.order(1);
  constexpr std::size_t workers = 4;
  constexpr std::size_t batch = 5;
  REQUIRE(sampler.iterations(workers, batch) == 5);
  Indices seen;
  for (std::size_t t = 0; t < 5; ++t) {
    const auto global = global_batch(order, t, workers, batch);
    REQUIRE(global.size() == workers * batch);
    for (std::size_t i = 0; i < workers; ++i) {
      const auto share = worker_batch(order, t, i, workers, batch);
      REQUIRE(share.size() == batch);
      CHECK(share.data() == global.data() + i * batch);
      seen.insert(seen.end(), share.begin(), share.end());
    }
  }
  CHECK(seen == Indices(order.begin(), order.begin() + 100));
  CHECK_THROWS_AS(global_batch(order, 5, workers, batch), std::out_of_range);
  CHECK_THROWS_AS(worker_batch(order, 0, 4, workers, batch), std::out_of_range);
}

TEST_CASE("The global batch is the same however many workers share it", "[sampler]") {
  const Indices order = Sampler(stpt::data::testing::all_indices(64), 1).order(1);
  const auto one = global_batch(order, 1, 1, 16);
  const auto four = global_batch(order, 1, 4, 4);
  CHECK(std::equal(one.begin(), one.end(), four.begin(), four.end()));
}

TEST_CASE("An epoch without a full batch is an error", "[sampler]") {
  const Sampler sampler(stpt::data::testing::all_indices(100), 1);
  CHECK(sampler.iterations(4, 25) == 1);
  CHECK(error_of([&] { (void)sampler.iterations(4, 26); }) ==
        "training: 4 workers with batches of 26 need more than the 100 training images there are; "
        "lower workers or batch_per_worker");
  CHECK(error_of([&] { (void)sampler.iterations(0, 1); }) != "no error");
  CHECK(error_of([&] { (void)sampler.iterations(SIZE_MAX, SIZE_MAX); }) != "no error");
}
