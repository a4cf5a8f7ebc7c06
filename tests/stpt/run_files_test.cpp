// The run files of configs/: all of them can be run, and those of the paper say what it says.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "stpt/config/config.hpp"
#include "stpt/config/lr_sets.hpp"
#include "stpt/config/run_file.hpp"
#include "stpt/learning_rate.hpp"
#include "stpt/trainer.hpp"
#include "tests/catch.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;

const fs::path configs = fs::path(STPT_SOURCE_DIR) / "configs";

/// From the folder downwards, sorted; without networks.
std::vector<fs::path> run_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    const bool is_network = entry.path().parent_path().filename() == "networks";
    if (entry.is_regular_file() && !is_network) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  REQUIRE_FALSE(files.empty());
  return files;
}

Config load(const fs::path& file, const std::vector<std::string>& overrides = {}) {
  return parse_config(read_run_file(file, "a run file"), file.string(), overrides);
}

Config paper(const std::string& name) { return load(configs / "paper" / (name + ".json")); }

/// Iterations of an epoch on the 1 281 167 training images of ILSVRC2012.
std::int64_t imagenet_iterations(const Config& config) {
  const TrainingConfig& training = config.training;
  return (1'281'167 - config.data.hold_out) / (training.workers * training.batch_per_worker);
}

LearningRateSchedule schedule_of(const Config& config) {
  return {config.training, config.stpt, imagenet_iterations(config)};
}

TEST_CASE("every run file of configs/ is valid and bears its file's name", "[run_files]") {
  for (const fs::path& file : run_files(configs)) {
    CAPTURE(file);
    const Config config = load(file);
    CHECK(parse_config(print_config(config), "printed") == config);
    if (file.stem() != "base") CHECK(config.name == file.stem());
  }
}

TEST_CASE("the paper's run files have the settings of Table 1", "[run_files]") {
  for (const fs::path& file : run_files(configs / "paper")) {
    CAPTURE(file);
    const Config config = load(file);
    CHECK(config.model.name == "resnet50");
    CHECK(config.training.epochs == 40);
    CHECK(config.training.workers == 8);
    CHECK(config.training.batch_per_worker == 64);
    CHECK(config.training.optimizer.momentum == 0.9);
    CHECK(config.training.learning_rate.initial == 0.1);
    CHECK(config.stpt.pretrain_batch == PretrainBatch::global);
    CHECK(imagenet_iterations(config) == 2500);
    CHECK_NOTHROW(validate_for_images(config, 1'281'167));
  }
  CHECK(paper("alpha_8").stpt.alpha == 200);
  CHECK(paper("alpha_25").stpt.alpha == 625);
  CHECK(paper("alpha_50").stpt.alpha == 1250);
  CHECK(paper("alpha_100").stpt.alpha == 2500);
}

TEST_CASE("the paper's trainings with STPT are its own and nothing else", "[run_files]") {
  for (const char* name :
       {"alpha_8", "alpha_25", "alpha_50", "alpha_100", "narrow", "middle", "wide", "mix"}) {
    CAPTURE(name);
    const Config config = paper(name);
    CHECK(config.training.learning_rate.policy == Policy::stpt);
    CHECK(config.training.learning_rate.anneal.form == AnnealForm::none);
    CHECK(config.training.optimizer.momentum_form == MomentumForm::lr_in_velocity);
    CHECK(config.stpt.tie_rule == TieRule::none);
    CHECK(config.stpt.momentum == MomentumAtChoice::winner);
    const LearningRateSchedule rates = schedule_of(config);
    const bool alpha_sweep = std::string(name).starts_with("alpha");
    const bool mix = std::string(name) == "mix";
    double lowest = config.training.learning_rate.initial;
    for (int epoch = 1; epoch <= 40; ++epoch) {
      CAPTURE(epoch);
      const EpochPlan plan = rates.plan(epoch);
      CHECK(plan.end - plan.first == 2500);
      CHECK(rates.pretrains(epoch) == (epoch > 4));
      if (epoch <= 4) {  // Warm-up: one rate throughout, give or take a rounding.
        CHECK(std::abs(rates.at(plan.first, 0.1) - 0.005) < 1e-15);
        CHECK(std::abs(rates.at(plan.end - 1, 0.1) - 0.005) < 1e-15);
        continue;
      }
      const CandidateSet& set = candidates_at(config.stpt, epoch);
      if (mix) {
        CHECK(set.name == (epoch <= 19 ? "narrow" : epoch <= 29 ? "middle" : "wide"));
      } else {
        CHECK(set.name == (alpha_sweep ? "table2" : name));
      }
      // Nothing but the candidates moves the rate, not even if the smallest always wins.
      CHECK(rates.at(plan.main_first, lowest) == lowest);
      const double chosen = lowest * *std::ranges::min_element(set.factors);
      CHECK(next_base(chosen, lowest, 0.1, config.stpt) == chosen);
      lowest = chosen;
    }
  }
}

TEST_CASE("the paper's reference falls with saturation and has no warm-up", "[run_files]") {
  const Config config = paper("reference");
  CHECK(config.training.learning_rate.policy == Policy::plateau);
  CHECK(config.training.learning_rate.decay_factor == 0.1);
  CHECK(config.training.learning_rate.warmup.epochs == 0);
  LearningRateSchedule rates = schedule_of(config);
  CHECK(rates.at(0, 0.1) == 0.1);
  const int patience = config.training.learning_rate.patience;
  for (int epoch = 1; epoch <= 1 + patience; ++epoch) rates.observe(epoch, 0.5);
  CHECK(std::abs(rates.at(rates.plan(2 + patience).first, 0.1) - 0.01) < 1e-15);
}

TEST_CASE("the small run files are the paper's in proportion", "[run_files]") {
  for (const fs::path& file : run_files(configs / "paper")) {
    CAPTURE(file);
    const Config large = load(file);
    const Config small = load(configs / "small" / file.filename());
    const TrainingConfig& training = small.training;
    const auto iterations = static_cast<double>((small.data.limit - small.data.hold_out) /
                                                (training.workers * training.batch_per_worker));
    // Within one iteration or epoch.
    CHECK(std::abs(small.stpt.alpha - large.stpt.alpha / 2500.0 * iterations) < 1);
    const double epochs = training.epochs / 40.0;
    const WarmupConfig& warmup = training.learning_rate.warmup;
    CHECK(warmup.epochs == large.training.learning_rate.warmup.epochs * epochs);
    CHECK(warmup.form == large.training.learning_rate.warmup.form);
    CHECK(training.workers == large.training.workers);
    CHECK(training.learning_rate.initial == large.training.learning_rate.initial);
    CHECK(training.learning_rate.policy == large.training.learning_rate.policy);
    CHECK(training.learning_rate.anneal == large.training.learning_rate.anneal);
    CHECK(training.optimizer == large.training.optimizer);
    CHECK(small.stpt.candidates == large.stpt.candidates);
    CHECK(small.stpt.tie_rule == large.stpt.tie_rule);
    REQUIRE(small.stpt.schedule.size() == large.stpt.schedule.size());
    for (std::size_t i = 0; i < small.stpt.schedule.size(); ++i) {
      const ScheduleEntry &a = small.stpt.schedule[i], &b = large.stpt.schedule[i];
      CHECK(a.candidates == b.candidates);
      if (file.stem() == "recommended" || file.stem() == "fixed_anneal") {
        CHECK(a.from_epoch == b.from_epoch);  // one search, whatever follows
      } else {
        CHECK(std::abs((a.from_epoch - 1) - (b.from_epoch - 1) * epochs) < 1);
      }
    }
  }
}

TEST_CASE("the small run files train an epoch", "[run_files]") {
  for (const fs::path& file : run_files(configs / "small")) {
    CAPTURE(file);
    // As many iterations of Pre-train as of an epoch, on images of their size in a small network.
    const Config config =
        load(file, {"training.epochs=1", "training.learning_rate.warmup.epochs=0", "stpt.alpha=2",
                    "stpt.schedule=[]", "model.name=mlp", "data.format=synthetic", "data.limit=0",
                    "data.hold_out=64", "data.synthetic.train_images=320",
                    "data.synthetic.test_images=64", "data.synthetic.height=28",
                    "data.synthetic.width=28", "data.synthetic.channels=1"});
    Trainer trainer(config, file.string());
    const RunRecord record = trainer.run({}, nullptr);
    CHECK(record.status == "complete");
    REQUIRE(record.epochs.size() == 1);
    CHECK(record.epochs[0].iterations == 4);
  }
}

}  // namespace
}  // namespace stpt
