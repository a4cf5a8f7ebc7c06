// Models tested without training.
#include "stpt/tester.hpp"

#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "stpt/trainer.hpp"
#include "tests/catch.hpp"
#include "tests/data/testing.hpp"
#include "tests/stpt/training.hpp"

using namespace stpt;
using namespace stpt::testing;

TEST_CASE("a checkpoint's model is tested as its run did, on other images as they are there") {
  const Overrides run = small + Overrides{"model.name=resnet8", "training.epochs=2"};
  Checkpoint last;
  TrainerObserver observer;
  observer.epoch_done = [&](const RunRecord&, const Checkpoint* checkpoint) { last = *checkpoint; };
  Trainer first(parse_config("{}", "test", run), "test");
  const EpochRecord epoch = first.run(observer).epochs.back();

  const auto never = [](const std::exception&) { FAIL(); };
  const auto test = [&](const Checkpoint& checkpoint, const Overrides& other = {}) {
    return Tester(parse_config("{}", "test", run + other), "test", checkpoint, 4).test(never);
  };
  const TestResult tested = test(last);
  CHECK(tested.images == 64);
  CHECK(tested.top1 == epoch.test_top1);
  CHECK(tested.top5 == epoch.test_top5);
  CHECK(tested.loss == epoch.test_loss);

  // Its network is fed as in its run: with other statistics of the images the loss is another one.
  Checkpoint shifted = last;
  shifted.normalization.mean.at(0) += 0.1F;
  CHECK(test(shifted).loss != epoch.test_loss);

  const Config config = parse_config("{}", "test", run);
  CHECK_THROWS_WITH(Tester(config, "test", last, 5),
                    Catch::Matchers::Contains(": has 4 classes; must have as many as the run, 5"));
  CHECK_THROWS_AS(test(last, {"model.name=resnet20"}), CheckpointError);
}

TEST_CASE("a test needs neither the workers of a training nor its many images") {
  const data::testing::TemporaryFolder folder;
  const auto images = [&](const std::string& set, std::size_t count) {
    std::vector<std::uint8_t> labels(count);
    for (std::size_t i = 0; i < count; ++i) labels[i] = i % 4;
    data::testing::write_idx(folder.path(), set, 12, labels);
  };
  images("train", 448);
  images("t10k", 64);
  const Config config = parse_config(
      "{}", "test",
      small + Overrides{"data.format=idx", "data.path=" + folder.path().string(),
                        "data.hold_out=-1", "model.name=resnet8", "training.epochs=1"});
  Checkpoint last;
  TrainerObserver observer;
  observer.epoch_done = [&](const RunRecord&, const Checkpoint* checkpoint) { last = *checkpoint; };
  (void)Trainer(config, "test").run(observer);

  images("train", 32);
  images("t10k", 40);
  CHECK_THROWS_AS(Trainer(config, "test"), ConfigError);
  Tester tester(config, "test", last, 4);
  CHECK(tester.experiment().config.training.workers == 1);
  CHECK(tester.test([](const std::exception&) { FAIL(); }).images == 40);
}

TEST_CASE("the model that a training would begin with is tested, too") {
  const auto test = [](const std::string& zero_gamma) {  // another one on the same images
    const Config config = parse_config(
        "{}", "test", small + Overrides{"model.name=resnet8", "model.zero_gamma=" + zero_gamma});
    return Tester(config, "test").test([](const std::exception&) { FAIL(); });
  };
  const TestResult first = test("false");
  CHECK(first.images == 64);
  CHECK(first.loss == test("false").loss);
  CHECK(first.loss != test("true").loss);
}
