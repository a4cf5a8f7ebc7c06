// Whole trainings on GPUs.
#include <cmath>
#include <string>

#include "tests/gpu.hpp"
#include "tests/stpt/training.hpp"

using namespace stpt;
using namespace stpt::testing;

namespace {

/// Three replicas, and 8 logical workers; 4 iterations an epoch, since emulated GPUs are slow.
const Overrides run = small + Overrides{"model.name=resnet8", "stpt.candidates=[2, 1, 0.5]",
                                        "data.synthetic.height=8", "data.synthetic.width=8",
                                        "data.synthetic.train_images=320"};

Outcome train_on(int gpus, int workers_per_gpu, const Overrides& overrides) {
  const WithEnvironment count("STARPU_NCUDA", std::to_string(gpus));
  const WithEnvironment workers("STARPU_NWORKER_PER_CUDA", std::to_string(workers_per_gpu));
  return train(overrides);
}

}  // namespace

TEST_CASE("A run on a GPU learns what one on cores does", "[cuda]") {
  NEEDS_GPUS(1);
  const Overrides longer = small + Overrides{"data.synthetic.train_images=2112", "stpt.alpha=20",
                                             "training.epochs=1", "stpt.candidates=[1e6, 1, 1e-5]"};
  const Outcome cores = train(longer);
  CHECK(cores.record.device.find("GPU") == std::string::npos);
  for (const std::string type : {"float32", "bfloat16", "float16"}) {
    INFO(type);
    const Outcome gpu = train_on(1, 1, longer + Overrides{"model.data_type=" + type});
    CHECK(gpu.record.device.find("1 GPU (") == 0);
    const EpochRecord& epoch = gpu.record.epochs.at(0);
    CHECK(winner(epoch).factor == 1.0);
    CHECK(gpu.record.epochs.back().test_top1 > 0.8);
    // The first step's loss, before roundings have added up.
    CHECK(epoch.candidates[1].curve.front().loss ==
          Approx(cores.record.epochs[0].candidates[1].curve.front().loss).epsilon(0.02));
  }
}

TEST_CASE("The same bits however many workers share a GPU", "[cuda]") {
  NEEDS_GPUS(1);
  const Outcome one = train_on(1, 1, run);
  const Outcome eight = train_on(1, 8, run);
  CHECK(same_bits(one.model, eight.model));
  CHECK(one.record.epochs.back().test_loss == eight.record.epochs.back().test_loss);
  CHECK(same_bits(one.model, train_on(1, 3, run + Overrides{"runtime.fusion=block"}).model));
}

TEST_CASE("Replicas of one worker each train at the same time, with the same bits", "[cuda]") {
  NEEDS_GPUS(1);
  const Overrides alone = run + Overrides{"stpt.pretrain_batch=worker"};
  CHECK(same_bits(train_on(1, 1, alone).model, train_on(1, 3, alone).model));
}

TEST_CASE("The same bits whether GPUs or cores make the batches", "[cuda]") {
  NEEDS_GPUS(1);
  for (const Overrides& some : {run, small_with_dropout()}) {
    CHECK(same_bits(train_on(1, 1, some).model,
                    train_on(1, 1, some + Overrides{"runtime.data_on_gpu=false"}).model));
  }
}

TEST_CASE("The same bits on several GPUs as on one", "[cuda]") {
  NEEDS_GPUS(2);
  const Outcome one = train_on(1, 1, run);
  for (const auto& [gpus, workers] : {std::pair{2, 1}, {2, 2}, {3, 1}}) {
    if (runtime::find_gpus().size() < static_cast<std::size_t>(gpus)) continue;
    INFO(gpus << " GPUs, " << workers << " workers each");
    const Outcome several = train_on(gpus, workers, run);
    CHECK(same_bits(one.model, several.model));
    CHECK(one.record.epochs.back().test_loss == several.record.epochs.back().test_loss);
  }
}

TEST_CASE("A run on a GPU, resumed, ends with the same bits", "[cuda]") {
  NEEDS_GPUS(1);
  const WithEnvironment gpus("STARPU_NCUDA", "1");
  const Overrides longer = run + Overrides{"training.epochs=3", "model.data_type=float16"};
  const Outcome whole = train(longer);
  Checkpoint middle;
  RunRecord record;
  Trainer first(parse_config("{}", "test", longer), "test");
  TrainerObserver observer;
  observer.epoch_done = [&](const RunRecord& so_far, const Checkpoint* checkpoint) {
    REQUIRE(checkpoint != nullptr);
    if (checkpoint->epoch != 1) return;
    middle = *checkpoint;
    record = so_far;
  };
  first.run(observer);
  Trainer second(parse_config("{}", "test", longer), "test");
  second.resume(middle, record);
  CHECK(second.run({}).model_digest == whole.record.model_digest);
}

TEST_CASE("Every option of Pre-train runs on a GPU", "[cuda]") {
  NEEDS_GPUS(1);
  for (const char* option :
       {"stpt.winner_progress=discarded", "stpt.momentum=reset", "stpt.replica_data=disjoint",
        "stpt.score=training_window", "stpt.score_statistics=running",
        "stpt.running_statistics=recalibrate", "stpt.pretrain_batch=worker",
        "training.optimizer.nesterov=true", "training.optimizer.momentum_form=lr_in_velocity",
        "training.optimizer.name=adamw"}) {
    INFO(option);
    const Outcome gpu =
        train_on(1, 2, run + Overrides{option, "stpt.score_window=2", "training.epochs=1"});
    const Outcome cores =
        train(run + Overrides{option, "stpt.score_window=2", "training.epochs=1"});
    // Eleven steps at these learning rates part two devices by their roundings, not by more.
    CHECK(gpu.record.epochs[0].test_loss == Approx(cores.record.epochs[0].test_loss).epsilon(0.05));
  }
}

TEST_CASE("A run of one logical worker on a GPU is that on cores", "[cuda]") {
  NEEDS_GPUS(1);
  const Overrides one = run + Overrides{"training.workers=1", "training.batch_per_worker=64"};
  const Outcome gpu = train_on(1, 1, one), cores = train(one);
  CHECK(gpu.record.epochs[1].test_loss == Approx(cores.record.epochs[1].test_loss).epsilon(0.05));
  CHECK(same_bits(gpu.model, train_on(1, 2, one).model));
}

TEST_CASE("A batch too large for the GPU is refused before anything runs", "[cuda]") {
  NEEDS_GPUS(1);
  const WithEnvironment gpus("STARPU_NCUDA", "1");
  try {
    Trainer trainer(
        parse_config(
            "{}", "test",
            small + Overrides{"model.name=vgg19", "training.workers=1", "data.synthetic.height=64",
                              "data.synthetic.width=64", "data.synthetic.train_images=70000",
                              "stpt.alpha=1", "training.batch_per_worker=65536"}),
        "test");
    FAIL("must throw");
  } catch (const ConfigError& error) {
    INFO(error.what());
    CHECK(std::string(error.what()).find("training.batch_per_worker") != std::string::npos);
    CHECK(std::string(error.what()).find("of GPU memory") != std::string::npos);
  }
}

TEST_CASE("A GPU without a core that loads batches is refused before anything runs", "[cuda]") {
  NEEDS_GPUS(1);
  const WithEnvironment gpus("STARPU_NCUDA", "1"), cores("STARPU_NCPU", "0");
  try {
    Trainer trainer(parse_config("{}", "test", small), "test");
    FAIL("must throw");
  } catch (const ConfigError& error) {
    CHECK(std::string(error.what()) ==
          "STARPU_NCPU: is 0, but cores load batches; must be at least 1");
  }
}
