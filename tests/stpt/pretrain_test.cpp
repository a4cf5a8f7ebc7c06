#include "stpt/pretrain.hpp"

#include <vector>

#include "tests/stpt/training.hpp"

using namespace stpt;
using namespace stpt::testing;

namespace {

/// The loss on the hold-out of a network with these parameters and running statistics that are
/// measured anew with them.
double score_by_hand(const Experiment& run, Session& session, const models::ModelValues& values) {
  models::write(*session.current, values);
  const runtime::Tensor running(runtime::vector_spec(run.network.running_statistics), "running",
                                runtime::Home::host);
  session.settle_running_statistics(*session.current, session.current->parameters,
                                    run.sampler.order(1), running, 0);
  Evaluator evaluator(run.network, models::Mode::inference, run.lowering(),
                      session.plain_train_loader, run.split.hold_out, run.evaluation_batch());
  const EvaluatedModel model{&session.current->parameters, &running};
  return evaluator.evaluate({&model, 1}).front().loss();
}

}  // namespace

TEST_CASE("scored is the mean over the second half of Pre-train, with statistics of its own",
          "[pretrain]") {
  constexpr int alpha = 5;
  const Experiment run = experiment(
      small + Overrides{"model.name=resnet8", "training.workers=2", "stpt.candidates=[1]",
                        "stpt.alpha=" + std::to_string(alpha), "stpt.score_statistics=running",
                        "stpt.running_statistics=recalibrate", "stpt.recalibration_batches=4"});
  const std::vector<std::uint32_t> order = run.sampler.order(1);
  const double rate = 0.05;
  double score = 0;
  {
    Session session(run);
    models::write(*session.current, run.initial_values());
    Pretrain pretrain(session);
    const std::vector<double> factors = {1};
    score =
        pretrain.run({.base_learning_rate = rate, .factors = factors, .order = order}, [](bool) {})
            .scores.at(0)
            .loss;
  }
  Session session(run);
  models::write(*session.current, run.initial_values());
  models::ModelValues last, mean;
  TrainingLog log("by hand");
  for (int iteration = 0; iteration < alpha; ++iteration) {
    const auto batches = session.load(order, iteration, run.team(), 1);
    session.data_parallel.step(*session.current, batches, static_cast<float>(rate), log);
    session.runtime.wait_for_all();
    last = models::read(*session.current);
    if (iteration < alpha / 2) continue;
    const float share = 1.0F / (alpha - alpha / 2);  // 3 moments: after steps 3, 4 and 5
    if (mean.parameters.empty()) {
      mean = last;
      for (auto& bucket : mean.parameters)
        for (float& value : bucket) value *= share;
    } else {
      for (std::size_t bucket = 0; bucket < mean.parameters.size(); ++bucket)
        for (std::size_t i = 0; i < mean.parameters[bucket].size(); ++i)
          mean.parameters[bucket][i] += share * last.parameters[bucket][i];
    }
  }
  // The mean is rounded differently, and nothing else.
  CHECK(score == Approx(score_by_hand(run, session, mean)).epsilon(1e-4));
  CHECK(score != Approx(score_by_hand(run, session, last)).epsilon(1e-2));
}

TEST_CASE("candidates are compared with the best guess for the images that score them",
          "[pretrain]") {
  for (const bool hold_out : {true, false}) {
    const Experiment run =
        experiment(small + Overrides{"stpt.candidates=[1]", "stpt.alpha=1", "data.hold_out=5",
                                     "data.synthetic.test_images=67",
                                     hold_out ? "stpt.score=hold_out" : "stpt.score=validation"});
    Session session(run);
    models::write(*session.current, run.initial_values());
    Pretrain pretrain(session);
    const std::vector<double> factors = {1};
    const std::vector<std::uint32_t> order = run.sampler.order(1);
    const Guess guess =
        pretrain.run({.base_learning_rate = 0.05, .factors = factors, .order = order}, [](bool) {})
            .guess;
    // The classes are of 16 or 17 images, in the hold-out of 1 or 2.
    const double most = hold_out ? 2.0 / 5 : 17.0 / 67;
    CHECK(guess.accuracy == Approx(most));
  }
}
