#include "runtime/random.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "tests/catch.hpp"

namespace {

using namespace stpt::runtime;

/// 0 ... n - 1 in random order.
std::vector<std::uint32_t> shuffled(std::uint32_t n, std::uint64_t seed, std::uint64_t stream) {
  std::vector<std::uint32_t> values(n);
  std::iota(values.begin(), values.end(), 0U);
  shuffle(values, seed, stream);
  return values;
}

}  // namespace

TEST_CASE("Philox4x32-10 gives the published known answers", "[random]") {
  // From Random123's kat_vectors.
  CHECK(philox4x32_10({0, 0, 0, 0}, {0, 0}) ==
        PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("Random walks the counter from (seed, stream, index)", "[random]") {
  Random random(0x299f31d0a4093822U, 0x0370734413198a2eU, 7);
  for (std::uint32_t block = 0; block < 3; ++block) {
    const PhiloxCounter words =
        philox4x32_10({block, 7, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0});
    for (const std::uint32_t word : words) {
      CHECK(random.next() == word);
    }
  }
}

TEST_CASE("Seeds, streams and indices give different numbers", "[random]") {
  std::set<std::uint32_t> first;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    for (std::uint64_t number = 0; number < 4; ++number) {
      for (std::uint32_t index = 0; index < 4; ++index) {
        first.insert(Random(seed, stream_id("a", number), index).next());
        first.insert(Random((seed + 1) << 32U, stream_id("a", number), index).next());
      }
    }
  }
  CHECK(first.size() == 128);
  CHECK(stream_id("weights", 1) != stream_id("weights", 2));
  CHECK(stream_id("weights") != stream_id("order"));
}

TEST_CASE("below is uniform and stays below", "[random]") {
  for (const std::uint32_t n : {1U, 2U, 3U, 7U, 10U}) {
    Random random(1, stream_id("test", n));
    std::vector<int> counts(n);
    constexpr int draws = 100000;
    for (int i = 0; i < draws; ++i) {
      ++counts.at(random.below(n));
    }
    double chi_square = 0;
    for (const int count : counts) {
      const double expected = static_cast<double>(draws) / n;
      chi_square += (count - expected) * (count - expected) / expected;
    }
    CHECK(chi_square < 30);  // 9 degrees of freedom: 99.96 %
  }
  CHECK(Random(1, 1).below(0) == 0);
}

TEST_CASE("below has no modulo bias where 2^32 is far from a multiple", "[random]") {
  // By modulo, values under 2^30 would come twice as often as those above: 1/2 instead of 1/3.
  constexpr std::uint32_t n = 3U << 30U;
  Random random(2, stream_id("test"));
  int low = 0;
  constexpr int draws = 100000;
  for (int i = 0; i < draws; ++i) {
    const std::uint32_t value = random.below(n);
    REQUIRE(value < n);
    low += value < (1U << 30U) ? 1 : 0;
  }
  CHECK(std::abs(low / static_cast<double>(draws) - 1.0 / 3.0) < 0.01);
}

TEST_CASE("uniform and normal have their moments", "[random]") {
  constexpr int draws = 200000;
  Random random(3, stream_id("test"));
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < draws; ++i) {
    const double u = random.uniform();
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    sum += u;
    squares += u * u;
  }
  CHECK(std::abs(sum / draws - 0.5) < 0.005);
  CHECK(std::abs(squares / draws - 1.0 / 3.0) < 0.005);

  double moments[5] = {};
  for (int i = 0; i < draws; ++i) {
    const double x = random.normal();
    REQUIRE(std::isfinite(x));
    double power = 1;
    for (double& moment : moments) {
      moment += power;
      power *= x;
    }
  }
  CHECK(std::abs(moments[1] / draws) < 0.01);
  CHECK(std::abs(moments[2] / draws - 1) < 0.02);
  CHECK(std::abs(moments[3] / draws) < 0.04);
  CHECK(std::abs(moments[4] / draws - 3) < 0.12);
}

TEST_CASE("shuffle keeps every value and depends on seed and stream alone", "[random]") {
  for (const std::uint32_t n : {0U, 1U, 2U, 1000U}) {
    const std::vector<std::uint32_t> values = shuffled(n, 5, stream_id("test"));
    CHECK(values == shuffled(n, 5, stream_id("test")));
    std::vector<std::uint32_t> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    REQUIRE(sorted.size() == n);
    for (std::uint32_t i = 0; i < n; ++i) {
      REQUIRE(sorted[i] == i);
    }
  }
  const auto base = shuffled(1000, 5, stream_id("test"));
  CHECK(base != shuffled(1000, 6, stream_id("test")));
  CHECK(base != shuffled(1000, 5, stream_id("test", 1)));
}

TEST_CASE("All orders of a permutation are equally likely", "[random]") {
  std::vector<int> counts(64);
  constexpr int draws = 60000;
  for (std::uint64_t i = 0; i < draws; ++i) {
    const auto p = shuffled(3, 1, stream_id("test", i));
    ++counts.at(p[0] * 16 + p[1] * 4 + p[2]);
  }
  int orders = 0;
  for (const int count : counts) {
    if (count > 0) {
      ++orders;
      CHECK(std::abs(count - draws / 6) < 500);  // 5 standard deviations
    }
  }
  CHECK(orders == 6);
}
