#include "stpt/collapse.hpp"

#include <cmath>
#include <limits>

#include "tests/catch.hpp"

namespace {

using namespace stpt;

constexpr int classes = 10;
const double guessing = std::log(10.0);  // 2.303

std::vector<CurvePoint> curve(std::initializer_list<double> losses) {
  std::vector<CurvePoint> points;
  for (const double loss : losses) points.emplace_back().loss = loss;
  return points;
}

EpochRecord trained(std::initializer_list<double> losses) {
  EpochRecord epoch;
  epoch.curve = curve(losses);
  return epoch;
}

EpochRecord after_pretrain(std::initializer_list<double> winner,
                           std::initializer_list<double> losses) {
  EpochRecord epoch = trained(losses);
  epoch.candidates.resize(2);
  epoch.candidates[0].curve = curve({guessing, 0.01});  // a loser's does not count
  epoch.candidates[1].curve = curve(winner);
  epoch.candidates[1].winner = true;
  return epoch;
}

}  // namespace

TEST_CASE("Losing more than half of what was learnt is a collapse", "[collapse]") {
  const EpochRecord before = trained({2, 1.303});  // 1 below guessing
  CHECK_FALSE(has_collapsed(trained({1, 1, 1, 1}), &before, classes));
  CHECK_FALSE(has_collapsed(trained({1, 1, 1, 1.79}), &before, classes));
  CHECK(has_collapsed(trained({1, 1, 1, 1.82}), &before, classes));
  CHECK(has_collapsed(trained({1, 1, 1, guessing}), &before, classes));
}

TEST_CASE("What was learnt is the better of the epoch before and the winner's", "[collapse]") {
  const EpochRecord weak = trained({2.2, 2.1}), strong = trained({2, 0.303});
  // The winner got to 1.303.
  CHECK(has_collapsed(after_pretrain({2, 1.303}, {2, 1.9}), &weak, classes));
  CHECK_FALSE(has_collapsed(after_pretrain({2, 1.303}, {2, 1.7}), &weak, classes));
  // The epoch before got to 0.303.
  CHECK(has_collapsed(after_pretrain({2, 1.303}, {2, 1.4}), &strong, classes));
  CHECK_FALSE(has_collapsed(after_pretrain({2, 1.303}, {2, 1.2}), &strong, classes));
  CHECK(has_collapsed(after_pretrain({2, 1.303}, {2, 1.9}), nullptr, classes));
  CHECK_FALSE(has_collapsed(after_pretrain({2, 1.303}, {2, 1.7}), nullptr, classes));
}

TEST_CASE("Curves count by the mean of their last quarter", "[collapse]") {
  // Of five points the last two: 1.303.
  const EpochRecord before = trained({0.1, 0.1, 0.1, 1.203, 1.403});
  CHECK_FALSE(has_collapsed(trained({3, 3, 3, 1.6, 1.9}), &before, classes));
  CHECK(has_collapsed(trained({1, 1, 1, 1.8, 1.9}), &before, classes));
}

TEST_CASE("Noise around next to nothing learnt is no collapse", "[collapse]") {
  // A tenth of 2.303 counts as something.
  const EpochRecord little = trained({2.3, guessing - 0.22}),
                    enough = trained({2.3, guessing - 0.24});
  CHECK_FALSE(has_collapsed(trained({guessing}), &little, classes));
  CHECK(has_collapsed(trained({guessing}), &enough, classes));
}

TEST_CASE("More than twice the worst loss is a collapse", "[collapse]") {
  // Guessing is the least that counts as the worst.
  const EpochRecord calm = trained({2.25, 2.2}), wild = trained({5, 2.2});
  CHECK_FALSE(has_collapsed(trained({4.5}), &calm, classes));
  CHECK(has_collapsed(trained({4.7}), &calm, classes));
  CHECK_FALSE(has_collapsed(trained({9.9}), &wild, classes));
  CHECK(has_collapsed(trained({10.1}), &wild, classes));
  // In a first epoch without Pre-train its own beginning does.
  CHECK_FALSE(has_collapsed(trained({6, 11.9}), nullptr, classes));
  CHECK(has_collapsed(trained({6, 12.1}), nullptr, classes));
  CHECK(has_collapsed(trained({6, 11.9}), &calm, classes));
  CHECK(has_collapsed(after_pretrain({2.3, 2.2}, {6, 11.9}), nullptr, classes));
}

TEST_CASE("A loss that is not finite is a collapse, a single step or none is not", "[collapse]") {
  const EpochRecord before = trained({2, 1});
  CHECK(has_collapsed(trained({1, std::numeric_limits<double>::quiet_NaN()}), &before, classes));
  CHECK(has_collapsed(trained({1, std::numeric_limits<double>::infinity()}), nullptr, classes));
  CHECK_FALSE(has_collapsed(after_pretrain({2, 1}, {}), &before, classes));
  // The first step's loss says nothing of the epoch's own LR.
  EpochRecord short_one = trained({2.2});
  short_one.iterations = 1;
  CHECK_FALSE(has_collapsed(short_one, &before, classes));
  short_one.iterations = 2;
  CHECK(has_collapsed(short_one, &before, classes));
  const EpochRecord without = trained({});
  CHECK_FALSE(has_collapsed(trained({2.2, 2.1}), &without, classes));
}
