#include "stpt/trainer.hpp"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "runtime/cluster.hpp"
#include "runtime/machine.hpp"
#include "runtime/message.hpp"
#include "stpt/collapse.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/config/lr_sets.hpp"
#include "stpt/experiment.hpp"
#include "stpt/pretrain.hpp"
#include "stpt/recording.hpp"
#include "stpt/sample_meter.hpp"
#include "stpt/session.hpp"
#include "stpt/whole_model.hpp"

namespace stpt {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// After so many retries.
std::string all_diverged(int epoch, std::size_t candidates, int retries, double base) {
  std::string text = "epoch " + std::to_string(epoch) + ": ";
  text += candidates == 1 ? "the candidate" : "all " + std::to_string(candidates) + " candidates";
  text += " diverged, ";
  if (retries == 0) {
    text += "with a base learning rate of ";
  } else {
    text += "also after halving the base learning rate ";
    text += (retries == 1 ? "once" : std::to_string(retries) + " times") + " to ";
  }
  return text + format_learning_rate(base) +
         "; start from a smaller training.learning_rate.initial, or allow more with "
         "stpt.divergence_factor";
}

/// The run was asked to stop.
struct Stopped {};

/// Main-train's steps as this rank knows them.
struct MainTrainSteps {
  std::vector<WorkerResult> results;  ///< of this rank's workers
  std::int64_t count = 0;             ///< steps
  std::int64_t broken = -1;           ///< the first iteration whose loss was not finite here
};

/// What became of Main-train; the same on all ranks.
struct MainTrainEnd {
  std::int64_t broken = -1;     ///< the first iteration whose loss was not finite
  bool collapsed = false;       ///< it has lost what had been learnt
  bool learnt_nothing = false;  ///< there was nothing to lose, nor is there now
};

/// What an epoch has come to, to go on from there.
struct Attempt {
  EpochRecord record;
  RunPosition position;
  models::ModelValues model;  ///< on rank 0
};

}  // namespace

struct Trainer::Impl {
  Impl(const Config& config, const ConfigSource& source)
      : given(config), experiment(config, source), record(new_record(experiment)) {
    progress.chosen_learning_rate = config.training.learning_rate.initial;
    progress.base_learning_rate = config.training.learning_rate.initial;
  }

  RunRecord run(const TrainerObserver& observer, const std::atomic<bool>* stop);
  void restore(Session& session);
  void restore_model(Session& session);
  void settle_running_statistics(const Session& session, models::ModelValues& model) const;
  void train(Session& session, double earlier_seconds);
  void run_epoch(Session& session, Pretrain* pretrain, int epoch);
  void choose_learning_rate(Session& session, Pretrain& pretrain, int epoch,
                            std::span<const std::uint32_t> order, bool step_down,
                            EpochRecord& record);
  MainTrainSteps train_steps(Session& session, int epoch, std::span<const std::uint32_t> order,
                             const std::string& phase);
  MainTrainEnd train_main(Session& session, int epoch, std::span<const std::uint32_t> order,
                          EpochRecord& record);
  [[nodiscard]] bool repeats_collapsed() const;
  [[nodiscard]] TrainingCurve winners_pretrain(const EpochRecord& epoch) const;
  [[nodiscard]] TrainingCurve trained(const EpochRecord& epoch) const;
  [[nodiscard]] bool has_collapsed(const EpochRecord& epoch) const;
  [[nodiscard]] bool has_learnt_nothing(const EpochRecord& epoch) const;
  void start_over(Session& session, double base, double chosen, EpochRecord& record);
  void go_back_to(Attempt earlier, Session& session, EpochRecord& record);
  TestResult test(Session& session, std::span<const std::uint32_t> order);
  [[nodiscard]] Choice decide(const PretrainResult& outcome, int epoch, bool step_down) const;
  void show(int epoch, const std::string& phase, double learning_rate);

  Config given;  ///< that of the experiment has more resolved
  Experiment experiment;
  RunRecord record;
  Checkpoint
      progress;  ///< the run's state between epochs; its model on rank 0 where it may be needed
  models::ModelValues final_model;

  // While running.
  const TrainerObserver* observer = nullptr;
  const std::atomic<bool>* stop = nullptr;
  std::optional<SampleMeter> meter;
};

void Trainer::Impl::show(int epoch, const std::string& phase, double learning_rate) {
  if (runtime::Cluster::current().any(stop != nullptr && stop->load())) throw Stopped{};
  if (!observer->progress) return;
  ProgressState state = meter->state();
  state.epoch = epoch;
  state.epochs = experiment.config.training.epochs;
  state.phase = phase;
  state.learning_rate = learning_rate;
  if (!record.epochs.empty()) state.test_top1 = record.epochs.back().test_top1;
  observer->progress(state);
}

Choice Trainer::Impl::decide(const PretrainResult& outcome, int epoch, bool step_down) const {
  const std::vector<CandidateScore>& scores = outcome.scores;
  if (step_down && none_exceeds_guessing(scores, outcome.guess)) return choose_largest(scores);
  const Config& config = experiment.config;
  switch (config.training.learning_rate.policy) {
    case Policy::random_winner:
      return choose_at_random(scores, config.training.seed, epoch);
    case Policy::always_one:
      return choose_unchanged(scores);
    default:
      return choose(scores, config.stpt.tie_rule, config.stpt.score_metric, outcome.guess);
  }
}

void Trainer::Impl::choose_learning_rate(Session& session, Pretrain& pretrain, int epoch,
                                         std::span<const std::uint32_t> order, bool step_down,
                                         EpochRecord& result) {
  const StptConfig& config = experiment.config.stpt;
  const CandidateSet& set = candidates_at(config, epoch);
  const std::int64_t replica_batch = experiment.replica_batch(set.factors.size());
  result.candidate_set = set.name.empty() ? "custom" : set.name;
  const double smallest = std::ranges::min(set.factors);
  while (progress.base_learning_rate * smallest > progress.highest_learning_rate)
    progress.base_learning_rate /= 2;
  for (int attempt = 0;; ++attempt) {
    const double base = progress.base_learning_rate;
    result.base_learning_rate = base;
    const auto step_done = [&](bool made) {
      if (made) {
        meter->add(replica_batch);
      } else {
        meter->drop(replica_batch);
      }
      show(epoch, "pre-train", base);
    };
    const PretrainResult outcome =
        pretrain.run({epoch, base, set.factors, progress.highest_learning_rate, order}, step_done);
    const auto choosing = Clock::now();
    const Choice choice = decide(outcome, epoch, step_down);
    result.seconds_pretrain += outcome.seconds_train;
    result.seconds_score += outcome.seconds_score;
    result.seconds_choose += outcome.seconds_snapshot;
    record_candidates(experiment, outcome, choice, result);
    if (choice.winner) {
      if (config.winner_progress == Progress::kept) {
        pretrain.hand_over(*choice.winner, set.factors.size());
        set_training(outcome.steps[*choice.winner], result);  // Main-train, if any, has its own
      }
      progress.chosen_learning_rate = outcome.scores[*choice.winner].learning_rate;
      progress.base_learning_rate =
          next_base(progress.chosen_learning_rate, base,
                    experiment.config.training.learning_rate.initial, config);
      session.runtime.wait_for_all();
      result.seconds_choose += seconds_since(choosing);
      return;
    }
    // The snapshot is session.current, which Pre-train has not touched.
    if (attempt == config.max_retries)
      throw TrainingError(all_diverged(epoch, set.factors.size(), attempt, base));
    ++result.retries;
    meter->plan_from(epoch);  // once more
    progress.base_learning_rate = base / 2;
  }
}

bool Trainer::Impl::repeats_collapsed() const {
  return experiment.config.training.learning_rate.policy == Policy::stpt &&
         experiment.config.stpt.max_collapses > 0;
}

/// The winner's part in the epoch's Pre-train, if there was one.
TrainingCurve Trainer::Impl::winners_pretrain(const EpochRecord& epoch) const {
  for (const CandidateRecord& candidate : epoch.candidates) {
    if (candidate.winner) {
      return {candidate.curve, experiment.schedule.plan(epoch.epoch).first,
              experiment.replica_batch(epoch.candidates.size())};
    }
  }
  return {};
}

/// What is judged of an epoch: Main-train, and where Pre-train takes all of it, the winner's.
TrainingCurve Trainer::Impl::trained(const EpochRecord& epoch) const {
  if (epoch.curve.empty()) return winners_pretrain(epoch);
  return {epoch.curve, experiment.schedule.plan(epoch.epoch).main_first, experiment.global_batch()};
}

bool Trainer::Impl::has_collapsed(const EpochRecord& epoch) const {
  return stpt::has_collapsed(
      trained(epoch), record.epochs.empty() ? TrainingCurve{} : trained(record.epochs.back()),
      epoch.curve.empty() ? TrainingCurve{} : winners_pretrain(epoch), experiment.network.classes);
}

/// Of a later epoch that begins at guessing nothing says that less LR would help.
bool Trainer::Impl::has_learnt_nothing(const EpochRecord& epoch) const {
  if (!record.epochs.empty() || epoch.candidates.empty()) return false;
  const Guess guess =
      best_guess(data::images_of_class(*experiment.data.train, experiment.split.training));
  return stpt::has_learnt_nothing(trained(epoch), guess, experiment.network.classes);
}

/// Back to where the epoch began, with this base and this LR chosen before; what it has cost stays
/// in its record.
void Trainer::Impl::start_over(Session& session, double base, double chosen, EpochRecord& result) {
  progress.highest_learning_rate = progress.chosen_learning_rate / 2;
  progress.base_learning_rate = base;
  progress.chosen_learning_rate = std::min(chosen, progress.highest_learning_rate);
  EpochRecord again;
  static_cast<EpochCost&>(again) = result;
  again.epoch = result.epoch;
  again.phase = result.phase;
  again.rank_count = result.rank_count;
  again.base_learning_rate = progress.base_learning_rate;
  ++again.collapses;
  again.iterations_discarded += result.iterations;
  again.samples_discarded += result.samples_winner;
  result = std::move(again);
  restore_model(session);
}

/// What was tried since is dropped; what it has cost stays.
void Trainer::Impl::go_back_to(Attempt earlier, Session& session, EpochRecord& result) {
  static_cast<EpochCost&>(earlier.record) = result;
  earlier.record.iterations_discarded += result.iterations - earlier.record.iterations;
  earlier.record.samples_discarded += result.samples_winner - earlier.record.samples_winner;
  result = std::move(earlier.record);
  static_cast<RunPosition&>(progress) = earlier.position;
  place_model(session, earlier.model);
}

MainTrainSteps Trainer::Impl::train_steps(Session& session, int epoch,
                                          std::span<const std::uint32_t> order,
                                          const std::string& phase) {
  const EpochPlan plan = experiment.schedule.plan(epoch);
  const models::Team team = experiment.team();
  MainTrainSteps steps;
  std::atomic<std::int64_t> broken = -1;
  std::int64_t done = 0;
  TrainingLog log("main");
  log.on_step = [&](std::span<const WorkerResult> workers) {
    const StepResult step = step_result(workers);
    if (!step.finite() && broken < 0) broken = plan.main_first + done;
    ++done;
    steps.results.insert(steps.results.end(), workers.begin(), workers.end());
    meter->step_done(step);
  };
  // Ranks go on together: each may be the only one that has seen it.
  const bool stays = repeats_collapsed() && team.ranks > 1;
  for (; plan.main_first + steps.count < plan.end && (broken < 0 || stays); ++steps.count) {
    const std::int64_t iteration = plan.main_first + steps.count;
    const runtime::IterationMark mark(iteration);
    const double rate = experiment.schedule.at(iteration, progress.chosen_learning_rate);
    const auto batches = session.load(order, iteration - plan.first, team, epoch);
    session.data_parallel.step(*session.current, batches, static_cast<float>(rate), log);
    meter->add(experiment.global_batch());
    show(epoch, phase, rate);
  }
  session.runtime.wait_for_all();
  steps.broken = broken;
  return steps;
}

MainTrainEnd Trainer::Impl::train_main(Session& session, int epoch,
                                       std::span<const std::uint32_t> order, EpochRecord& result) {
  const EpochPlan plan = experiment.schedule.plan(epoch);
  runtime::Cluster& cluster = runtime::Cluster::current();
  const auto start = Clock::now();
  const runtime::Traffic traffic_before = runtime::traffic();
  const double busy_before = session.runtime.busy_seconds();
  const auto [results, submitted, broken] = train_steps(session, epoch, order,
                                                        result.phase == "warmup" ? "warm-up"
                                                        : result.phase == "stpt" ? "main-train"
                                                                                 : "train");
  result.seconds_main += seconds_since(start);
  std::int64_t trained = submitted;
  MainTrainEnd end{broken, broken >= 0};
  if (broken >= 0 && !repeats_collapsed()) return end;
  record_traffic(session, traffic_before, busy_before, result);
  const std::vector<std::vector<WorkerResult>> results_of = cluster.gather(results);  // [rank]
  std::vector<StepResult> steps;
  if (cluster.rank() == 0) {
    const std::vector<std::span<const WorkerResult>> ranks(results_of.begin(), results_of.end());
    steps = join_steps(ranks, experiment.team());
  }
  // What came after the first such loss is by chance: how far tasks were submitted, on how many
  // ranks. All workers' losses are known on rank 0.
  const auto bad = std::ranges::find_if_not(steps, &StepResult::finite);
  if (bad != steps.end()) {
    trained = bad - steps.begin() + 1;
    steps.resize(static_cast<std::size_t>(trained));
    end = {plan.main_first + trained - 1, true};
  }
  result.steps_main += trained;
  result.iterations += trained;
  result.samples_winner += trained * experiment.global_batch();
  result.learning_rate = experiment.schedule.at(plan.end - 1, progress.chosen_learning_rate);
  result.curve = curve_of(steps, plan.main_first, 25, [&](std::int64_t iteration) {
    return experiment.schedule.at(iteration, progress.chosen_learning_rate);
  });
  if (plan.main_first < plan.end) set_training(steps, result);
  if (!repeats_collapsed()) return end;
  end.collapsed = end.broken >= 0 || has_collapsed(result);
  end.learnt_nothing = !end.collapsed && has_learnt_nothing(result);
  return cluster.broadcast(end);
}

TestResult Trainer::Impl::test(Session& session, std::span<const std::uint32_t> order) {
  EvaluatedModel model;
  model.parameters = &session.current->parameters;
  if (session.averaged_running) {
    session.settle_running_statistics(*session.current, session.current->parameters, order,
                                      session.averaged_running, 0);
    model.running = &session.averaged_running;
  }
  return session.test.evaluate_on_all_ranks(model);
}

void Trainer::Impl::run_epoch(Session& session, Pretrain* pretrain, int epoch) {
  const auto start = Clock::now();
  meter->begin_epoch();
  EpochRecord result;
  result.epoch = epoch;
  result.rank_count = runtime::Cluster::current().size();
  result.base_learning_rate = progress.base_learning_rate;
  result.phase = experiment.schedule.pretrains(epoch)   ? "stpt"
                 : experiment.schedule.in_warmup(epoch) ? "warmup"
                                                        : "scheduled";
  const std::vector<std::uint32_t> order =
      experiment.sampler.order(static_cast<std::uint64_t>(epoch));
  const double base = progress.base_learning_rate, chosen = progress.chosen_learning_rate;
  std::optional<Attempt> at_guessing;  // the first that left the network there
  for (;;) {
    meter->plan_from(epoch);
    if (result.phase == "stpt")
      choose_learning_rate(session, *pretrain, epoch, order, at_guessing.has_value(), result);
    const MainTrainEnd end = train_main(session, epoch, order, result);
    if (!end.collapsed && !end.learnt_nothing) break;
    if (repeats_collapsed() && result.collapses < experiment.config.stpt.max_collapses) {
      if (end.learnt_nothing && !at_guessing)
        at_guessing = {result, progress, collect_model(session)};
      start_over(session, base, chosen, result);
      continue;
    }
    // That it was the LR was wrong, then.
    if (end.learnt_nothing && at_guessing) go_back_to(std::move(*at_guessing), session, result);
    if (end.broken < 0) break;  // it may go on from there
    const double rate = experiment.schedule.at(end.broken, progress.chosen_learning_rate);
    throw TrainingError("epoch " + std::to_string(epoch) + ", iteration " +
                        std::to_string(end.broken - experiment.schedule.plan(epoch).first + 1) +
                        ": the training loss is not finite at learning rate " +
                        format_learning_rate(rate) +
                        "; start from a smaller training.learning_rate.initial");
  }
  show(epoch, "test", result.learning_rate);
  const auto testing = Clock::now();
  const TestResult tested = test(session, order);
  result.test_top1 = tested.top1;
  result.test_top5 = tested.top5;
  result.test_loss = tested.loss;
  result.seconds_test = seconds_since(testing);
  result.seconds = seconds_since(start);
  result.images_per_second = static_cast<double>(result.samples_winner + result.samples_discarded) /
                             (result.seconds_pretrain + result.seconds_main);
  result.memory_bytes = runtime::resident_bytes();
  experiment.schedule.observe(epoch, result.test_top1);
  record.epochs.push_back(std::move(result));
}

void Trainer::Impl::restore(Session& session) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  RunPosition& position = progress;
  position = cluster.broadcast(position);
  if (progress.epoch > 0) experiment.schedule.restore(progress.plateau);
  restore_model(session);
  if (!repeats_collapsed()) progress.model = {};  // nothing comes back to it
  for (const EpochRecord& epoch : record.epochs)
    meter->add(epoch.samples_winner + epoch.samples_discarded);
}

void Trainer::Impl::restore_model(Session& session) {
  if (progress.epoch > 0 || runtime::Cluster::current().rank() > 0) {
    place_model(session, progress.model);
  } else {
    place_model(session, experiment.initial_values());
  }
}

/// Those of the last test, where they are measured anew for each: training goes on without those
/// that it has kept.
void Trainer::Impl::settle_running_statistics(const Session& session,
                                              models::ModelValues& model) const {
  if (experiment.config.stpt.running_statistics != RunningStatistics::recalibrate) return;
  if (!session.averaged_running || model.running.empty()) return;
  const runtime::HostView settled(session.averaged_running, runtime::Access::read);
  for (std::vector<float>& values : model.running)
    std::ranges::copy(settled.as<float>(), values.begin());
}

void Trainer::Impl::train(Session& session, double earlier_seconds) {
  restore(session);
  // What the last epoch's test left, and the digest needs.
  if (progress.epoch == experiment.config.training.epochs && session.averaged_running) {
    session.settle_running_statistics(
        *session.current, session.current->parameters,
        experiment.sampler.order(static_cast<std::uint64_t>(progress.epoch)),
        session.averaged_running, 0);
  }
  std::optional<Pretrain> pretrain;
  if (experiment.pretrains()) pretrain.emplace(session);
  try {
    for (int epoch = progress.epoch + 1; epoch <= experiment.config.training.epochs; ++epoch) {
      run_epoch(session, pretrain ? &*pretrain : nullptr, epoch);
      record.wall_seconds = earlier_seconds + meter->elapsed();
      progress.epoch = epoch;
      progress.model = {};  // of the epoch before, which this one might have come back to
      Checkpoint checkpoint = progress;
      checkpoint.plateau = experiment.schedule.plateau();
      checkpoint.wall_seconds = record.wall_seconds;
      const bool several = runtime::Cluster::current().size() > 1;
      const bool saves = experiment.config.runtime.checkpoint && (several || observer->epoch_done);
      if (saves || repeats_collapsed()) {
        checkpoint.config = print_config(given);
        checkpoint.data = experiment.data_checksum;
        checkpoint.normalization = experiment.normalization;
        checkpoint.model = collect_model(session);
        settle_running_statistics(session, checkpoint.model);
      }
      if (observer->epoch_done) observer->epoch_done(record, saves ? &checkpoint : nullptr);
      if (repeats_collapsed()) progress.model = std::move(checkpoint.model);
    }
    record.status = "complete";
  } catch (const Stopped&) {
    session.runtime.wait_for_all();
    record.status = "stopped";
  }
  record.wall_seconds = earlier_seconds + meter->elapsed();
  progress.model = {};  // one copy of a large model is enough
  if (record.status != "complete") return;
  final_model = collect_model(session);
  if (runtime::Cluster::current().rank() == 0)
    record.model_digest = digest_of(final_model, session);
}

RunRecord Trainer::Impl::run(const TrainerObserver& run_observer,
                             const std::atomic<bool>* run_stop) {
  observer = &run_observer;
  stop = run_stop;
  meter.emplace(experiment);
  record.status = "running";
  const double earlier_seconds = progress.wall_seconds;
  Session session(experiment);
  try {
    train(session, earlier_seconds);
  } catch (const std::exception& error) {
    // What unwinds past the session would wait there for tasks that wait for other ranks.
    if (runtime::Cluster::current().size() > 1 && run_observer.abandon) run_observer.abandon(error);
    throw;
  }
  return record;
}

Trainer::Trainer(const Config& config, const ConfigSource& source)
    : impl_(std::make_unique<Impl>(config, source)) {}

Trainer::~Trainer() = default;

const Experiment& Trainer::experiment() const { return impl_->experiment; }

const RunRecord& Trainer::record() const { return impl_->record; }

void Trainer::resume(Checkpoint checkpoint, const RunRecord& record) {
  const Config& config = impl_->experiment.config;
  check_made_with(checkpoint, impl_->given);
  if (checkpoint.data != impl_->experiment.data_checksum) {
    throw data::DataError(
        record.dataset +
        ": the images or labels are not those that the run began with; give their folder "
        "with --set data.path=..., or start a new run");
  }
  arrange_model(checkpoint, impl_->experiment.network, config.training.workers,
                optimizer_settings(config.training.optimizer).rule);
  // A run that was killed between its last checkpoint and its end has only the end left to do.
  if (checkpoint.epoch > config.training.epochs ||
      (checkpoint.epoch == config.training.epochs && record.status == "complete")) {
    throw CheckpointError(checkpoint.file + ": it has completed epoch " +
                          std::to_string(checkpoint.epoch) + ", and training.epochs is " +
                          std::to_string(config.training.epochs) + "; to go on, set that to more");
  }
  RunRecord own = std::move(impl_->record);
  impl_->record = record;
  impl_->record.device = std::move(own.device);
  impl_->record.class_names = std::move(own.class_names);
  impl_->record.status = "running";
  impl_->record.failure.clear();
  impl_->record.epochs_planned = config.training.epochs;
  impl_->progress = std::move(checkpoint);
}

RunRecord Trainer::run(const TrainerObserver& observer, const std::atomic<bool>* stop) {
  return impl_->run(observer, stop);
}

std::vector<std::string> Trainer::unreadable_images() const {
  const data::DatasetPair& data = impl_->experiment.data;
  std::vector<std::string> images = data.train->unreadable();
  std::ranges::move(data.test->unreadable(), std::back_inserter(images));
  return images;
}

const models::ModelValues& Trainer::model() const { return impl_->final_model; }

}  // namespace stpt
