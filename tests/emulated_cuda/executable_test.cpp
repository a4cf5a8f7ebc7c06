// The program on emulated GPUs: what it says, and what stays when a GPU fails.
#include "tests/gpu.hpp"
#include "tests/stpt/program.hpp"

using namespace stpt::testing;

namespace {

constexpr const char* small_run = R"({
  "name": "small",
  "model": {"name": "resnet8"},
  "data": {"format": "synthetic", "hold_out": 64,
           "synthetic": {"classes": 4, "channels": 1, "height": 8, "width": 8,
                         "train_images": 640, "test_images": 128}},
  "training": {"epochs": 3, "workers": 2, "batch_per_worker": 16,
               "learning_rate": {"initial": 0.05, "anneal": {"form": "none"}}},
  "stpt": {"alpha": 3, "candidates": [2, 1, 0.5]}
})";

std::string digest(const fs::path& run) {
  const std::string summary = read_file(run / "summary.json");
  const std::size_t at = summary.find("model_digest");
  REQUIRE(at != std::string::npos);
  return summary.substr(at, 90);
}

}  // namespace

TEST_CASE("The program trains on the GPUs it finds", "[cuda]") {
  NEEDS_GPUS(2);
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const WithEnvironment gpus("STARPU_NCUDA", "2");
  const Outcome outcome = program.run({"--config", "run.json", "--output", "out"});
  INFO(outcome.err);
  CHECK(outcome.status == 0);
  CHECK(read_file(program.folder() / "out" / "summary.json").find("2 GPUs (") != std::string::npos);
}

TEST_CASE("A lost GPU ends the run in order, and it goes on from the checkpoint", "[cuda]") {
  NEEDS_GPUS(1);
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const WithEnvironment gpus("STARPU_NCUDA", "1");
  REQUIRE(program.run({"--config", "run.json", "--output", "whole"}).status == 0);
  {
    // In the second epoch or the third: the first has about 5 000 kernels.
    const WithEnvironment lost("STPT_EMULATED_LOSE_DEVICE", "0:9000");
    const Outcome outcome = program.run({"--config", "run.json", "--output", "out"});
    INFO(outcome.err);
    CHECK(outcome.status == 1);
    CHECK_THAT(outcome.err, Catch::Matchers::Contains("stpt_starpu: ") &&
                                Catch::Matchers::Contains("the last checkpoint is kept"));
  }
  const std::string summary = read_file(program.folder() / "out" / "summary.json");
  CHECK_THAT(summary, Catch::Matchers::Contains("\"failed\""));
  REQUIRE(fs::exists(program.folder() / "out" / "checkpoint.bin"));
  const Outcome resumed = program.run({"--resume", "out"});
  INFO(resumed.err);
  CHECK(resumed.status == 0);
  CHECK(digest(program.folder() / "out") == digest(program.folder() / "whole"));
}

TEST_CASE("An allocation that fails once costs time, and no bits", "[cuda]") {
  NEEDS_GPUS(1);
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const WithEnvironment gpus("STARPU_NCUDA", "1");
  // StarPU measures the buses in the first run, and not again: there, no allocation may fail. Other
  // tests, with other numbers of GPUs, have it measure them anew.
  const WithEnvironment home("STARPU_HOME", program.folder().string());
  REQUIRE(program.run({"--config", "run.json", "--output", "whole"}).status == 0);
  const WithEnvironment fail("STPT_EMULATED_FAIL_MALLOC", "1");
  const Outcome outcome = program.run({"--config", "run.json", "--output", "out"});
  INFO(outcome.err);
  CHECK(outcome.err.find("this allocation fails") != std::string::npos);
  CHECK(outcome.status == 0);  // StarPU gives up what it keeps, and asks again
  CHECK(digest(program.folder() / "out") == digest(program.folder() / "whole"));
}
