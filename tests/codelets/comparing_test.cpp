#include <limits>
#include <vector>

#include "tests/codelets/kernel_testing.hpp"

using namespace stpt::testing;

// What all tests of ops rely on.

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

bool close(const std::vector<float>& actual, const std::vector<float>& expected,
           Tolerance tolerance = {}) {
  return difference(actual, expected, tolerance).empty();
}

}  // namespace

TEST_CASE("values are close within the tolerance", "[comparing]") {
  CHECK(close({1, 2}, {1, 2}, {0, 0}));
  CHECK(close({1, 2.5f}, {1, 2}, {0, 0.5}));
  CHECK_FALSE(close({1, 2.5f}, {1, 2}, {0, 0.25}));
  CHECK(close({1.5f, 2}, {1, 2}, {0.25, 0}));  // of the largest
  CHECK_FALSE(close({1.75f, 2}, {1, 2}, {0.25, 0}));
  CHECK_FALSE(close({1}, {1, 2}, {1, 1}));
  CHECK_FALSE(close({1, 2, 3}, {1, 2}, {1, 1}));
  CHECK(close({-0.0f}, {0}, {0, 0}));
}

TEST_CASE("infinity and NaN equal themselves alone, and hide nothing", "[comparing]") {
  for (const Tolerance tolerance : {Tolerance{0, 0}, Tolerance{}, Tolerance{0.5, 0.5}}) {
    for (const float special : {infinity, -infinity, not_a_number}) {
      CHECK(close({special, 8}, {special, 8}, tolerance));
      CHECK_FALSE(close({special, 80}, {special, 8}, tolerance));
      CHECK_FALSE(close({special, not_a_number}, {special, 8}, tolerance));
      CHECK_FALSE(close({8, 8}, {special, 8}, tolerance));
      CHECK_FALSE(close({special, 8}, {8, 8}, tolerance));
      CHECK_FALSE(close({special}, {special == infinity ? -infinity : infinity}, tolerance));
    }
  }
}
