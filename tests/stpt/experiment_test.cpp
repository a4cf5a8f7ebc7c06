#include "stpt/experiment.hpp"

#include <cstdio>
#include <string>
#include <vector>

#include "runtime/machine.hpp"
#include "tests/data/testing.hpp"
#include "tests/gpu.hpp"
#include "tests/stpt/training.hpp"

using namespace stpt;
using namespace stpt::testing;

TEST_CASE("runtime.fusion says how much goes into one task", "[experiment]") {
  using models::Grain;
  CHECK(experiment(small + Overrides{"runtime.fusion=op"}).lowering().grain == Grain::op);
  CHECK(experiment(small + Overrides{"runtime.fusion=block"}).lowering().grain == Grain::block);
  CHECK(experiment(small + Overrides{"runtime.fusion=step"}).lowering().grain == Grain::step);
  CHECK(experiment(small).lowering().grain == Grain::step);  // on one rank
}

TEST_CASE("networks are lowered with the loss's scale and smoothing", "[experiment]") {
  CHECK(experiment(small).lowering().loss_scale == 1);
  CHECK(experiment(small + Overrides{"training.loss_scale=64"}).lowering().loss_scale == 64);
  CHECK(experiment(small).lowering().label_smoothing == 0);
  CHECK(experiment(small + Overrides{"training.label_smoothing=0.25"}).lowering().label_smoothing ==
        0.25f);
}

TEST_CASE("images cannot be cut to more than they have", "[experiment]") {
  const auto cut = [](const std::string& height, const std::string& width) {
    return experiment(small + Overrides{"data.synthetic.height=" + height,
                                        "data.synthetic.width=" + width, "data.crop_size=13"})
        .network.input();
  };
  CHECK(cut("14", "13") == runtime::Shape{1, 1, 13, 13});
  const std::string problem = "data.crop_size: is 13; must be at most the size of the images, ";
  CHECK_THROWS_WITH(cut("14", "12"), Catch::Matchers::EndsWith(problem + "12x14"));
  CHECK_THROWS_WITH(cut("12", "14"), Catch::Matchers::EndsWith(problem + "14x12"));
}

TEST_CASE("batch norm of single values is refused before the run", "[experiment]") {
  const Overrides network = {
      "model.name=",
      R"(model.network={"name": "own", "layers": [{"name": "conv", "type": "convolution", "filters": 4,
         "kernel": 3}, {"type": "global_average_pool"}, {"name": "bn", "type": "batch_norm"},
         {"name": "fc", "type": "fully_connected"}]})"};
  const Overrides one = {"training.batch_per_worker=1"};
  CHECK_NOTHROW(experiment(small + network));
  CHECK_NOTHROW(experiment(small + one));
  CHECK_THROWS_WITH(experiment(small + network + one),
                    Catch::Matchers::EndsWith(
                        "training.batch_per_worker: is 1, but layer \"bn\", batch norm of 1x1 "
                        "pixels, needs more than one image to take statistics of; must be at least "
                        "2"));
  CHECK_THROWS_WITH(experiment(small + network + Overrides{"data.hold_out=1"}),
                    Catch::Matchers::Contains("data.hold_out: is 1, but layer \"bn\""));
  CHECK_NOTHROW(
      experiment(small + network + Overrides{"data.hold_out=1", "stpt.score_statistics=running"}));
}

TEST_CASE("who asks for too many candidates is told how many fit", "[experiment]") {
  constexpr double gibibyte = 1024.0 * 1024.0 * 1024.0;
  const double available = static_cast<double>(runtime::Machine::detect().available_bytes);
  if (available > 500 * gibibyte) return;  // all fit
  std::string candidates = "[1";
  for (int i = 1; i < 1024; ++i) candidates += ",1";
  const Overrides large = {"stpt.candidates=" + candidates + "]",
                           "data.synthetic.height=512",
                           "data.synthetic.width=512",
                           "data.synthetic.train_images=16",
                           "data.synthetic.test_images=4",
                           "data.hold_out=4",
                           "training.workers=1",
                           "training.batch_per_worker=4",
                           "runtime.steps_in_flight=1",
                           "runtime.cpu_workers=1"};
  std::string message;
  try {
    (void)experiment(small + large);
  } catch (const ConfigError& error) {
    message = error.what();
  }
  CAPTURE(message);
  const std::size_t numbers = message.find("1024 candidates need about ");
  REQUIRE(numbers != std::string::npos);
  double needed = 0, free = 0;
  int fit = 0;
  REQUIRE(std::sscanf(message.c_str() + numbers,
                      "1024 candidates need about %lf GiB of memory, %lf GiB are available; "
                      "at most %d fit",
                      &needed, &free, &fit) == 3);
  // The first layer has 512 x 512 x 256 weights, or 0.25 GiB. A candidate has them three times, as
  // parameters, moments and mean.
  CHECK(needed > 768);
  CHECK(needed < 780);
  CHECK(free > 0.5 * available / gibibyte);
  CHECK(free < 2 * available / gibibyte);
  CHECK(fit >= free / needed * 1024 - 10);
  CHECK(fit <= free / needed * 1024 + 1);
}

TEST_CASE("memory is that of the StarPU workers that there will be", "[experiment]") {
  const auto memory = [](const char* environment, const Overrides& keys) {
    const WithEnvironment workers("STARPU_NCPU", environment);
    return experiment(small + Overrides{"model.name=resnet8"} + keys).memory_bytes();
  };
  const std::uint64_t one = memory("1", {}), three = memory("3", {});
  CHECK(one < three);
  CHECK(memory("3", {"runtime.cpu_workers=1"}) == one);
  CHECK(memory("1", {"runtime.cpu_workers=3"}) == three);
  // What a task keeps between forward and backward is its own memory, or passes on to the next.
  CHECK(memory("1", {"runtime.fusion=op"}) > one);
}

TEST_CASE("all training images have a part in the data's checksum", "[experiment]") {
  // They have one in the normalization.
  const auto checksum = [](const std::string& hold_out) {
    return experiment(small + Overrides{"data.hold_out=" + hold_out}).data_checksum;
  };
  CHECK(checksum("64") == checksum("64"));
  CHECK(checksum("64") != checksum("65"));
}

TEST_CASE("the data's checksum tells labels apart", "[experiment]") {
  const data::testing::TemporaryFolder folder;
  using Labels = std::vector<std::uint8_t>;
  const auto checksum = [&](const Labels& train, const Labels& test) {
    data::testing::write_idx(folder.path(), "train", 4, train);
    data::testing::write_idx(folder.path(), "t10k", 4, test);
    return experiment(small + Overrides{"data.format=idx", "data.path=" + folder.path().string(),
                                        "data.hold_out=2", "training.workers=1",
                                        "training.batch_per_worker=2"})
        .data_checksum;
  };
  const Labels labels = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
  const Labels others = {0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1};
  CHECK(checksum(labels, labels) == checksum(labels, labels));
  CHECK(checksum(labels, labels) != checksum(others, labels));
  CHECK(checksum(labels, labels) != checksum(labels, others));
}
