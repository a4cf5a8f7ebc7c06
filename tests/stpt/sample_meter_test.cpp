#include "stpt/sample_meter.hpp"

#include "tests/catch.hpp"
#include "tests/stpt/training.hpp"

namespace stpt {
namespace {

using testing::experiment;
using testing::operator+;
using testing::small;

// In each of two epochs three candidates train for 3 iterations of 64 images, the winner for 3
// more.
constexpr std::int64_t epoch_samples = 4 * 3 * 64;

TEST_CASE("a run's samples are planned from an epoch on", "[sample_meter]") {
  const Experiment run = experiment(small);
  SampleMeter meter(run);
  meter.plan_from(1);
  CHECK(meter.state().planned == 2 * epoch_samples);
  CHECK(meter.state().done == 0);
  meter.add(epoch_samples);
  CHECK(meter.state().planned == 2 * epoch_samples);
  CHECK(meter.state().done == epoch_samples);
  SECTION("and what is done stays done when an epoch is repeated") {
    meter.plan_from(1);
    CHECK(meter.state().planned == 3 * epoch_samples);
    CHECK(meter.state().done == epoch_samples);
  }
  SECTION("without those of candidates that are out, until it is planned anew") {
    meter.drop(64);
    CHECK(meter.state().planned == 2 * epoch_samples - 64);
    meter.plan_from(2);
    CHECK(meter.state().planned == 2 * epoch_samples);
  }
}

TEST_CASE("the progress of a run without Pre-train counts Main-train alone", "[sample_meter]") {
  const Experiment run =
      experiment(small + testing::Overrides{"training.learning_rate.policy=fixed"});
  SampleMeter meter(run);
  meter.plan_from(2);
  CHECK(meter.state().planned == 6 * 64);
}

TEST_CASE("the training accuracy shown is the last step's, unknown before one", "[sample_meter]") {
  const Experiment run = experiment(small);
  SampleMeter meter(run);
  CHECK_FALSE(meter.state().train_top1);
  meter.step_done({64, 1.5, 0.25});
  meter.step_done({64, 1.0, 0.5});
  CHECK(meter.state().train_top1 == 0.5);
}

}  // namespace
}  // namespace stpt
