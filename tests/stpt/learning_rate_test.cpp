#include "stpt/learning_rate.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/catch.hpp"

using namespace stpt;

namespace {

// Ten epochs of ten iterations, LR 0.1.
constexpr std::int64_t kPerEpoch = 10;

TrainingConfig training(Policy policy) {
  TrainingConfig config;
  config.epochs = 10;
  config.learning_rate.initial = 0.1;
  config.learning_rate.policy = policy;
  config.learning_rate.anneal.form = AnnealForm::none;
  return config;
}

StptConfig stpt_config(int alpha = 3) {
  StptConfig config;
  config.alpha = alpha;
  return config;
}

LearningRateSchedule schedule(const TrainingConfig& config) {
  return {config, stpt_config(), kPerEpoch};
}

/// Equal but for rounding.
bool near(double a, double b) { return std::abs(a - b) <= 1e-12 * std::abs(b); }

constexpr Policy kPolicies[] = {Policy::stpt,          Policy::fixed,     Policy::step,
                                Policy::plateau,       Policy::cosine,    Policy::linear,
                                Policy::random_winner, Policy::always_one};

}  // namespace

TEST_CASE("the chosen LR is the next base", "[learning_rate]") {
  const StptConfig config = stpt_config();
  double base = 0.1;
  for (const double factor : {3.0, 0.5, 1.0, 1.25})
    base = next_base(base * factor, base, 0.1, config);
  CHECK(base == 0.1 * 3.0 * 0.5 * 1.0 * 1.25);
  CHECK(next_base(base * 1.0, base, 0.1, config) == base);  // bit for bit
}

TEST_CASE("drift limits", "[learning_rate]") {
  StptConfig config = stpt_config();
  SECTION("clamp") {
    CHECK(next_base(9.9, 1, 0.1, config) == 9.9);
    CHECK(near(next_base(5000, 5, 0.1, config), 0.1 * 1e4));
    CHECK(near(next_base(1e-9, 1e-8, 0.1, config), 0.1 * 1e-4));
    double base = 0.1;
    for (int epoch = 0; epoch < 40; ++epoch) base = next_base(10 * base, base, 0.1, config);
    CHECK(near(base, 1e3));
    for (int epoch = 0; epoch < 40; ++epoch) base = next_base(0.1 * base, base, 0.1, config);
    CHECK(near(base, 1e-5));
  }
  SECTION("anchor") {
    config.drift_limit = DriftLimit::anchor;
    CHECK(next_base(50, 5, 0.1, config) == 0.1);
    CHECK(next_base(0.02, 0.1, 0.1, config) == 0.1);
  }
  SECTION("ratio_cap") {
    config.drift_limit = DriftLimit::ratio_cap;
    config.ratio_cap = 2;
    CHECK(next_base(50, 5, 0.1, config) == 10);
    CHECK(next_base(1, 5, 0.1, config) == 2.5);
    CHECK(next_base(6, 5, 0.1, config) == 6);
    CHECK(next_base(1e6, 1e6, 0.1, config) == 1e6);  // no other bounds
  }
}

TEST_CASE("the LR of Pre-train follows its batch", "[learning_rate]") {
  StptConfig config = stpt_config();
  const auto rate = [&] { return pretrain_learning_rate(0.1, 3, config, 64, 512); };
  for (const LrScaling scaling : {LrScaling::none, LrScaling::linear, LrScaling::square_root}) {
    config.lr_scaling = scaling;
    config.pretrain_batch = PretrainBatch::global;
    CHECK(rate() == 0.1 * 3);
    config.pretrain_batch = PretrainBatch::worker;
    const double scale = scaling == LrScaling::none     ? 1
                         : scaling == LrScaling::linear ? 0.125
                                                        : std::sqrt(0.125);
    CHECK(rate() == 0.1 * 3 * scale);
    CHECK(pretrain_learning_rate(0.1, 1, config, 512, 512) == 0.1);  // a group of all workers
  }
}

TEST_CASE("policies without a schedule leave the base alone, bit for bit", "[learning_rate]") {
  for (const Policy policy :
       {Policy::stpt, Policy::fixed, Policy::plateau, Policy::random_winner, Policy::always_one}) {
    const LearningRateSchedule rates = schedule(training(policy));
    for (std::int64_t i = 0; i < 100; ++i) CHECK(rates.at(i, 0.3) == 0.3);
  }
}

TEST_CASE("linear warm-up", "[learning_rate]") {
  TrainingConfig config = training(Policy::fixed);
  config.learning_rate.warmup = {2, 0.005, WarmupForm::linear};
  const LearningRateSchedule rates = schedule(config);
  CHECK(near(rates.at(0, 0.1), 0.005));
  CHECK(near(rates.at(1, 0.1), 0.005 + 0.095 / 20));
  CHECK(near(rates.at(10, 0.1), 0.0525));
  CHECK(near(rates.at(19, 0.1), 0.1 - 0.095 / 20));
  CHECK(rates.at(20, 0.1) == 0.1);
  CHECK(rates.in_warmup(1));
  CHECK(rates.in_warmup(2));
  CHECK_FALSE(rates.in_warmup(3));
}

TEST_CASE("constant warm-up", "[learning_rate]") {
  TrainingConfig config = training(Policy::stpt);
  config.learning_rate.warmup = {2, 0.005, WarmupForm::constant};
  const LearningRateSchedule rates = schedule(config);
  CHECK(near(rates.at(0, 0.1), 0.005));
  CHECK(near(rates.at(19, 0.1), 0.005));
  CHECK(rates.at(20, 0.1) == 0.1);
}

TEST_CASE("warm-up may start above the initial LR", "[learning_rate]") {
  TrainingConfig config = training(Policy::fixed);
  config.learning_rate.initial = 0.001;
  config.learning_rate.warmup = {1, 0.005, WarmupForm::linear};
  const LearningRateSchedule rates = schedule(config);
  CHECK(near(rates.at(0, 0.001), 0.005));
  CHECK(near(rates.at(5, 0.001), 0.003));
  CHECK(rates.at(10, 0.001) == 0.001);
}

TEST_CASE("policy step, epoch by epoch", "[learning_rate]") {
  TrainingConfig config = training(Policy::step);
  config.learning_rate.milestones = {4, 8};
  const LearningRateSchedule rates = schedule(config);
  const std::vector<double> expected{0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001};
  for (std::int64_t epoch = 1; epoch <= 10; ++epoch) {
    const double rate = expected[static_cast<std::size_t>(epoch - 1)];
    CHECK(near(rates.at((epoch - 1) * 10, 0.1), rate));
    CHECK(near(rates.at(epoch * 10 - 1, 0.1), rate));
  }
}

TEST_CASE("policy plateau", "[learning_rate]") {
  TrainingConfig config = training(Policy::plateau);
  config.learning_rate.patience = 2;
  LearningRateSchedule rates = schedule(config);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  //                                  stale: 0    1    0    1     2=decay 1    0    1    2=decay
  const std::vector<double> top1{0.0, 0.5, 0.4, 0.6, 0.6, 0.55, nan, 0.61, 0.6, 0.5};
  const std::vector<int> decays{0, 0, 0, 0, 0, 1, 1, 1, 1, 2};
  for (std::size_t i = 0; i < top1.size(); ++i) {
    const int epoch = static_cast<int>(i) + 1;
    rates.observe(epoch, top1[i]);
    CAPTURE(epoch);
    CHECK(rates.plateau().decays == decays[i]);
    CHECK(near(rates.at(10 * epoch, 0.1), 0.1 * std::pow(0.1, decays[i])));
  }
  CHECK(rates.plateau() == PlateauState{0.61, 0, 2});
}

TEST_CASE("policy plateau goes on from its state", "[learning_rate]") {
  TrainingConfig config = training(Policy::plateau);
  config.learning_rate.patience = 3;
  LearningRateSchedule rates = schedule(config);
  for (int epoch = 1; epoch <= 3; ++epoch) rates.observe(epoch, 0.5);
  LearningRateSchedule resumed = schedule(config);
  resumed.restore(rates.plateau());
  rates.observe(4, 0.5);
  resumed.observe(4, 0.5);
  CHECK(resumed.plateau() == rates.plateau());
  CHECK(resumed.plateau().decays == 1);
  CHECK(resumed.at(40, 0.1) == rates.at(40, 0.1));
}

TEST_CASE("policy plateau is patient with warm-up", "[learning_rate]") {
  TrainingConfig config = training(Policy::plateau);
  config.learning_rate.patience = 1;
  config.learning_rate.warmup.epochs = 3;
  LearningRateSchedule rates = schedule(config);
  for (int epoch = 1; epoch <= 3; ++epoch) rates.observe(epoch, 0.5);
  CHECK(rates.plateau() == PlateauState{0.5, 0, 0});
  rates.observe(4, 0.5);
  CHECK(rates.plateau().decays == 1);
}

TEST_CASE("other policies observe nothing", "[learning_rate]") {
  LearningRateSchedule rates = schedule(training(Policy::stpt));
  for (int epoch = 1; epoch <= 9; ++epoch) rates.observe(epoch, 0.5);
  CHECK(rates.plateau() == PlateauState{});
}

TEST_CASE("policies cosine and linear go to 0 after warm-up", "[learning_rate]") {
  TrainingConfig config = training(Policy::cosine);
  config.learning_rate.warmup = {2, 0.005, WarmupForm::linear};
  SECTION("cosine") {
    const LearningRateSchedule rates = schedule(config);
    CHECK(near(rates.at(19, 0.1), 0.1 - 0.095 / 20));
    CHECK(rates.at(20, 0.1) == 0.1);
    CHECK(near(rates.at(40, 0.1), 0.1 * (1 + std::sqrt(0.5)) / 2));  // a quarter
    CHECK(near(rates.at(60, 0.1), 0.05));
    CHECK(near(rates.at(99, 0.1), 0.1 * std::pow(std::sin(std::acos(-1) / 160), 2)));
    CHECK(rates.at(100, 0.1) == 0);
  }
  SECTION("linear") {
    config.learning_rate.policy = Policy::linear;
    const LearningRateSchedule rates = schedule(config);
    CHECK(rates.at(20, 0.1) == 0.1);
    CHECK(near(rates.at(40, 0.1), 0.075));
    CHECK(near(rates.at(99, 0.1), 0.1 / 80));
    CHECK(rates.at(100, 0.1) == 0);
  }
}

TEST_CASE("the final anneal multiplies and ends at 0", "[learning_rate]") {
  for (const Policy policy : {Policy::stpt, Policy::fixed, Policy::step, Policy::plateau}) {
    TrainingConfig config = training(policy);
    config.learning_rate.milestones = {5};
    for (const AnnealForm form : {AnnealForm::linear, AnnealForm::cosine}) {
      config.learning_rate.anneal = {form, 0.25};
      const LearningRateSchedule rates = schedule(config);
      const double decayed = policy == Policy::step ? 0.03 : 0.3;
      CHECK(rates.anneal_start() == 75);
      CHECK(rates.anneal_factor(74) == 1);
      CHECK(rates.anneal_factor(75) == 1);
      CHECK(near(rates.at(75, 0.3), decayed));
      for (std::int64_t i = 75; i < 99; ++i) CHECK(rates.at(i + 1, 0.3) < rates.at(i, 0.3));
      CHECK(rates.at(99, 0.3) > 0);
      CHECK(rates.anneal_factor(100) == 0);
      const double last =
          form == AnnealForm::linear ? 1.0 / 25 : std::pow(std::sin(std::acos(-1) / 50), 2);
      CHECK(std::abs(rates.anneal_factor(99) - last) < 1e-14);
      CHECK(near(
          rates.at(85, 0.3),
          decayed * (form == AnnealForm::linear ? 0.6 : (1 + std::cos(0.4 * std::acos(-1))) / 2)));
    }
  }
}

TEST_CASE("without an anneal, or one too short to notice", "[learning_rate]") {
  TrainingConfig config = training(Policy::fixed);
  CHECK(schedule(config).anneal_start() == 100);
  config.learning_rate.anneal = {AnnealForm::linear, 0.004};
  CHECK(schedule(config).anneal_start() == 100);
  CHECK(schedule(config).at(99, 0.1) == 0.1);
  config.learning_rate.anneal.fraction = 1;
  CHECK(schedule(config).anneal_start() == 0);
  CHECK(near(schedule(config).at(50, 0.1), 0.05));
  // All of what follows the warm-up, or half.
  config.learning_rate.warmup.epochs = 2;
  CHECK(schedule(config).anneal_start() == 20);
  config.learning_rate.anneal.fraction = 0.5;
  CHECK(schedule(config).anneal_start() == 60);
  // Rounding leaves an iteration.
  config.learning_rate.anneal.fraction = 0.999;
  CHECK(schedule(config).anneal_start() == 21);
  config.learning_rate.warmup.epochs = 0;
  config.epochs = 1;
  config.learning_rate.anneal.fraction = 0.5;
  CHECK(LearningRateSchedule(config, stpt_config(1), 1).anneal_start() == 1);
}

TEST_CASE("every iteration has a positive LR", "[learning_rate]") {
  for (const Policy policy : kPolicies) {
    TrainingConfig config = training(policy);
    config.epochs = 3;
    config.learning_rate.warmup.epochs = 1;
    const bool own_end = policy == Policy::cosine || policy == Policy::linear;
    if (!own_end) config.learning_rate.anneal.form = AnnealForm::cosine;
    for (const std::int64_t per_epoch : {std::int64_t{3}, std::int64_t{100'000'000}}) {
      const LearningRateSchedule rates(config, stpt_config(), per_epoch);
      CHECK(rates.at(0, 0.1) > 0);
      CHECK(rates.at(rates.iterations() - 1, 0.1) > 0);
    }
  }
}

TEST_CASE("what cannot be scheduled is refused by key", "[learning_rate]") {
  const auto error = [](const TrainingConfig& config, const StptConfig& stpt) -> std::string {
    try {
      const LearningRateSchedule rates(config, stpt, kPerEpoch);
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "";
  };
  for (const Policy policy : {Policy::cosine, Policy::linear}) {
    TrainingConfig config = training(policy);
    CHECK(error(config, stpt_config()).empty());
    config.learning_rate.anneal.form = AnnealForm::linear;
    CHECK(error(config, stpt_config()).rfind("training.learning_rate.anneal.form: ", 0) == 0);
  }
  CHECK(error(training(Policy::stpt), stpt_config(10)).empty());  // beta = 0 is fine
  CHECK(error(training(Policy::stpt), stpt_config(11)) ==
        "stpt.alpha: 11 exceeds the 10 iterations of an epoch");
  CHECK(error(training(Policy::fixed), stpt_config(11)).empty());
}

TEST_CASE("which epochs pre-train", "[learning_rate]") {
  TrainingConfig config = training(Policy::stpt);
  config.learning_rate.warmup.epochs = 2;
  // Of the 80 iterations behind the warm-up; from iteration 76, within epoch 8.
  config.learning_rate.anneal = {AnnealForm::linear, 0.3};
  StptConfig stpt = stpt_config();
  const auto epochs = [&] {
    const LearningRateSchedule rates(config, stpt, kPerEpoch);
    std::vector<int> list;
    for (int epoch = 1; epoch <= 10; ++epoch) {
      if (rates.pretrains(epoch)) list.push_back(epoch);
    }
    return list;
  };
  CHECK(epochs() == std::vector<int>{3, 4, 5, 6, 7, 8});
  config.learning_rate.anneal.fraction = 0.375;  // from iteration 70, the first of epoch 8
  CHECK(epochs() == std::vector<int>{3, 4, 5, 6, 7});
  stpt.pretrain_during_warmup = true;
  CHECK(epochs() == std::vector<int>{1, 2, 3, 4, 5, 6, 7});
  config.learning_rate.anneal.form = AnnealForm::none;
  for (const Policy policy : kPolicies) {
    config.learning_rate.policy = policy;
    const bool chooses =
        policy == Policy::stpt || policy == Policy::random_winner || policy == Policy::always_one;
    CHECK(epochs().size() == (chooses ? 10U : 0U));
  }
}

TEST_CASE("an epoch is alpha plus beta iterations", "[learning_rate]") {
  TrainingConfig config = training(Policy::stpt);
  config.learning_rate.warmup.epochs = 1;
  StptConfig stpt = stpt_config(3);
  const LearningRateSchedule kept(config, stpt, kPerEpoch);
  CHECK(kept.iterations() == 100);
  CHECK(kept.plan(1) == EpochPlan{0, 0, 0, 10});
  CHECK(kept.plan(2) == EpochPlan{10, 3, 13, 20});
  CHECK(kept.plan(10) == EpochPlan{90, 3, 93, 100});

  stpt.winner_progress = Progress::discarded;  // Main-train repeats what Pre-train did
  CHECK(LearningRateSchedule(config, stpt, kPerEpoch).plan(2) == EpochPlan{10, 3, 10, 20});

  const LearningRateSchedule whole(config, stpt_config(10), kPerEpoch);
  CHECK(whole.plan(2) == EpochPlan{10, 10, 20, 20});
}
