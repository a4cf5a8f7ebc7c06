// Whole trainings on small synthetic data: the rules of STPT, and the same bits wherever tasks run.
#include "stpt/trainer.hpp"

#include <cmath>
#include <string>
#include <vector>

#include "stpt/config/config.hpp"
#include "stpt/pretrain.hpp"
#include "tests/catch.hpp"
#include "tests/stpt/training.hpp"

namespace {

using namespace stpt;
using namespace stpt::testing;

/// 32 iterations an epoch, 20 of them to tell learning rates apart.
const Overrides longer = {"data.synthetic.train_images=2112", "stpt.alpha=20"};

const std::string fixed = "training.learning_rate.policy=fixed";

}  // namespace

TEST_CASE("Pre-train finds the learning rate that learns") {
  // At 5e-7 nothing moves, at 5e4 everything breaks; 0.05 learns these patterns within an epoch.
  const Outcome outcome =
      train(small + longer + Overrides{"stpt.candidates=[1e6, 1, 1e-5]", "training.epochs=1"});
  const EpochRecord& epoch = outcome.record.epochs.at(0);
  CHECK(winner(epoch).factor == 1.0);
  CHECK(epoch.phase == "stpt");
  CHECK(epoch.candidates.size() == 3);
  CHECK(winner(epoch).score_top1 > epoch.candidates[2].score_top1 + 0.2);
  CHECK(epoch.test_top1 > 0.8);
}

TEST_CASE("the first Pre-train finds the scale where nothing is said about candidates") {
  Overrides unsaid = small + longer;
  REQUIRE(std::erase(unsaid, "stpt.candidates=refine") == 1);
  for (const char* initial : {"0.0005", "0.05", "5"}) {
    INFO(initial);
    const Outcome outcome =
        train(unsaid + Overrides{std::string("training.learning_rate.initial=") + initial});
    const EpochRecord& first = outcome.record.epochs.at(0);
    CHECK(first.candidate_set == "search");
    // Half a decade to either side.
    CHECK(winner(first).learning_rate > 0.015);
    CHECK(winner(first).learning_rate < 0.17);
    CHECK(outcome.record.epochs.at(1).candidate_set == "raise");
  }
}

TEST_CASE("the base learning rate moves by the chosen factor from epoch to epoch") {
  const Outcome outcome =
      train(small + longer +
            Overrides{"stpt.candidates=[10, 1]", "training.epochs=3",
                      "training.learning_rate.initial=0.0005", "stpt.tie_rule=none",
                      "training.optimizer.weight_decay=0"});
  double base = 0.0005;
  for (const EpochRecord& epoch : outcome.record.epochs) {
    CHECK(epoch.base_learning_rate == Approx(base).epsilon(1e-12));
    for (const CandidateRecord& candidate : epoch.candidates) {
      CHECK(candidate.learning_rate == Approx(base * candidate.factor).epsilon(1e-12));
    }
    base = winner(epoch).learning_rate;
    CHECK(epoch.learning_rate == Approx(base).epsilon(1e-12));
  }
  // From so small a rate the first choice is the larger one.
  CHECK(winner(outcome.record.epochs.at(0)).factor == 10.0);
}

TEST_CASE("one candidate of 1.0 is plain training bit for bit") {
  for (const char* model : {"model.name=mlp", "model.name=resnet8"}) {
    INFO(model);
    const Outcome plain = train(small + Overrides{fixed, model});
    const Outcome stpt = train(small + Overrides{"stpt.candidates=[1.0]", model});
    CHECK(same_bits(plain.model, stpt.model));
    CHECK(plain.record.model_digest == stpt.record.model_digest);
    CHECK(plain.record.epochs.at(1).test_loss == stpt.record.epochs.at(1).test_loss);
    CHECK(plain.record.model_digest.size() == 64);
    // Without a choice there is nothing after which the momentum would be reset.
    const Outcome reset =
        train(small + Overrides{"stpt.candidates=[1.0]", model, "stpt.momentum=reset"});
    CHECK(same_bits(plain.model, reset.model));
  }
}

TEST_CASE("gradients are divided by what the loss was multiplied by") {
  // A power of two, which rounds nothing.
  CHECK(same_bits(train(small).model, train(small + Overrides{"training.loss_scale=8"}).model));
}

TEST_CASE("the winner is the one that the run file's rules choose") {
  const Overrides close = small + longer + Overrides{"training.epochs=1"};
  SECTION("by accuracy or by loss") {
    // The first is right on three images more of 64, the second has a loss that is 0.04 lower.
    const Overrides run =
        close + Overrides{"training.seed=4", "stpt.candidates=[0.6, 0.4]", "stpt.tie_rule=none"};
    const EpochRecord by_accuracy =
        train(run + Overrides{"stpt.score_metric=accuracy"}).record.epochs[0];
    const EpochRecord by_loss = train(run + Overrides{"stpt.score_metric=loss"}).record.epochs[0];
    CHECK(winner(by_accuracy).factor == 0.6);
    CHECK(winner(by_loss).factor == 0.4);
  }
  SECTION("of near-ties") {
    // Hardly different, so that all are tied.
    const Overrides run = close + Overrides{"stpt.candidates=[1.001, 1, 0.999]"};
    CHECK(winner(train(run + Overrides{"stpt.tie_rule=larger"}).record.epochs[0]).factor == 1.001);
    CHECK(
        winner(train(run + Overrides{"stpt.tie_rule=prefer_unchanged"}).record.epochs[0]).factor ==
        1);
  }
  SECTION("or by chance") {
    const RunRecord record =
        train(small + Overrides{"training.learning_rate.policy=random_winner",
                                "stpt.candidates=[2, 1.5, 1, 0.7, 0.5]", "training.epochs=4"})
            .record;
    for (const EpochRecord& epoch : record.epochs) {
      std::vector<CandidateScore> scores;
      for (const CandidateRecord& candidate : epoch.candidates)
        scores.push_back({candidate.factor, candidate.learning_rate, candidate.diverged, {}, 0, 0});
      const Choice choice = choose_at_random(scores, 1, epoch.epoch);
      REQUIRE(choice.winner);
      CHECK(epoch.candidates[*choice.winner].winner);
    }
  }
}

TEST_CASE("policy plateau goes by the accuracy on the test set") {
  const RunRecord record =
      train(small + Overrides{"training.learning_rate.policy=plateau",
                              "training.learning_rate.patience=1", "training.epochs=12",
                              "training.learning_rate.decay_factor=0.5"})
          .record;
  const auto follows = [&](double EpochRecord::*accuracy) {
    double best = -1, rate = 0.05;
    bool same = true;
    for (const EpochRecord& epoch : record.epochs) {
      same = same && epoch.learning_rate == Approx(rate);
      if (epoch.*accuracy <= best) rate *= 0.5;
      best = std::max(best, epoch.*accuracy);
    }
    return same;
  };
  CHECK(follows(&EpochRecord::test_top1));
  CHECK_FALSE(follows(&EpochRecord::train_top1));  // else this run shows nothing
}

TEST_CASE("one candidate may have a batch that is hard for it, as plain training may") {
  const Overrides rough = small + Overrides{"training.learning_rate.initial=1", "training.epochs=1",
                                            "stpt.divergence_factor=1.01", "stpt.max_retries=0",
                                            "stpt.max_collapses=0"};
  const Outcome stpt = train(rough + Overrides{"stpt.candidates=[1]"});
  const std::vector<CurvePoint>& curve = winner(stpt.record.epochs.at(0)).curve;
  CHECK(std::ranges::max(curve, {}, &CurvePoint::loss).loss >
        1.01 * std::max(curve.front().loss, std::log(4)));
  CHECK(same_bits(train(rough + Overrides{fixed}).model, stpt.model));
  // Of two that have it both are out.
  CHECK_THROWS_AS(train(rough + Overrides{"stpt.candidates=[1, 1.01]"}), TrainingError);
}

TEST_CASE("losers leave no trace in the winner") {
  // always_one takes the unchanged candidate whatever the others score.
  const Outcome plain = train(small + Overrides{fixed, "model.name=resnet8"});
  const Outcome contest =
      train(small + Overrides{"training.learning_rate.policy=always_one", "model.name=resnet8",
                              "stpt.candidates=[4, 1, 0.01, 1e30]"});
  CHECK(same_bits(plain.model, contest.model));
  CHECK(contest.record.epochs.at(0).samples_discarded > 0);
}

TEST_CASE("the same bits on 1, 2 and 8 StarPU workers under every scheduler") {
  const Overrides run = small + Overrides{"model.name=resnet8", "stpt.candidates=[2, 1, 0.5]"} +
                        GENERATE(Overrides{}, adamw);
  const Outcome reference =
      train(run + Overrides{"runtime.cpu_workers=1", "runtime.scheduler=eager"});
  for (const char* workers : {"1", "2", "8"}) {
    for (const char* scheduler : {"eager", "lws", "dmda"}) {
      INFO(workers << " workers, " << scheduler);
      const Outcome other = train(run + Overrides{std::string("runtime.cpu_workers=") + workers,
                                                  std::string("runtime.scheduler=") + scheduler});
      CHECK(same_bits(reference.model, other.model));
      CHECK(reference.record.model_digest == other.record.model_digest);
    }
  }
}

TEST_CASE("the same bits at every grain of tasks") {
  const Overrides run = small + Overrides{"model.name=resnet8", "stpt.candidates=[2, 1]"};
  const Outcome reference = train(run + Overrides{"runtime.fusion=step"});
  for (const char* fusion : {"runtime.fusion=block", "runtime.fusion=op"}) {
    INFO(fusion);
    CHECK(same_bits(reference.model,
                    train(run + Overrides{fusion, "runtime.steps_in_flight=1"}).model));
  }
}

TEST_CASE("what is dropped does not depend on where tasks run") {
  const Overrides run = small_with_dropout();
  const Outcome reference = train(run + Overrides{"runtime.cpu_workers=1"});
  for (const char* fusion : {"runtime.fusion=block", "runtime.fusion=op"}) {
    INFO(fusion);
    CHECK(
        same_bits(reference.model, train(run + Overrides{fusion, "runtime.cpu_workers=8"}).model));
  }
  const Outcome plain = train(small_with(""));
  CHECK(same_bits(train(small_with(R"({"type": "dropout", "rate": 0}, )")).model, plain.model));
  // Tests drop nothing: before the first step the two are one network.
  const Overrides untrained = {"training.learning_rate.policy=fixed", "training.epochs=1",
                               "training.learning_rate.initial=1e-30"};
  CHECK(train(run + untrained).record.epochs[0].test_loss ==
        train(small_with("") + untrained).record.epochs[0].test_loss);
  CHECK(reference.record.epochs[1].train_loss != plain.record.epochs[1].train_loss);
}

TEST_CASE("n workers are one worker with the n-fold batch where there is no BatchNorm") {
  const Overrides run = small + Overrides{fixed, "training.epochs=1"};
  const Outcome many = train(run);
  const Outcome one = train(run + Overrides{"training.workers=1", "training.batch_per_worker=64"});
  REQUIRE(many.model.parameters.size() == one.model.parameters.size());
  for (std::size_t bucket = 0; bucket < one.model.parameters.size(); ++bucket) {
    const auto& a = many.model.parameters[bucket];
    const auto& b = one.model.parameters[bucket];
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
      size = std::max(size, std::abs(static_cast<double>(b[i])));
    }
    // Sums of 64 in another order differ by some units of 2^-24; six steps with a ReLU in between
    // let that grow a little.
    CHECK(difference < 1e-4 * size);
  }
  CHECK_FALSE(same_bits(many.model, train(run + Overrides{"training.seed=2"}).model));
}

TEST_CASE("a candidate that diverges is out, and costs only what it ran") {
  const Outcome outcome =
      train(small + Overrides{"stpt.candidates=[1, 1e30]", "training.epochs=1"});
  const EpochRecord& epoch = outcome.record.epochs.at(0);
  CHECK_FALSE(epoch.candidates[0].diverged);
  CHECK(epoch.candidates[1].diverged);
  CHECK(winner(epoch).factor == 1.0);
  CHECK(epoch.samples_winner == 6 * 64);
  // The first step's loss is still the initial one; the second is not finite and the last.
  CHECK(epoch.samples_discarded == 2 * 64);
  CHECK(epoch.images_per_second ==
        Approx(8 * 64 / (epoch.seconds_pretrain + epoch.seconds_main)).epsilon(1e-9));
  CHECK(std::isfinite(epoch.candidates[0].score_top1));
  CHECK(std::isnan(epoch.candidates[1].score_top1));
  CHECK(std::isnan(epoch.candidates[1].score_loss));
  CHECK(std::isfinite(epoch.test_loss));
  CHECK(epoch.test_top1 < 1);
  CHECK(epoch.test_top5 == 1);  // of 4 classes
}

TEST_CASE("a loss that explodes ends a candidate, unless a factor of 0 lets it go on") {
  const Overrides exploding = small + Overrides{"stpt.candidates=[1, 300]", "training.epochs=1"};
  for (const bool ends : {true, false}) {
    INFO(ends);
    const Outcome outcome =
        train(exploding + (ends ? Overrides{} : Overrides{"stpt.divergence_factor=0"}));
    CHECK(outcome.record.epochs.at(0).candidates[1].diverged == ends);
    CHECK(winner(outcome.record.epochs[0]).factor == 1.0);
  }
}

TEST_CASE("a loss below that of guessing has not exploded, however small it was at first") {
  const auto exceeds = [](double loss, double first, LossLimit limit = {4, 2.3}) {
    return limit.exceeded_by(std::vector<StepResult>{{64, first, 0}, {64, loss, 0}});
  };
  CHECK_FALSE(exceeds(9.1, 0.01));
  CHECK(exceeds(9.3, 0.01));
  CHECK_FALSE(exceeds(39, 10));
  CHECK(exceeds(41, 10));
  CHECK_FALSE(exceeds(1e30, 1, {}));
}

TEST_CASE("a few hard images do not end a candidate") {
  const LossLimit limit{.factor = 4, .guessing = 2};
  const auto steps = [](std::int64_t batch, std::vector<double> losses) {
    std::vector<StepResult> all;
    for (const double loss : losses) all.push_back({batch, loss, 0});
    return all;
  };
  // The mean of the last four batches of 16 is judged, when there are four.
  CHECK_FALSE(limit.exceeded_by(steps(16, {1, 9, 9})));
  CHECK_FALSE(limit.exceeded_by(steps(16, {1, 1, 1, 28})));
  CHECK_FALSE(limit.exceeded_by(steps(16, {1, 99, 1, 1, 1, 28})));
  CHECK(limit.exceeded_by(steps(16, {1, 1, 1, 31})));
  // Of batches of 40 it is two, of larger ones one.
  CHECK_FALSE(limit.exceeded_by(steps(40, {1, 1, 14})));
  CHECK(limit.exceeded_by(steps(40, {1, 1, 16})));
  CHECK(limit.exceeded_by(steps(64, {1, 1, 9})));
  CHECK(limit.exceeded_by(steps(100, {1, 1, 9})));
  CHECK_FALSE(limit.exceeded_by({}));
}

TEST_CASE("a network that has learnt may let its small loss grow") {
  const Outcome outcome =
      train(small + longer +
            Overrides{"stpt.candidates=[1, 1e-9]", "stpt.divergence_factor=1.3",
                      "training.learning_rate.initial=0.01", "training.epochs=5"});
  const CandidateRecord& candidate = outcome.record.epochs.back().candidates[0];
  CHECK_FALSE(candidate.diverged);
  const auto larger = std::ranges::max(candidate.curve, {}, &CurvePoint::loss);
  CHECK(larger.loss > 1.3 * candidate.curve.front().loss);
  CHECK(larger.loss < std::log(4));
}

TEST_CASE("smoothed labels weigh on training alone") {
  // The loss against labels of 0.7, 0.1, 0.1, 0.1 is nowhere below their entropy.
  const double entropy = -0.7 * std::log(0.7) - 0.3 * std::log(0.1);
  const std::string smoothed = "training.label_smoothing=0.4";
  const EpochRecord plain = train(small + longer).record.epochs.back();
  const EpochRecord epoch = train(small + longer + Overrides{smoothed}).record.epochs.back();
  CHECK(plain.train_loss < entropy);
  CHECK(epoch.train_loss > entropy);
  CHECK(winner(epoch).score_loss < entropy);
  CHECK(epoch.test_loss < entropy);
}

TEST_CASE("when all candidates diverge the base is halved until one lives") {
  const Outcome outcome =
      train(small + Overrides{"stpt.candidates=[1, 0.5]", "training.learning_rate.initial=1e12",
                              "stpt.divergence_factor=100", "stpt.max_retries=60",
                              "stpt.max_collapses=0", "training.epochs=1", "stpt.clamp_low=1e-20"});
  const EpochRecord& epoch = outcome.record.epochs.at(0);
  CHECK(epoch.retries > 0);
  CHECK(epoch.base_learning_rate == Approx(1e12 * std::pow(0.5, epoch.retries)).epsilon(1e-12));
  CHECK(winner(epoch).learning_rate == epoch.base_learning_rate * winner(epoch).factor);
  CHECK(epoch.candidates.size() == 2);  // of the last try
}

/// The last epoch has one candidate, so many times the LR with which the others train.
Overrides last_epoch_at(double factor, int epochs = 3) {
  return small + longer +
         Overrides{"training.epochs=" + std::to_string(epochs), "stpt.candidates=[1]",
                   "stpt.schedule=[{\"from_epoch\": " + std::to_string(epochs) +
                       ", \"candidates\": [" + std::to_string(factor) + "]}]"};
}

TEST_CASE("progress counts what retries and repeated epochs add, and not what candidates drop") {
  const Overrides retries =
      small + Overrides{"stpt.candidates=[1e30, 1, 0.5]", "training.learning_rate.initial=1e12",
                        "stpt.max_retries=100", "stpt.clamp_low=1e-20"};
  const Overrides repeats =
      last_epoch_at(1 << 14) + Overrides{"stpt.max_collapses=100", "stpt.max_retries=100"};
  for (const Overrides& overrides : {small, retries, repeats}) {
    Trainer trainer(parse_config("{}", "test", overrides), "test");
    std::vector<ProgressState> states;
    TrainerObserver observer;
    observer.progress = [&](const ProgressState& state) { states.push_back(state); };
    const RunRecord run = trainer.run(observer);
    std::int64_t again = 0;
    for (const EpochRecord& epoch : run.epochs) again += epoch.retries + epoch.collapses;
    CHECK((again > 0) == (overrides != small));
    REQUIRE_FALSE(states.empty());
    CHECK(states.front().done < states.front().planned);
    // All is done after the last step, and while the model is tested; what comes unasked may come
    // behind a step that seemed to be the last.
    const auto all_done = std::ranges::count_if(
        states, [](const ProgressState& state) { return state.done == state.planned; });
    CHECK(all_done <= 2 + again);
    CHECK(std::ranges::all_of(
        states, [](const ProgressState& state) { return state.done <= state.planned; }));
    CHECK(states.back().done == states.back().planned);
    CHECK(states.back().phase == "test");
    CHECK(states.back().train_top1.has_value());
    CHECK(states.back().test_top1 == run.epochs.at(run.epochs.size() - 2).test_top1);
    CHECK(std::ranges::count(states, "main-train", &ProgressState::phase) > 0);
  }
}

TEST_CASE("an epoch whose training falls apart is repeated with half the LR") {
  for (const char* model : {"model.name=mlp", "model.name=resnet8"}) {
    INFO(model);
    const Outcome outcome =
        train(last_epoch_at(1 << 14) +
              Overrides{model, "stpt.max_collapses=100", "stpt.max_retries=100"});
    const EpochRecord& epoch = outcome.record.epochs.at(2);
    CHECK(outcome.record.epochs[0].collapses == 0);
    CHECK(outcome.record.epochs[1].collapses == 0);
    REQUIRE(epoch.collapses > 0);
    const double factor = winner(epoch).learning_rate / 0.05;
    CHECK(factor < 1 << 14);
    CHECK(epoch.train_loss < std::log(4));
    // As if it had been tried with that LR at once.
    const Outcome direct = train(last_epoch_at(factor) + Overrides{model});
    CHECK(direct.record.epochs.at(2).collapses == 0);
    CHECK(same_bits(outcome.model, direct.model));
    CHECK(epoch.test_loss == direct.record.epochs[2].test_loss);
    CHECK(epoch.iterations == direct.record.epochs[2].iterations);
    CHECK(epoch.samples_winner == direct.record.epochs[2].samples_winner);
    CHECK(epoch.samples_discarded > direct.record.epochs[2].samples_discarded);
  }
}

TEST_CASE("the first LR after training fell apart is at most half, without a retry") {
  // Not 2^k times the LR before: repeats go on from that one, not from what was chosen last.
  const Outcome outcome =
      train(last_epoch_at(9) + Overrides{"stpt.max_collapses=100", "stpt.max_retries=0"});
  const EpochRecord& epoch = outcome.record.epochs.at(2);
  REQUIRE(epoch.collapses > 0);
  CHECK(epoch.retries == 0);
  CHECK(winner(epoch).learning_rate == Approx(0.05 * 9 / std::pow(2, epoch.collapses)));
  CHECK(epoch.base_learning_rate == Approx(0.05 / std::pow(2, epoch.collapses)));
}

TEST_CASE("an epoch that is all Pre-train is repeated with half the LR, too") {
  const Outcome outcome =
      train(last_epoch_at(9) + Overrides{"stpt.alpha=32", "stpt.max_collapses=100"});
  const EpochRecord& epoch = outcome.record.epochs.at(2);
  CHECK(epoch.curve.empty());
  REQUIRE(epoch.collapses > 0);
  CHECK(outcome.record.epochs[1].collapses == 0);
  CHECK(winner(epoch).learning_rate == Approx(0.05 * 9 / std::pow(2, epoch.collapses)));
}

TEST_CASE("an epoch without a Pre-train is repeated with half the LR, too") {
  const auto after_warmup = [](double initial) {
    return train(small + longer +
                 Overrides{"training.epochs=3", "stpt.candidates=[1]", "stpt.max_collapses=100",
                           "stpt.pretrain_during_warmup=true",
                           "training.learning_rate.initial=" + std::to_string(initial),
                           "training.learning_rate.warmup.epochs=2",
                           "training.learning_rate.warmup.form=constant",
                           "training.learning_rate.warmup.start=0.05",
                           "training.learning_rate.anneal.form=linear",
                           "training.learning_rate.anneal.fraction=1"});
  };
  const Outcome outcome = after_warmup(64);
  const EpochRecord& epoch = outcome.record.epochs.at(2);
  CHECK(epoch.phase == "scheduled");
  REQUIRE(epoch.collapses > 0);
  const Outcome direct = after_warmup(64 / std::pow(2, epoch.collapses));
  CHECK(direct.record.epochs.at(2).collapses == 0);
  CHECK(epoch.learning_rate == direct.record.epochs[2].learning_rate);
  // The base is for the next Pre-train, of which there is none.
  CHECK(epoch.base_learning_rate ==
        Approx(direct.record.epochs[2].base_learning_rate * std::pow(2, epoch.collapses)));
  CHECK(same_bits(outcome.model, direct.model));
}

/// A network that dies of its first LR.
Overrides at_guessing(double rate, int max_collapses) {
  return small + longer + adamw +
         Overrides{"model.name=lenet5", "stpt.candidates=[1]", "data.synthetic.train_images=4160",
                   "training.learning_rate.initial=" + std::to_string(rate),
                   "stpt.max_collapses=" + std::to_string(max_collapses)};
}

TEST_CASE("a first epoch that leaves the network at guessing is repeated with half the LR") {
  const Outcome outcome = train(at_guessing(0.6, 100));
  const EpochRecord& first = outcome.record.epochs.at(0);
  REQUIRE(first.collapses > 0);
  const double rate = winner(first).learning_rate;
  CHECK(rate == Approx(0.6 / std::pow(2, first.collapses)));
  CHECK(outcome.record.epochs.at(1).test_loss < 0.95 * std::log(4));
  const Outcome direct = train(at_guessing(rate, 100));
  CHECK(direct.record.epochs.at(0).collapses == 0);
  CHECK(same_bits(outcome.model, direct.model));
}

TEST_CASE("where less does not help either, training goes on from its first try") {
  const Outcome outcome = train(at_guessing(0.6, 2)), as_it_is = train(at_guessing(0.6, 0));
  const EpochRecord& first = outcome.record.epochs.at(0);
  const EpochRecord& plain = as_it_is.record.epochs.at(0);
  CHECK(plain.test_loss > 0.95 * std::log(4));
  CHECK(first.collapses == 2);
  CHECK(winner(first).learning_rate == 0.6);
  CHECK(first.samples_winner == plain.samples_winner);
  CHECK(first.samples_discarded == 2 * plain.samples_winner);
  CHECK(outcome.record.epochs.at(1).collapses == 0);  // there it says nothing of the LR
  CHECK(outcome.record.epochs[1].base_learning_rate == 0.6);
  CHECK(same_bits(outcome.model, as_it_is.model));
}

TEST_CASE("what is tried after a search that saw nothing is the largest LR that is left") {
  // One iteration tells little; some of these take a LR of which the network dies.
  int seen = 0;
  for (int seed = 1; seed <= 20; ++seed) {
    const Outcome outcome = train(
        at_guessing(1, 3) + Overrides{"stpt.alpha=1", "stpt.candidates=[0.0001, 0.01, 1, 0.001]",
                                      "stpt.tie_rule=larger", "training.epochs=1",
                                      "training.seed=" + std::to_string(seed)});
    const EpochRecord& first = outcome.record.epochs.at(0);
    if (!first.choice_reason.starts_with("none exceeds guessing")) continue;
    ++seen;
    CHECK(first.collapses > 0);
    const double rate = winner(first).learning_rate;
    for (const CandidateRecord& candidate : first.candidates)
      CHECK((candidate.diverged || candidate.learning_rate <= rate));
  }
  CHECK(seen > 0);
}

TEST_CASE("training that falls apart goes on where it is not to be repeated") {
  const Outcome outcome = train(last_epoch_at(8) + Overrides{"stpt.max_collapses=0"});
  const EpochRecord& epoch = outcome.record.epochs.at(2);
  CHECK(epoch.collapses == 0);
  CHECK(epoch.train_loss > std::log(4));
  CHECK(winner(epoch).learning_rate == Approx(0.05 * 8));
}

TEST_CASE("no candidate is larger than half an LR with which training fell apart") {
  const Outcome outcome =
      train(small + longer +
            Overrides{"training.epochs=4", "stpt.candidates=[1]", "stpt.max_retries=100",
                      "stpt.max_collapses=100", "stpt.drift_limit=anchor",
                      R"(stpt.schedule=[{"from_epoch": 3, "candidates": [256]},
                                        {"from_epoch": 4, "candidates": [256, 2, 0.01]}])"});
  const EpochRecord& fallen = outcome.record.epochs.at(2);
  const EpochRecord& next = outcome.record.epochs.at(3);
  REQUIRE(fallen.collapses > 0);
  CHECK(next.collapses == 0);
  CHECK(next.retries == 0);
  CHECK(next.candidates[0].diverged);
  CHECK(next.candidates[0].curve.empty());  // it was not tried
  CHECK_FALSE(next.candidates[1].diverged);
  CHECK_FALSE(next.candidates[2].diverged);
}

TEST_CASE("when nothing helps the run ends with one clear line") {
  Trainer trainer(parse_config("{}", "test",
                               small + Overrides{"stpt.candidates=[2, 1]", "stpt.max_retries=2",
                                                 "training.learning_rate.initial=1e30"}),
                  "test");
  try {
    trainer.run({});
    FAIL("must throw");
  } catch (const TrainingError& error) {
    const std::string line = error.what();
    INFO(line);
    CHECK(line.find("epoch 1: all 2 candidates diverged") != std::string::npos);
    CHECK(line.find("2 times") != std::string::npos);
    CHECK(line.find('\n') == std::string::npos);
  }
  const auto error = [](const std::string& retries) {
    try {
      (void)train(small + Overrides{"stpt.candidates=[1]", "stpt.max_retries=" + retries,
                                    "training.learning_rate.initial=1e30"});
    } catch (const TrainingError& problem) {
      return std::string(problem.what());
    }
    return std::string("no error");
  };
  CHECK_THAT(error("0"), Catch::Matchers::StartsWith("epoch 1: the candidate diverged, with a base "
                                                     "learning rate of 1e+30; "));
  CHECK_THAT(error("1"), Catch::Matchers::StartsWith("epoch 1: the candidate diverged, also after "
                                                     "halving the base learning rate once to "
                                                     "5e+29; "));
}

TEST_CASE("a loss that is not finite ends plain training where it came up") {
  CHECK_THROWS_WITH(
      train(small + Overrides{fixed, "training.learning_rate.initial=1e30"}),
      "epoch 1, iteration 2: the training loss is not finite at learning rate 1e+30; start from a "
      "smaller training.learning_rate.initial");
}

TEST_CASE("fewer candidates than workers share them, more run in waves") {
  SECTION("worker batch, groups: 8 workers for 2 candidates make groups of 4") {
    const Outcome outcome =
        train(small + Overrides{"stpt.pretrain_batch=worker", "stpt.candidates=[1, 0.5]",
                                "training.epochs=1"});
    const EpochRecord& epoch = outcome.record.epochs.at(0);
    CHECK(epoch.samples_discarded == 3 * 4 * 8);
    CHECK(epoch.samples_winner == 3 * 4 * 8 + 3 * 64);
  }
  SECTION("worker batch, idle: each has one worker") {
    const Outcome outcome =
        train(small + Overrides{"stpt.pretrain_batch=worker", "stpt.candidates=[1, 0.5]",
                                "stpt.few_candidates=idle", "training.epochs=1"});
    CHECK(outcome.record.epochs.at(0).samples_discarded == 3 * 8);
  }
  SECTION("global batch: every candidate sees the whole batch") {
    const Outcome outcome =
        train(small + Overrides{"stpt.candidates=[1, 0.5]", "training.epochs=1"});
    CHECK(outcome.record.epochs.at(0).samples_discarded == 3 * 64);
  }
  SECTION("another number of candidates makes other groups") {
    const Outcome outcome = train(
        small + Overrides{"stpt.pretrain_batch=worker",
                          R"(stpt.schedule=[{"from_epoch": 1, "candidates": [2, 1, 0.5, 0.25]},
                                    {"from_epoch": 2, "candidates": [1, 0.5]}])"});
    const EpochRecord& first = outcome.record.epochs.at(0);
    const EpochRecord& second = outcome.record.epochs.at(1);
    CHECK(first.samples_discarded == 3 * 3 * 2 * 8);
    CHECK(second.samples_discarded == 3 * 4 * 8);
    CHECK(second.samples_winner == 3 * 4 * 8 + 3 * 64);
  }
  SECTION("more than workers: waves give each candidate the same chance") {
    const Overrides run =
        small + Overrides{"training.epochs=1", "training.workers=2", "training.batch_per_worker=32",
                          "stpt.candidates=[4, 2, 1, 0.5, 0.25]"};
    const Outcome waves = train(run);
    CHECK(waves.record.epochs.at(0).candidates.size() == 5);
    // A candidate's result does not depend on its wave: in another order the same factors score the
    // same.
    const Outcome reversed = train(run + Overrides{"stpt.candidates=[0.25, 0.5, 1, 2, 4]"});
    for (std::size_t k = 0; k < 5; ++k) {
      const CandidateRecord& one = waves.record.epochs[0].candidates[k];
      const CandidateRecord& other = reversed.record.epochs[0].candidates[4 - k];
      CHECK(one.diverged == other.diverged);
      if (!one.diverged) CHECK(one.score_loss == other.score_loss);
    }
  }
  SECTION("more than workers can be refused") {
    CHECK_THROWS_AS(train(small + Overrides{"training.workers=2", "stpt.many_candidates=reject",
                                            "stpt.candidates=[4, 2, 1]"}),
                    ConfigError);
  }
}

TEST_CASE("warm-up, schedule and anneal take their epochs") {
  const Outcome outcome = train(
      small +
      Overrides{
          "training.epochs=6", "training.learning_rate.warmup.epochs=2",
          "training.learning_rate.warmup.start=0.005", "training.learning_rate.anneal.form=linear",
          "training.learning_rate.anneal.fraction=0.34",
          R"(stpt.schedule=[{"from_epoch":3,"candidates":"narrow"},{"from_epoch":4,"candidates":[1]}])"});
  const auto& epochs = outcome.record.epochs;
  REQUIRE(epochs.size() == 6);
  CHECK(epochs[0].phase == "warmup");
  CHECK(epochs[1].phase == "warmup");
  CHECK(epochs[0].candidates.empty());
  CHECK(epochs[0].curve.front().learning_rate == Approx(0.005));
  CHECK(epochs[1].learning_rate < 0.05);
  CHECK(epochs[2].phase == "stpt");
  CHECK(epochs[2].candidate_set == "narrow");
  CHECK(epochs[3].candidate_set == "custom");
  CHECK(epochs[5].phase == "scheduled");
  CHECK(epochs[5].learning_rate < epochs[4].learning_rate);
  CHECK(epochs[5].learning_rate > 0);
}

TEST_CASE("every option of Pre-train runs and does what it says") {
  const Overrides run =
      small + Overrides{"model.name=resnet8", "training.epochs=1", "stpt.candidates=[1, 0.25]"};
  const Outcome plain = train(run);
  SECTION("discarded progress trains the whole epoch from the snapshot") {
    const Outcome other = train(run + Overrides{"stpt.winner_progress=discarded"});
    const EpochRecord& epoch = other.record.epochs.at(0);
    CHECK(epoch.samples_discarded == 2 * 3 * 64);
    CHECK(epoch.samples_winner == 6 * 64);
    const Outcome fixed_run =
        train(small + Overrides{"model.name=resnet8", "training.epochs=1", fixed,
                                "training.learning_rate.initial=" +
                                    std::to_string(winner(epoch).learning_rate)});
    CHECK(same_bits(other.model, fixed_run.model));
  }
  SECTION("a candidate's curve has the learning rate that is scaled to its batch") {
    const Outcome other =
        train(run + Overrides{"stpt.pretrain_batch=worker", "stpt.few_candidates=idle",
                              "stpt.lr_scaling=linear"});
    for (const CandidateRecord& candidate : other.record.epochs.at(0).candidates) {
      CHECK(candidate.learning_rate == Approx(0.05 * candidate.factor).epsilon(1e-12));
      for (const CurvePoint& point : candidate.curve)
        CHECK(point.learning_rate == Approx(candidate.learning_rate / 8).epsilon(1e-12));
    }
    // And it trains with that one.
    const Outcome unscaled =
        train(run + Overrides{"stpt.pretrain_batch=worker", "stpt.few_candidates=idle",
                              "training.learning_rate.initial=0.00625"});
    for (std::size_t k = 0; k < 2; ++k) {
      CHECK(other.record.epochs[0].candidates[k].score_loss ==
            unscaled.record.epochs[0].candidates[k].score_loss);
    }
  }
  SECTION("the training window is that of the last steps") {
    const Outcome other =
        train(run + Overrides{"stpt.score=training_window", "stpt.score_window=2"});
    for (const CandidateRecord& candidate : other.record.epochs.at(0).candidates) {
      REQUIRE(candidate.curve.size() == 3);
      CHECK(candidate.score_loss ==
            Approx((candidate.curve[1].loss + candidate.curve[2].loss) / 2));
      CHECK(candidate.score_top1 ==
            Approx((candidate.curve[1].top1 + candidate.curve[2].top1) / 2));
    }
  }
  SECTION("running statistics score another model than those of the batch") {
    const Outcome other = train(run + Overrides{"stpt.score_statistics=running"});
    for (std::size_t k = 0; k < 2; ++k) {
      CHECK(other.record.epochs.at(0).candidates[k].score_loss !=
            plain.record.epochs[0].candidates[k].score_loss);
    }
  }
  SECTION("a broken candidate does not break the statistics of others") {
    // Its first update is beyond float, which its last loss does not show.
    const Overrides one_step = run + Overrides{"stpt.alpha=1", "stpt.score_statistics=running",
                                               "stpt.running_statistics=recalibrate"};
    const Outcome alone = train(one_step + Overrides{"stpt.candidates=[1]"});
    const Outcome other = train(one_step + Overrides{"stpt.candidates=[1e30, 1]"});
    CHECK(other.record.epochs.at(0).candidates[0].diverged);
    CHECK(winner(other.record.epochs[0]).factor == 1);
    CHECK(winner(other.record.epochs[0]).score_loss ==
          winner(alone.record.epochs.at(0)).score_loss);
    CHECK(other.record.epochs[0].test_loss == alone.record.epochs[0].test_loss);
  }
  SECTION("reset momentum changes what follows") {
    CHECK_FALSE(same_bits(plain.model, train(run + Overrides{"stpt.momentum=reset"}).model));
  }
  SECTION("disjoint data give the replicas different batches") {
    const Outcome other = train(run + Overrides{"stpt.replica_data=disjoint"});
    CHECK(other.record.epochs.at(0).candidates[1].curve.front().loss !=
          plain.record.epochs.at(0).candidates[1].curve.front().loss);
    CHECK(plain.record.epochs[0].candidates[0].curve.front().loss ==
          plain.record.epochs[0].candidates[1].curve.front().loss);
  }
  SECTION("disjoint data are the epoch's batches in turns") {
    // So small a LR that a batch's loss tells which batch it is.
    const Overrides still = run + Overrides{"training.learning_rate.initial=1e-9"};
    const EpochRecord plain_epoch =
        train(still + Overrides{"training.learning_rate.policy=fixed"}).record.epochs.at(0);
    REQUIRE(plain_epoch.curve.size() == 6);
    const Outcome other = train(still + Overrides{"stpt.replica_data=disjoint"});
    const std::vector<CandidateRecord>& candidates = other.record.epochs.at(0).candidates;
    REQUIRE(candidates.size() == 2);
    for (std::size_t k = 0; k < 2; ++k) {
      for (std::size_t step = 0; step < candidates[k].curve.size(); ++step) {
        CHECK(candidates[k].curve[step].loss ==
              Approx(plain_epoch.curve[(2 * step + k) % 6].loss).epsilon(1e-6));
      }
    }
  }
  for (const char* option :
       {"stpt.score=training_window", "stpt.score=validation", "stpt.score_statistics=running",
        "stpt.running_statistics=recalibrate", "stpt.score_metric=loss"}) {
    SECTION(option) {
      const Outcome other = train(run + Overrides{option, "stpt.score_window=2"});
      const EpochRecord& epoch = other.record.epochs.at(0);
      CHECK(epoch.candidates.at(0).curve.front().loss ==
            plain.record.epochs[0].candidates[0].curve.front().loss);
      CHECK(std::isfinite(epoch.test_loss));
      CHECK(winner(epoch).score_loss > 0);
    }
  }
  SECTION("the validation's images are those of the test set") {
    const Outcome other =
        train(small + Overrides{"stpt.alpha=6", "stpt.candidates=[1, 0.01]", "training.epochs=1",
                                "stpt.score=validation", "stpt.score_weights=last"});
    const EpochRecord& epoch = other.record.epochs.at(0);
    CHECK(epoch.steps_main == 0);
    CHECK(winner(epoch).score_loss == Approx(epoch.test_loss).epsilon(1e-6));
    CHECK(winner(epoch).score_top1 == epoch.test_top1);
  }
  SECTION("the record says what candidates are compared by") {
    const Outcome other = train(run + Overrides{"stpt.score=validation", "stpt.score_metric=loss"});
    CHECK(other.record.score == "validation");
    CHECK(other.record.score_metric == "loss");
    CHECK(train(small + Overrides{fixed}).record.score.empty());
  }
  SECTION("the mean of the weights is scored, and training does not see it") {
    const auto scores = [&](const std::string& alpha, const std::string& weights) {
      const Outcome outcome = train(run + Overrides{"stpt.candidates=[1]", "stpt.alpha=" + alpha,
                                                    "stpt.score_weights=" + weights});
      return std::pair(winner(outcome.record.epochs.at(0)).score_loss, outcome.model);
    };
    const auto [mean, model] = scores("4", "mean");
    const auto [last, same_model] = scores("4", "last");
    CHECK(mean != last);
    CHECK(same_bits(model, same_model));
    CHECK(scores("1", "mean").first == scores("1", "last").first);
  }
  SECTION("recalibrated statistics evaluate another model than running averages") {
    const Outcome other = train(run + Overrides{"stpt.running_statistics=recalibrate"});
    CHECK(other.record.epochs.at(0).test_loss != plain.record.epochs.at(0).test_loss);
    CHECK(same_bits(other.model, plain.model));
  }
}

TEST_CASE("where Pre-train takes the whole epoch its winner says how training went") {
  // 6 iterations an epoch, each of which is a point of a candidate's curve.
  const Outcome outcome = train(small + Overrides{"stpt.alpha=6", "stpt.candidates=[1, 0.01]"});
  for (const EpochRecord& epoch : outcome.record.epochs) {
    CHECK(epoch.steps_main == 0);
    CHECK(epoch.curve.empty());
    double loss = 0, top1 = 0;
    REQUIRE(winner(epoch).curve.size() == 6);
    for (const CurvePoint& step : winner(epoch).curve) {
      loss += step.loss / 6;
      top1 += step.top1 / 6;
    }
    CHECK(epoch.train_loss == Approx(loss));
    CHECK(epoch.train_top1 == Approx(top1));
    CHECK(epoch.train_top1 > 0.2);
  }
  // With a Main-train it is that alone, as in plain training.
  const EpochRecord usual = train(small + Overrides{"stpt.candidates=[1, 0.01]"}).record.epochs[0];
  double loss = 0;
  REQUIRE(usual.curve.size() == 3);
  for (const CurvePoint& step : usual.curve) loss += step.loss / 3;
  CHECK(usual.train_loss == Approx(loss));
}

TEST_CASE("a curve has at most 25 points, each the mean of as many steps") {
  const EpochRecord epoch =
      train(small + Overrides{fixed, "training.workers=1", "training.epochs=1"}).record.epochs[0];
  CHECK(epoch.iterations == 48);
  REQUIRE(epoch.curve.size() == 24);
  double loss = 0, top1 = 0;
  for (std::size_t point = 0; point < 24; ++point) {
    CHECK(epoch.curve[point].iteration == static_cast<std::int64_t>(2 * point + 2));
    loss += epoch.curve[point].loss / 24;
    top1 += epoch.curve[point].top1 / 24;
  }
  CHECK(epoch.train_loss == Approx(loss));
  CHECK(epoch.train_top1 == Approx(top1));
}

TEST_CASE("baselines follow their schedules") {
  const auto rates = [](const Overrides& overrides) {
    std::vector<double> values;
    for (const EpochRecord& epoch : train(small + overrides).record.epochs)
      values.push_back(epoch.learning_rate);
    return values;
  };
  CHECK(rates({fixed, "training.epochs=3"}) == std::vector<double>{0.05, 0.05, 0.05});
  const auto step = rates({"training.learning_rate.policy=step", "training.epochs=3",
                           "training.learning_rate.milestones=[2,3]"});
  CHECK(step[0] == Approx(0.05));
  CHECK(step[1] == Approx(0.005));
  CHECK(step[2] == Approx(0.0005));
  const auto cosine = rates({"training.learning_rate.policy=cosine", "training.epochs=3"});
  CHECK(cosine[0] > cosine[1]);
  CHECK(cosine[2] < 0.01);
}

TEST_CASE("a run resumed from a checkpoint ends with the same bits") {
  const Overrides run =
      GENERATE(small + Overrides{"model.name=resnet8"},
               small + adamw + Overrides{"model.name=resnet8"}, small_with_dropout()) +
      Overrides{"stpt.candidates=[2, 1, 0.5]", "training.epochs=4"};
  const Outcome whole = train(run);
  Checkpoint middle;
  RunRecord record;
  Trainer first(parse_config("{}", "test", run), "test");
  TrainerObserver observer;
  ProgressState progress;
  observer.progress = [&](const ProgressState& state) { progress = state; };
  observer.epoch_done = [&](const RunRecord& so_far, const Checkpoint* checkpoint) {
    REQUIRE(checkpoint != nullptr);
    CHECK(checkpoint->wall_seconds == so_far.wall_seconds);
    if (checkpoint->epoch != 2) return;
    middle = *checkpoint;
    record = so_far;
  };
  first.run(observer);
  Trainer second(parse_config("{}", "test", run), "test");
  record.status = record.failure = "failed";
  record.device = "of another machine";
  record.class_names = {"of another program"};
  record.epochs_planned = 1;
  second.resume(middle, record);
  CHECK(second.record().status == "running");
  CHECK(second.record().failure.empty());
  CHECK(second.record().device == whole.record.device);
  CHECK(second.record().class_names == whole.record.class_names);
  CHECK(second.record().epochs_planned == 4);
  const std::int64_t done = progress.done;
  observer.epoch_done = {};
  const RunRecord resumed = second.run(observer);
  CHECK(progress.done == done);
  CHECK(progress.planned == done);
  CHECK(resumed.epochs.size() == 4);
  CHECK(resumed.wall_seconds > middle.wall_seconds);
  CHECK(resumed.model_digest == whole.record.model_digest);
  CHECK(same_bits(second.model(), whole.model));
  CHECK(resumed.epochs[3].test_loss == whole.record.epochs[3].test_loss);
}

#ifndef __SANITIZE_ADDRESS__  // whose quarantine grows
TEST_CASE("memory stays flat after the first epoch") {
  const Outcome outcome = train(
      small + Overrides{"model.name=resnet8", "stpt.candidates=[2, 1, 0.5]", "training.epochs=8"});
  const auto& epochs = outcome.record.epochs;
  // A leaked gradient set or score would show; the allocator's own granularity must not.
  const double growth = static_cast<double>(epochs.back().memory_bytes) -
                        static_cast<double>(epochs.at(1).memory_bytes);
  CHECK(growth < 4.0 * 1024 * 1024);
}
#endif

TEST_CASE("a run that is asked to stop says so") {
  Trainer trainer(parse_config("{}", "test", small), "test");
  std::atomic<bool> stop = true;
  const RunRecord record = trainer.run({}, &stop);
  CHECK(record.status == "stopped");
  CHECK(record.epochs.empty());
  CHECK(record.model_digest.empty());
}
