#include "stpt/memory_estimate.hpp"

#include <cstdint>
#include <string>

#include "models/zoo.hpp"
#include "runtime/machine.hpp"
#include "tests/catch.hpp"

namespace stpt {
namespace {

/// A resnet8 for 2x12x12 images, on 3 cores: 4 workers of 8 images each, 2 steps in flight.
struct Rank {
  Config config;
  models::Network network = models::make_network("resnet8", {1, 2, 12, 12}, 4);
  RankSizes sizes{.workers = 4,
                  .evaluation_batch = 32,
                  .cpu_workers = 3,
                  .training = {.lane = 500, .scratch = 70},
                  .evaluation = {.lane = 30, .scratch = 2},
                  .calibration = {}};
  GpuChoice gpus;
  std::uint64_t parameters = 0;

  Rank() {
    config.training.batch_per_worker = 8;
    config.runtime.steps_in_flight = 2;
    for (const std::size_t elements : network.buckets) parameters += 4 * elements;
  }
  [[nodiscard]] std::uint64_t bytes(std::size_t candidates = 0) const {
    return MemoryEstimate(config, network, sizes, gpus).main_bytes(candidates);
  }
  [[nodiscard]] std::uint64_t state() const {
    return 2 * parameters + 4 * 4 * network.running_statistics;
  }
  [[nodiscard]] std::string refusal() const {
    try {
      MemoryEstimate(config, network, sizes, gpus).check_main("run.json");
      MemoryEstimate(config, network, sizes, gpus).check_gpu("run.json");
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  }
};

constexpr std::uint64_t image = 4 * 2 * 12 * 12;
/// What three cores evaluate at a time: 4 batches, which are of two sizes, and their activations.
constexpr std::uint64_t evaluated = 2 * (4 * (32 * image + 30) + 3 * 2);

TEST_CASE("main memory holds the models, gradients, images and activations", "[memory_estimate]") {
  Rank rank;
  // Of 4 workers that have 3 sets of batches: 2 steps in flight and the one that is loaded. Each
  // worker has a chain of tasks, and each core the scratch memory of one.
  const std::uint64_t images = 3 * 4 * 8 * image, computed = 4 * 500 + 3 * 70;
  const std::uint64_t plain =
      2 * rank.state() + 4 * rank.parameters + images + evaluated + computed;
  CHECK(rank.bytes() == plain);

  rank.sizes.cached_image_bytes = 1000;
  CHECK(rank.bytes() == plain + 1000);
  rank.sizes.cached_image_bytes = 0;
  // Two chains on each core do.
  rank.sizes.cpu_workers = 1;
  CHECK(rank.bytes() == plain - 2 * 500 - 2 * 70 - 2 * (2 * (32 * image + 30) + 2 * 2));
}

TEST_CASE("running statistics that are measured anew have programs of their own",
          "[memory_estimate]") {
  Rank rank;
  const std::uint64_t plain = rank.bytes();
  rank.sizes.calibration_batches = 5;
  rank.sizes.calibration = {.lane = 11, .scratch = 13};
  CHECK(rank.bytes() == plain + 5 * 4 * rank.network.running_statistics + 6 * 11 + 3 * 13);
}

TEST_CASE("candidates have models, a second evaluation and their steps' gradients",
          "[memory_estimate]") {
  Rank rank;
  const std::uint64_t plain = rank.bytes();
  rank.sizes.candidates = 3;
  rank.sizes.workers_per_replica = 4;
  // Two steps are in flight, each of 4 workers.
  CHECK(rank.bytes(3) == plain + 3 * rank.state() + evaluated + 4 * rank.parameters);
  CHECK(rank.bytes(2) == rank.bytes(3) - rank.state());
  rank.sizes.scores_mean = true;
  CHECK(rank.bytes(3) ==
        plain + 3 * rank.state() + evaluated + 4 * rank.parameters + 3 * rank.parameters);
  rank.sizes.scores_mean = false;
  // Each has a worker: 4 at a time, two steps of each.
  rank.sizes.workers_per_replica = 1;
  rank.sizes.candidates = 6;
  CHECK(rank.bytes(6) == plain + 6 * rank.state() + evaluated + 2 * rank.parameters);
  rank.sizes.candidates = 20;
  CHECK(rank.bytes(20) == plain + 20 * rank.state() + evaluated + 4 * rank.parameters);
}

TEST_CASE("on GPUs main memory has no activations", "[memory_estimate]") {
  Rank rank;
  rank.sizes.training = rank.sizes.evaluation = {};
  const std::uint64_t plain = rank.bytes();
  rank.gpus.gpus.resize(2);
  rank.gpus.workers_per_gpu = 3;
  // Six workers evaluate two batches each.
  CHECK(rank.bytes() == plain + (12 - 4) * 2 * std::uint64_t{32} * image);
}

TEST_CASE("what cannot fit names what to make smaller", "[memory_estimate]") {
  Rank rank;
  CHECK(rank.gpus.gpus.empty());
  rank.sizes.cached_image_bytes = std::uint64_t{1} << 60U;
  CHECK_THAT(
      rank.refusal(),
      Catch::Matchers::StartsWith("run.json: training.batch_per_worker: training needs "
                                  "about 1073741824.") &&
          Catch::Matchers::EndsWith(
              " are available; take fewer workers, a smaller batch, fewer cores (STARPU_NCPU) or "
              "a smaller model"));
  rank.config.data.format = DataFormat::image_folder;
  rank.sizes.candidates = 2;
  rank.sizes.cpu_workers = 1;
  CHECK_THAT(rank.refusal(), Catch::Matchers::EndsWith(" are available; take fewer workers, a "
                                                       "smaller batch, a smaller data.cache or a "
                                                       "smaller model"));
}

TEST_CASE("who has no memory for all candidates is told how many fit", "[memory_estimate]") {
  Rank rank;
  // A model of a 13th of the memory. It is there twice with the checkpoint, each with its moments,
  // and two steps' gradients: what is left holds three and a half candidates.
  const std::uint64_t available = runtime::Machine::detect().available_bytes;
  rank.network = models::make_network("mlp", {1, 2, 12, 12}, 4);
  rank.network.buckets = {static_cast<std::size_t>(available / 13 / sizeof(float))};
  rank.sizes.workers = 1;
  rank.sizes.candidates = 10;
  CHECK_THAT(rank.refusal(),
             Catch::Matchers::StartsWith("run.json: stpt.candidates: 10 candidates need about ") &&
                 Catch::Matchers::EndsWith(" are available; at most 3 fit"));
  // With AdamW each has two moments: what is left beside 6 + 2 holds one and two thirds.
  rank.config.training.optimizer.name = OptimizerName::adamw;
  CHECK_THAT(rank.refusal(), Catch::Matchers::EndsWith(" are available; at most 1 fit"));
}

TEST_CASE("a GPU gets as many workers as fit beside its models", "[memory_estimate]") {
  Rank rank;
  rank.gpus.gpus.resize(2);
  for (runtime::Gpu& gpu : rank.gpus.gpus) gpu = {0, "Tiny", 1U << 20U};
  CHECK(rank.refusal() ==
        "run.json: training.batch_per_worker: training needs about 0.0 GiB of GPU memory, of which "
        "Tiny has 0.0 GiB; take a smaller batch, fewer candidates or a smaller model");
  for (runtime::Gpu& gpu : rank.gpus.gpus) gpu.memory_bytes = std::uint64_t{1} << 30U;
  CHECK(rank.refusal() == "no error");
  const auto workers = [&] {
    return MemoryEstimate(rank.config, rank.network, rank.sizes, rank.gpus).workers_per_gpu();
  };
  CHECK(workers() == 2);  // 4 workers on two GPUs
  rank.sizes.candidates = 10;
  CHECK(workers() == 5);
}

}  // namespace
}  // namespace stpt
