#include "stpt/collapse.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "tests/catch.hpp"

namespace {

using namespace stpt;

constexpr int classes = 10;
const double guessing = std::log(10.0);  // 2.303

/// Each loss is the mean of `steps` steps of `batch` images.
struct Curve {
  explicit Curve(std::initializer_list<double> losses, int steps = 100, int batch = 100) {
    std::int64_t iteration = curve.first = 1000;
    curve.batch = batch;
    for (const double loss : losses) {
      CurvePoint& point = points.emplace_back();
      point.loss = loss;
      point.iteration = iteration += steps;
    }
    curve.points = points;
  }
  Curve(const Curve&) = delete;
  Curve& operator=(const Curve&) = delete;

  std::vector<CurvePoint> points;
  TrainingCurve curve;
};

bool collapsed(const Curve& main, const Curve& before, const Curve& pretrain = Curve({})) {
  return has_collapsed(main.curve, before.curve, pretrain.curve, classes);
}

}  // namespace

TEST_CASE("Losing more than half of what was learnt is a collapse", "[collapse]") {
  const Curve before({2, 1.303});  // 1 below guessing
  CHECK_FALSE(collapsed(Curve({1, 1, 1, 1}), before));
  CHECK_FALSE(collapsed(Curve({2, 2, 2, 1.79}), before));
  CHECK(collapsed(Curve({2, 2, 2, 1.82}), before));
  CHECK(collapsed(Curve({2, 2, 2, guessing}), before));
}

TEST_CASE("What was learnt is the better of the epoch before and the winner's", "[collapse]") {
  const Curve weak({2.2, 2.1}), strong({2, 0.303}), winner({2, 1.303}), none({});
  // The winner got to 1.303.
  CHECK(collapsed(Curve({2, 1.9}), weak, winner));
  CHECK_FALSE(collapsed(Curve({2, 1.7}), weak, winner));
  // The epoch before got to 0.303.
  CHECK(collapsed(Curve({2, 1.4}), strong, winner));
  CHECK_FALSE(collapsed(Curve({2, 1.2}), strong, winner));
  CHECK(collapsed(Curve({2, 1.9}), none, winner));
  CHECK_FALSE(collapsed(Curve({2, 1.7}), none, winner));
}

TEST_CASE("Curves count by the mean of their last quarter", "[collapse]") {
  // Of five points the last two: 1.303.
  const Curve before({0.1, 0.1, 0.1, 1.203, 1.403});
  CHECK_FALSE(collapsed(Curve({3, 3, 3, 1.6, 1.9}), before));
  CHECK(collapsed(Curve({3, 3, 3, 1.8, 1.9}), before));
  // The last point may be of fewer steps, and counts for less: (3 * 1.7 + 2.2) / 4 is 1.83.
  Curve uneven({2, 2, 2, 1.7, 2.2});
  CHECK(collapsed(uneven, before));
  uneven.points.back().iteration -= 67;
  CHECK(collapsed(uneven, before));
  uneven.points.back().iteration -= 23;  // (10 * 1.7 + 2.2) / 11 is 1.745
  CHECK_FALSE(collapsed(uneven, before));
}

TEST_CASE("What the same Main-train had learnt is lost, too", "[collapse]") {
  // A quarter of eight points, two, got to 1.3; the last two are 1.9, or 1.7.
  const Curve before({2.2, 2.1});
  CHECK(collapsed(Curve({2, 1.8, 1.5, 1.3, 1.3, 1.5, 1.8, 2}), before));
  CHECK_FALSE(collapsed(Curve({2, 1.8, 1.5, 1.3, 1.3, 1.5, 1.6, 1.8}), before));
  CHECK_FALSE(collapsed(Curve({2, 1.8, 1.7, 1.3, 1.7, 1.7, 1.9, 1.9}), before));  // one alone
  CHECK_FALSE(collapsed(Curve({1.3, 1.8, 1.8, 1.8, 1.8, 1.8, 1.9, 1.9}), before));
}

TEST_CASE("What chance explains is no collapse", "[collapse]") {
  // Twice 36 images: three standard errors of images that differ by 1 are 0.71.
  const Curve before({1.303}, 2, 18);
  CHECK_FALSE(collapsed(Curve({2}, 2, 18), before));
  CHECK(collapsed(Curve({2.03}, 2, 18), before));
  // With many images on one side 0.5.
  CHECK_FALSE(collapsed(Curve({1.79}, 1000, 18), before));
  CHECK(collapsed(Curve({1.83}, 1000, 18), before));
  CHECK(collapsed(Curve({1.83}, 2, 18), Curve({1.303})));
  // At least 64 images are looked at, here of four of eight points.
  const Curve calm({1.303});
  CHECK_FALSE(collapsed(Curve({2, 2, 2, 2, 1, 1.5, 2, 2}, 1, 16), calm));
  CHECK(collapsed(Curve({2, 2, 2, 2, 1.9, 1.9, 2, 2}, 1, 16), calm));
}

TEST_CASE("Where next to nothing had been learnt there is nothing to lose", "[collapse]") {
  // A tenth of 2.303 counts as something.
  CHECK_FALSE(collapsed(Curve({guessing}), Curve({2.3, guessing - 0.22})));
  CHECK(collapsed(Curve({guessing}), Curve({2.3, guessing - 0.24})));
}

TEST_CASE("More than twice the worst loss is a collapse", "[collapse]") {
  // Guessing is the least that counts as the worst.
  const Curve calm({2.25, 2.2}), wild({5, 2.2}), none({});
  CHECK_FALSE(collapsed(Curve({4.5}), calm));
  CHECK(collapsed(Curve({4.7}), calm));
  CHECK_FALSE(collapsed(Curve({9.9}), wild));
  CHECK(collapsed(Curve({10.1}), wild));
  // In a first epoch without Pre-train its own beginning does.
  CHECK_FALSE(collapsed(Curve({6, 11.9}), none));
  CHECK(collapsed(Curve({6, 12.1}), none));
  CHECK(collapsed(Curve({6, 11.9}), calm));
  CHECK(collapsed(Curve({6, 11.9}), none, calm));
}

TEST_CASE("Nothing was learnt where the end is no better than guessing", "[collapse]") {
  const Guess guess{0.1, guessing};
  const auto nothing = [&](Curve&& curve, double top1, const Guess& by) {
    for (CurvePoint& point : curve.points) point.top1 = top1;
    return has_learnt_nothing(curve.curve, by, classes);
  };
  // The last quarter: 10000 images, of which two standard errors are 0.6 %.
  CHECK(nothing(Curve({2.3, 2.3, 2.3, 2.3}), 0.1, guess));
  CHECK(nothing(Curve({2.3, 2.3, 2.3, 2.3}), 0.105, guess));
  CHECK_FALSE(nothing(Curve({2.3, 2.3, 2.3, 2.3}), 0.107, guess));
  CHECK(nothing(Curve({2.3, 2.3, 2.3, 9}), 0.05, guess));
  // A loss below 0.95 times that of guessing is something, at its end.
  CHECK_FALSE(nothing(Curve({2.3, 2.3, 2.3, 2.18}), 0.1, guess));
  CHECK(nothing(Curve({2.3, 2.3, 2.18, 2.2}), 0.1, guess));
  // Of unbalanced classes the most frequent one alone is nothing.
  CHECK(nothing(Curve({1.5, 1.5}), 0.6, {0.6, 1.5}));
  CHECK_FALSE(nothing(Curve({1.5, 1.5}), 0.6, guess));
  // On fewer than 500 images that says nothing.
  CHECK(nothing(Curve({2.3, 2.3, 2.3, 2.3}, 5, 100), 0.1, guess));
  CHECK_FALSE(nothing(Curve({2.3, 2.3, 2.3, 2.3}, 4, 100), 0.1, guess));
  CHECK_FALSE(nothing(Curve({}), 0.1, guess));
  // A single class leaves nothing to learn.
  CHECK_FALSE(nothing(Curve({0, 0}), 1, {1, 0}));
}

TEST_CASE("A loss that is not finite is a collapse, a single step or none is not", "[collapse]") {
  const Curve before({2, 1}), none({});
  CHECK(collapsed(Curve({1, std::numeric_limits<double>::quiet_NaN()}), before));
  CHECK(collapsed(Curve({1, std::numeric_limits<double>::infinity()}), none));
  CHECK_FALSE(collapsed(none, before, Curve({2, 1})));
  CHECK_FALSE(collapsed(Curve({2.2, 2.1}), none));
  CHECK_FALSE(collapsed(Curve({2.2}, 1), before));
  CHECK(collapsed(Curve({2.2}, 2), before));
}
