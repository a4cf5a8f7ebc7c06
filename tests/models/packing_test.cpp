#include "models/packing.hpp"

#include <algorithm>
#include <random>

#include "runtime/tensor.hpp"
#include "tests/catch.hpp"

namespace stpt::models {
namespace {

bool alive_together(const Lifetime& a, const Lifetime& b) {
  return a.first <= b.last && b.first <= a.last;
}

/// What any packing needs: the most bytes that are alive at a time.
std::size_t lower_bound(const std::vector<Lifetime>& lifetimes) {
  std::size_t most = 0;
  for (const Lifetime& at : lifetimes) {
    std::size_t bytes = 0;
    for (const Lifetime& other : lifetimes) {
      if (other.first <= at.first && at.first <= other.last)
        bytes += runtime::align_up(other.bytes);
    }
    most = std::max(most, bytes);
  }
  return most;
}

TEST_CASE("buffers alive together never overlap", "[packing]") {
  std::mt19937 random(1);
  double total = 0, bound = 0;
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<Lifetime> lifetimes(1 + random() % 40);
    for (Lifetime& life : lifetimes) {
      life.bytes = random() % 5000;
      life.first = static_cast<int>(random() % 30);
      life.last = life.first + static_cast<int>(random() % 10);
    }
    const Packing packing = pack(lifetimes);
    REQUIRE(packing.offsets.size() == lifetimes.size());
    for (std::size_t i = 0; i < lifetimes.size(); ++i) {
      const std::size_t begin = packing.offsets[i], end = begin + lifetimes[i].bytes;
      REQUIRE(begin % runtime::tensor_alignment == 0);
      REQUIRE(end <= packing.bytes);
      for (std::size_t j = 0; j < i; ++j) {
        if (!alive_together(lifetimes[i], lifetimes[j])) continue;
        const std::size_t other = packing.offsets[j], other_end = other + lifetimes[j].bytes;
        REQUIRE((end <= other || other_end <= begin));
      }
    }
    REQUIRE(packing.bytes >= lower_bound(lifetimes));
    total += static_cast<double>(packing.bytes);
    bound += static_cast<double>(lower_bound(lifetimes));
  }
  CHECK(total < 1.15 * bound);
}

TEST_CASE("simple cases are packed as tightly as can be", "[packing]") {
  CHECK(pack({}).bytes == 0);
  CHECK(pack({{100, 0, 0}}).bytes == 128);
  // One after the other: they share.
  CHECK(pack({{64, 0, 1}, {640, 2, 3}, {128, 4, 5}}).bytes == 640);
  // In use by the same operation: they do not.
  CHECK(pack({{64, 0, 1}, {64, 1, 2}}).bytes == 128);
  // A chain, each alive with its neighbours only.
  CHECK(pack({{64, 0, 1}, {64, 1, 2}, {64, 2, 3}, {64, 3, 4}}).bytes == 128);
  // A small one fits beside the small end of a long life.
  CHECK(pack({{256, 0, 9}, {128, 0, 3}, {64, 4, 6}, {64, 4, 9}}).bytes == 384);
  // All at once: the sum.
  CHECK(pack({{1, 0, 9}, {65, 0, 9}, {64, 0, 9}}).bytes == 64 + 128 + 64);
}

}  // namespace
}  // namespace stpt::models
