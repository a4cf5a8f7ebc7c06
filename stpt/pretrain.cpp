#include "stpt/pretrain.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>

#include "models/transfer.hpp"
#include "runtime/cluster.hpp"
#include "runtime/message.hpp"
#include "stpt/learning_rate.hpp"

namespace stpt {
namespace {

/// Replica k's messages; 0 is the current model's.
int channel_of(std::size_t k) { return static_cast<int>(k) + 1; }

/// What is no choice is plain training, which a batch that is harder than others does not end.
LossLimit loss_limit(const Experiment& experiment, std::size_t candidates) {
  return {candidates > 1 ? experiment.config.stpt.divergence_factor : 0,
          std::log(static_cast<double>(experiment.network.classes))};
}

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

/// What all ranks have found out on the candidates: a list of each rank's, with one candidate's
/// part behind the other's.
template <class T>
class ListsOfRanks {
 public:
  /// Collective.
  explicit ListsOfRanks(const std::vector<T>& mine)
      : lists_(runtime::Cluster::current().all_gather(mine)), taken_(lists_.size(), 0) {}

  /// The next `count` of that rank's.
  [[nodiscard]] std::span<const T> take(int rank, std::size_t count) {
    const auto index = static_cast<std::size_t>(rank);
    return std::span(lists_[index])
        .subspan(std::exchange(taken_[index], taken_[index] + count), count);
  }

 private:
  std::vector<std::vector<T>> lists_;
  std::vector<std::size_t> taken_;
};

/// More candidates than workers run in waves of n, so that no more than n replicas compete at a
/// time (stpt.many_candidates); but no GPU worker of any rank is idle. The ranks of a team wait for
/// each other's messages, so all take the steps in one order.
std::size_t wave_of(const Session& session) {
  auto wave = static_cast<std::size_t>(session.experiment.config.training.workers);
  if (session.experiment.gpu_choice.gpus.empty()) return wave;
  for (const auto& rank :
       runtime::Cluster::current().all_gather(std::vector{session.runtime.computing_workers()}))
    wave = std::max(wave, rank.front());
  return wave;
}

}  // namespace

Replica::Replica(const models::Network& network, const models::Team& team, const std::string& name,
                 codelets::UpdateRule rule)
    : state(network, team, name, rule), log(name) {}

bool LossLimit::exceeded_by(std::span<const StepResult> steps) const {
  constexpr std::int64_t enough = 64;
  if (factor == 0) return false;
  std::int64_t images = 0;
  double loss = 0;
  for (auto step = steps.rbegin(); step != steps.rend() && images < enough; ++step) {
    images += step->samples;
    loss += step->loss * static_cast<double>(step->samples);
  }
  return images >= enough &&
         loss > static_cast<double>(images) * factor * std::max(steps.front().loss, guessing);
}

void CandidateSteps::add(const StepResult& step, const LossLimit& limit) {
  if (diverged) return;
  steps.push_back(step);
  diverged = !step.finite() || limit.exceeded_by(steps);
}

void Replica::watch(const LossLimit& limit) {
  results.clear();
  diverged = false;
  const bool sees_all = state.placement.team.ranks == 1;
  log.on_step = [this, sees_all, limit,
                 seen = CandidateSteps()](std::span<const WorkerResult> workers) mutable {
    results.insert(results.end(), workers.begin(), workers.end());
    if (!sees_all) return;
    seen.add(step_result(workers), limit);
    if (seen.diverged) diverged = true;
  };
}

Pretrain::Pretrain(Session& session)
    : session_(session), wave_(wave_of(session)), replicas_(session.experiment.most_candidates()) {
  const Experiment& experiment = session.experiment;
  const StptConfig& config = experiment.config.stpt;
  if (config.score == ScoreSource::training_window) return;
  const auto mode = config.score_statistics == ScoreStatistics::batch
                        ? models::Mode::batch_statistics
                        : models::Mode::inference;
  const bool hold_out = config.score == ScoreSource::hold_out;
  std::vector<std::uint32_t> images =
      hold_out ? experiment.split.hold_out : data::all_indices(*experiment.data.test);
  const data::Dataset& scored = hold_out ? *experiment.data.train : *experiment.data.test;
  guess_ = best_guess(data::images_of_class(scored, images));
  evaluator_.emplace(experiment.network, mode, experiment.lowering(),
                     hold_out ? session.plain_train_loader : session.test_loader, std::move(images),
                     experiment.evaluation_batch());
}

void Pretrain::prepare(std::size_t candidates) {
  const Experiment& experiment = session_.experiment;
  const StptConfig& config = experiment.config.stpt;
  const bool running =
      config.score_statistics == ScoreStatistics::running && experiment.network.has_batch_norm();
  // A search has many more than what follows it.
  for (std::size_t k = candidates; k < replicas_.size(); ++k) replicas_[k].reset();
  for (std::size_t k = 0; k < candidates; ++k) {
    const models::Team team = experiment.replica_team(k, candidates);
    if (replicas_[k] && replicas_[k]->state.placement.team == team) continue;
    replicas_[k].reset();
    if (!team.has(runtime::Cluster::current().rank())) continue;
    const std::string name = "replica." + std::to_string(k);
    replicas_[k] =
        std::make_unique<Replica>(experiment.network, team, name, session_.optimizer.rule());
    if (experiment.scores_mean()) replicas_[k]->mean.emplace(replicas_[k]->state, name + ".mean");
    if (running) {
      replicas_[k]->averaged_running =
          runtime::Tensor(runtime::vector_spec(experiment.network.running_statistics),
                          name + ".running.average", runtime::Home::host);
    }
  }
}

std::size_t Pretrain::make_room(std::size_t first, std::size_t last) {
  const int here = runtime::Cluster::current().rank();
  std::size_t replicas = 0, workers = 1;
  for (std::size_t k = first; k < last; ++k) {
    if (!replicas_[k]) continue;
    ++replicas;
    workers = static_cast<std::size_t>(replicas_[k]->state.placement.team.workers_on(here));
  }
  const std::size_t enough = (session_.runtime.computing_workers() + workers - 1) / workers;
  const auto in_flight =
      static_cast<std::size_t>(session_.experiment.config.runtime.steps_in_flight);
  const std::size_t models = std::clamp<std::size_t>(replicas, 1, enough * in_flight);
  session_.data_parallel.reserve(models, workers);
  return models;
}

std::size_t Pretrain::first_piece(std::size_t replica) const {
  const int here = runtime::Cluster::current().rank();
  std::size_t piece = 0;
  for (std::size_t k = 0; k < replica; ++k) {
    if (replicas_[k])
      piece += static_cast<std::size_t>(replicas_[k]->state.placement.team.workers_on(here));
  }
  return piece;
}

void Pretrain::take_snapshot(std::size_t candidates) {
  const Experiment& experiment = session_.experiment;
  const models::ModelState& current = *session_.current;
  const LossLimit limit = loss_limit(experiment, candidates);
  std::vector<std::pair<models::Team, Replica*>> first;  // of each team
  for (std::size_t k = 0; k < candidates; ++k) {
    Replica* replica = replicas_[k].get();
    if (replica != nullptr) replica->watch(limit);
    const models::Team team = experiment.replica_team(k, candidates);
    const auto known = std::ranges::find(first, team, &decltype(first)::value_type::first);
    if (known != first.end()) {
      if (replica != nullptr) replica->state.copy_from(known->second->state, first_piece(k));
      continue;
    }
    first.emplace_back(team, replica);
    models::transfer(&current, current.placement, replica == nullptr ? nullptr : &replica->state,
                     models::Placement(experiment.network, team), channel_of(k), first_piece(k));
  }
}

PretrainResult Pretrain::run(const Candidates& candidates,
                             const std::function<void(bool)>& step_done) {
  const std::size_t count = candidates.factors.size();
  PretrainResult result;
  result.guess = guess_;

  Stopwatch watch;
  prepare(count);
  take_snapshot(count);
  for (std::size_t k = 0; k < count; ++k) {
    CandidateScore& score = result.scores.emplace_back();
    score.factor = candidates.factors[k];
    score.learning_rate = candidates.base_learning_rate * score.factor;
    score.diverged = score.learning_rate > candidates.highest_learning_rate;
    if (replicas_[k]) replicas_[k]->diverged = score.diverged;
  }
  session_.runtime.wait_for_all();
  result.seconds_snapshot = watch.lap();

  for (std::size_t first = 0; first < count; first += wave_)
    train(candidates, first, std::min(first + wave_, count), step_done);
  session_.runtime.wait_for_all();
  result.seconds_train = watch.lap();

  collect_steps(result);
  if (evaluator_) {
    score_images(result, candidates.order);
  } else {
    score_training(result);
  }
  result.seconds_score = watch.lap();
  return result;
}

void Pretrain::train(const Candidates& candidates, std::size_t first, std::size_t last,
                     const std::function<void(bool)>& step_done) {
  const Experiment& experiment = session_.experiment;
  const StptConfig& config = experiment.config.stpt;
  const std::size_t count = candidates.factors.size();
  const std::int64_t first_iteration = experiment.schedule.plan(candidates.epoch).first;
  const std::size_t at_once = make_room(first, last);
  for (int iteration = 0; iteration < config.alpha; ++iteration) {
    const runtime::IterationMark mark(first_iteration + iteration);
    std::span<const data::Batch> batches;  // of this rank's replicas, which have one team
    std::size_t turn = 0;                  // among these
    for (std::size_t k = first; k < last; ++k) {
      const std::size_t slot = replicas_[k] ? turn++ % at_once : 0;
      const bool is_out = replicas_[k] && replicas_[k]->diverged;
      step_done(!is_out);
      if (!replicas_[k] || is_out) continue;
      Replica& replica = *replicas_[k];
      const models::Team& team = replica.state.placement.team;
      if (config.replica_data == ReplicaData::disjoint) {
        const std::int64_t other = (std::int64_t{iteration} * static_cast<std::int64_t>(count) +
                                    static_cast<std::int64_t>(k)) %
                                   experiment.iterations_per_epoch;
        batches = session_.load(candidates.order, other, team, candidates.epoch, first_piece(k));
      } else if (batches.empty()) {
        batches = session_.load(candidates.order, iteration, team, candidates.epoch);
      }
      const double rate =
          pretrain_learning_rate(candidates.base_learning_rate, candidates.factors[k], config,
                                 experiment.replica_batch(count), experiment.global_batch());
      session_.data_parallel.step(
          replica.state, batches,
          static_cast<float>(experiment.schedule.at(first_iteration + iteration, rate)),
          replica.log, {channel_of(k), first_piece(k), slot, at_once});
      // Over the second half of Pre-train.
      if (const int start = config.alpha / 2; replica.mean && iteration >= start)
        replica.mean->add(replica.state, iteration - start + 1, first_piece(k));
    }
  }
}

void Pretrain::collect_steps(PretrainResult& result) const {
  const Experiment& experiment = session_.experiment;
  runtime::Cluster& cluster = runtime::Cluster::current();
  const std::size_t candidates = result.scores.size();
  std::vector<std::int64_t> counts(candidates, 0);
  std::vector<WorkerResult> mine;
  for (std::size_t k = 0; k < candidates; ++k) {
    if (!replicas_[k]) continue;
    counts[k] = std::ssize(replicas_[k]->results);
    mine.insert(mine.end(), replicas_[k]->results.begin(), replicas_[k]->results.end());
  }
  const std::vector<std::vector<std::int64_t>> counts_of = cluster.all_gather(counts);
  ListsOfRanks<WorkerResult> results(mine);
  const LossLimit limit = loss_limit(experiment, candidates);
  for (std::size_t k = 0; k < candidates; ++k) {
    const models::Team team = experiment.replica_team(k, candidates);
    std::vector<std::span<const WorkerResult>> ranks;
    for (int rank = team.first_rank; rank < team.first_rank + team.ranks; ++rank) {
      const std::int64_t count = counts_of[static_cast<std::size_t>(rank)][k];
      ranks.push_back(results.take(rank, static_cast<std::size_t>(count)));
    }
    CandidateSteps seen;
    for (const StepResult& step : join_steps(ranks, team)) seen.add(step, limit);
    if (seen.diverged) result.scores[k].diverged = true;
    result.steps.push_back(std::move(seen.steps));
  }
}

void Pretrain::score_training(PretrainResult& result) const {
  const int wanted = session_.experiment.config.stpt.score_window;
  for (std::size_t k = 0; k < result.scores.size(); ++k) {
    const std::vector<StepResult>& steps = result.steps[k];
    const std::size_t window = std::min(static_cast<std::size_t>(wanted), steps.size());
    CandidateScore& score = result.scores[k];
    for (const StepResult& step : std::span(steps).last(window)) {
      score.accuracy += step.top1 / static_cast<double>(window);
      score.loss += step.loss / static_cast<double>(window);
    }
  }
}

void Pretrain::score_images(PretrainResult& result, std::span<const std::uint32_t> order) {
  const Experiment& experiment = session_.experiment;
  const std::size_t candidates = result.scores.size();
  runtime::Cluster& cluster = runtime::Cluster::current();
  std::vector<EvaluatedModel> models;
  models::Team team;  // of this rank's replicas
  for (std::size_t k = 0; k < candidates; ++k) {
    if (result.scores[k].diverged || !replicas_[k]) continue;
    const Replica& replica = *replicas_[k];
    team = replica.state.placement.team;
    EvaluatedModel& model = models.emplace_back();
    model.parameters = replica.mean ? &replica.mean->parameters() : &replica.state.parameters;
    if (replica.averaged_running) {
      session_.settle_running_statistics(replica.state, *model.parameters, order,
                                         replica.averaged_running, channel_of(k));
      model.running = &replica.averaged_running;
    }
  }
  std::vector<codelets::SampleScore> mine;
  if (!models.empty()) {
    for (const Evaluation& part :
         evaluator_->evaluate(models, cluster.rank() - team.first_rank, team.ranks)) {
      mine.insert(mine.end(), part.samples.begin(), part.samples.end());
    }
  }
  ListsOfRanks<codelets::SampleScore> all(mine);
  for (std::size_t k = 0; k < candidates; ++k) {
    CandidateScore& score = result.scores[k];
    if (score.diverged) continue;
    const models::Team of_k = experiment.replica_team(k, candidates);
    Evaluation evaluation;
    for (int part = 0; part < of_k.ranks; ++part) {
      const auto samples = all.take(of_k.first_rank + part, evaluator_->images(part, of_k.ranks));
      evaluation.samples.insert(evaluation.samples.end(), samples.begin(), samples.end());
    }
    for (const codelets::SampleScore& sample : evaluation.samples)
      score.correct.push_back(sample.rank == 0);
    score.accuracy = evaluation.top1();
    score.loss = evaluation.loss();
    // The last update may have broken what the last loss did not show yet.
    if (!std::isfinite(score.loss)) score.diverged = true;
  }
}

void Pretrain::hand_over(std::size_t winner, std::size_t candidates) {
  const Experiment& experiment = session_.experiment;
  const models::Team team = experiment.replica_team(winner, candidates);
  models::ModelState* replica = replicas_[winner] ? &replicas_[winner]->state : nullptr;
  if (team == session_.current->placement.team) {
    std::swap(*session_.current, *replica);
  } else {
    models::transfer(replica, models::Placement(experiment.network, team), session_.current.get(),
                     session_.current->placement, channel_of(winner));
  }
  // With one candidate there was no choice.
  if (experiment.config.stpt.momentum == MomentumAtChoice::reset && candidates > 1)
    session_.current->reset_moments();
}

}  // namespace stpt
