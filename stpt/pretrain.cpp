#include "stpt/pretrain.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>

#include "stpt/learning_rate.hpp"

namespace stpt {
namespace {

class Stopwatch {
 public:
  /// Seconds since construction or the last call.
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

Replica::Replica(const models::Network& network, int workers, const std::string& name)
    : state(network, workers, name), log(name) {}

void Replica::watch(double divergence_factor) {
  steps.clear();
  diverged = false;
  log.on_step = [this, divergence_factor](const StepResult& result) {
    if (diverged) return;
    steps.push_back(result);
    const bool exploded =
        divergence_factor > 0 && result.loss > divergence_factor * steps.front().loss;
    if (!result.finite() || exploded) diverged = true;
  };
}

Pretrain::Pretrain(Session& session, std::size_t candidates) : session_(session) {
  const Experiment& experiment = session.experiment;
  const StptConfig& config = experiment.config.stpt;
  const bool running =
      config.score_statistics == ScoreStatistics::running && experiment.network.has_batch_norm();
  for (std::size_t index = 0; index < candidates; ++index) {
    const std::string name = "replica." + std::to_string(index);
    auto& replica = replicas_.emplace_back(
        std::make_unique<Replica>(experiment.network, experiment.config.training.workers, name));
    if (running) {
      replica->averaged_running =
          runtime::Tensor(runtime::vector_spec(experiment.network.running_statistics),
                          name + ".running.average", runtime::Home::host);
    }
  }
  if (config.score == ScoreSource::training_window) return;
  const auto mode = config.score_statistics == ScoreStatistics::batch
                        ? models::Mode::batch_statistics
                        : models::Mode::inference;
  const bool hold_out = config.score == ScoreSource::hold_out;
  std::vector<std::uint32_t> images = experiment.split.hold_out;
  if (!hold_out) {
    images.resize(experiment.data.test->size());
    for (std::size_t i = 0; i < images.size(); ++i) images[i] = static_cast<std::uint32_t>(i);
  }
  evaluator_.emplace(experiment.network, mode, grain_of(experiment.config.runtime.fusion),
                     hold_out ? session.plain_train_loader : session.test_loader, std::move(images),
                     experiment.evaluation_batch());
}

PretrainResult Pretrain::run(int epoch, double base_learning_rate, std::span<const double> factors,
                             std::span<const std::uint32_t> order,
                             const std::function<void(int, int)>& step_done) {
  const Experiment& experiment = session_.experiment;
  const StptConfig& config = experiment.config.stpt;
  const int candidates = static_cast<int>(factors.size());
  const int workers = experiment.workers_per_replica(factors.size());
  const std::int64_t group_batch =
      std::int64_t{workers} * experiment.config.training.batch_per_worker;
  const EpochPlan plan = experiment.schedule.plan(epoch);
  PretrainResult result;

  Stopwatch watch;
  for (int k = 0; k < candidates; ++k) {
    Replica& replica = *replicas_[static_cast<std::size_t>(k)];
    replica.state.copy_from(*session_.current);
    replica.watch(config.divergence_factor);
  }
  session_.runtime.wait_for_all();
  result.seconds_snapshot = watch.lap();

  // More candidates than workers run in waves of n, so that no more than n replicas compete at a
  // time (stpt.many_candidates).
  const int wave = experiment.config.training.workers;
  int submitted = 0;
  for (int first = 0; first < candidates; first += wave) {
    const int last = std::min(first + wave, candidates);
    for (int iteration = 0; iteration < config.alpha; ++iteration) {
      std::span<const data::Batch> batches;
      if (config.replica_data == ReplicaData::same)
        batches = session_.load(order, iteration, workers, epoch);
      for (int k = first; k < last; ++k, ++submitted) {
        Replica& replica = *replicas_[static_cast<std::size_t>(k)];
        if (replica.diverged) continue;
        if (config.replica_data == ReplicaData::disjoint) {
          const std::int64_t other =
              (std::int64_t{iteration} * candidates + k) % experiment.iterations_per_epoch;
          batches = session_.load(order, other, workers, epoch);
        }
        const double rate =
            pretrain_learning_rate(base_learning_rate, factors[static_cast<std::size_t>(k)], config,
                                   group_batch, experiment.global_batch());
        session_.data_parallel.step(
            replica.state, batches,
            static_cast<float>(experiment.schedule.at(plan.first + iteration, rate)), replica.log);
        step_done(submitted + 1, candidates * config.alpha);
      }
    }
  }
  session_.runtime.wait_for_all();
  result.seconds_train = watch.lap();

  for (int k = 0; k < candidates; ++k) {
    CandidateScore& score = result.scores.emplace_back();
    score.factor = factors[static_cast<std::size_t>(k)];
    score.learning_rate = base_learning_rate * score.factor;
    score.diverged = replicas_[static_cast<std::size_t>(k)]->diverged;
  }
  score(result, workers, order);
  result.seconds_score = watch.lap();
  return result;
}

void Pretrain::score(PretrainResult& result, int workers, std::span<const std::uint32_t> order) {
  const StptConfig& config = session_.experiment.config.stpt;
  if (!evaluator_) {
    for (std::size_t k = 0; k < result.scores.size(); ++k) {
      CandidateScore& score = result.scores[k];
      const auto& steps = replicas_[k]->steps;
      const std::size_t window =
          std::min(static_cast<std::size_t>(config.score_window), steps.size());
      for (const StepResult& step : std::span(steps).last(window)) {
        score.accuracy += step.top1 / static_cast<double>(window);
        score.loss += step.loss / static_cast<double>(window);
      }
    }
    return;
  }
  std::vector<EvaluatedModel> models;
  std::vector<std::size_t> scored;
  for (std::size_t k = 0; k < result.scores.size(); ++k) {
    if (result.scores[k].diverged) continue;
    const Replica& replica = *replicas_[k];
    EvaluatedModel& model = models.emplace_back();
    model.state = &replica.state;
    if (replica.averaged_running) {
      session_.settle_running_statistics(replica.state, workers, order, replica.averaged_running);
      model.running = &replica.averaged_running;
    }
    scored.push_back(k);
  }
  const std::vector<Evaluation> evaluations = evaluator_->evaluate(models);
  for (std::size_t i = 0; i < scored.size(); ++i) {
    CandidateScore& score = result.scores[scored[i]];
    for (const codelets::SampleScore& sample : evaluations[i].samples)
      score.correct.push_back(sample.rank == 0);
    score.accuracy = evaluations[i].top1();
    score.loss = evaluations[i].loss();
    // The last update may have broken what the last loss did not show yet.
    if (!std::isfinite(score.loss)) score.diverged = true;
  }
}

void Pretrain::hand_over(std::size_t winner, std::size_t candidates) {
  const Experiment& experiment = session_.experiment;
  std::swap(*session_.current, replicas_[winner]->state);
  session_.current->spread_running_statistics(
      static_cast<std::size_t>(experiment.workers_per_replica(candidates)));
  if (experiment.config.stpt.momentum == MomentumAtChoice::reset)
    session_.current->reset_velocity();
}

}  // namespace stpt
