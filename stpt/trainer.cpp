#include "stpt/trainer.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <mutex>
#include <utility>

#include "runtime/machine.hpp"
#include "stpt/experiment.hpp"
#include "stpt/lr_sets.hpp"
#include "stpt/pretrain.hpp"
#include "stpt/session.hpp"
#include "stpt/sha256.hpp"

namespace stpt {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm fields{};
  gmtime_r(&now, &fields);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &fields);
  return text.data();
}

/// At most `points` means over consecutive steps; `first` is the run's iteration before the first
/// step.
std::vector<CurvePoint> curve_of(std::span<const StepResult> steps, std::int64_t first,
                                 std::size_t points,
                                 const std::function<double(std::int64_t)>& learning_rate) {
  std::vector<CurvePoint> curve;
  const std::size_t stretch = std::max<std::size_t>(1, (steps.size() + points - 1) / points);
  for (std::size_t begin = 0; begin < steps.size(); begin += stretch) {
    const auto part = steps.subspan(begin, std::min(stretch, steps.size() - begin));
    CurvePoint& point = curve.emplace_back();
    point.iteration = first + static_cast<std::int64_t>(begin + part.size());
    point.learning_rate = learning_rate(point.iteration - 1);
    for (const StepResult& step : part) {
      point.loss += step.loss / static_cast<double>(part.size());
      point.top1 += step.top1 / static_cast<double>(part.size());
    }
  }
  return curve;
}

/// The run was asked to stop.
struct Stopped {};

}  // namespace

struct Trainer::Impl {
  Impl(const Config& config, const std::string& source) : experiment(config, source) { describe(); }

  void describe();
  RunRecord run(const TrainerObserver& observer, const std::atomic<bool>* stop);
  void restore(Session& session);
  void run_epoch(Session& session, Pretrain* pretrain, int epoch);
  void choose_learning_rate(Session& session, Pretrain& pretrain, int epoch,
                            std::span<const std::uint32_t> order, EpochRecord& record);
  void train_main(Session& session, int epoch, std::span<const std::uint32_t> order,
                  EpochRecord& record);
  void test(Session& session, std::span<const std::uint32_t> order, EpochRecord& record);
  Choice decide(std::span<const CandidateScore> scores, int epoch) const;
  void count_samples(std::int64_t samples) { samples_done += samples; }
  void show(int epoch, const std::string& phase, double learning_rate);
  [[nodiscard]] std::int64_t planned_samples() const;
  [[nodiscard]] std::string digest(const Session& session) const;

  Experiment experiment;
  RunRecord record;
  Checkpoint
      progress;  ///< the run's state between epochs; its model only where it was saved or restored
  models::ModelValues final_model;

  // While running.
  const TrainerObserver* observer = nullptr;
  const std::atomic<bool>* stop = nullptr;
  Clock::time_point started;
  std::int64_t samples_planned = 0;
  std::int64_t samples_done = 0;  ///< submitted, losers included
  double epoch_training_start = 0;
  std::int64_t samples_at_epoch_start = 0;
  std::mutex latest_mutex;
  StepResult latest;
};

void Trainer::Impl::describe() {
  const Config& config = experiment.config;
  record.name = config.name;
  record.model = config.model.name;
  record.dataset = experiment.data.name;
  record.started = utc_now();
  record.policy = enum_name(config.training.learning_rate.policy);
  record.parameters = experiment.network.parameter_count();
  record.flops_per_image = experiment.network.flops_per_image();
  record.training_images = static_cast<std::int64_t>(experiment.split.training.size());
  record.hold_out_images = static_cast<std::int64_t>(experiment.split.hold_out.size());
  record.test_images = static_cast<std::int64_t>(experiment.data.test->size());
  record.workers = config.training.workers;
  record.batch_per_worker = config.training.batch_per_worker;
  record.iterations_per_epoch = experiment.iterations_per_epoch;
  record.epochs_planned = config.training.epochs;
  record.alpha = experiment.pretrains() ? config.stpt.alpha : 0;
  record.initial_learning_rate = config.training.learning_rate.initial;
  record.device = runtime::Machine::detect().to_string();
  record.status = "running";
  progress.chosen_learning_rate = config.training.learning_rate.initial;
  progress.base_learning_rate = config.training.learning_rate.initial;
}

std::int64_t Trainer::Impl::planned_samples() const {
  const StptConfig& stpt = experiment.config.stpt;
  std::int64_t samples = 0;
  for (int epoch = 1; epoch <= experiment.config.training.epochs; ++epoch) {
    const EpochPlan plan = experiment.schedule.plan(epoch);
    samples += (plan.end - plan.main_first) * experiment.global_batch();
    if (!experiment.schedule.pretrains(epoch)) continue;
    const std::size_t candidates = candidates_at(stpt, epoch).factors.size();
    samples += static_cast<std::int64_t>(candidates) * stpt.alpha *
               experiment.workers_per_replica(candidates) *
               experiment.config.training.batch_per_worker;
  }
  return samples;
}

void Trainer::Impl::show(int epoch, const std::string& phase, double learning_rate) {
  if (stop != nullptr && stop->load()) throw Stopped{};
  if (!observer->progress) return;
  ProgressState state;
  state.epoch = epoch;
  state.epochs = experiment.config.training.epochs;
  state.phase = phase;
  state.iteration = samples_done;
  state.iterations = samples_planned;
  state.elapsed = progress.wall_seconds + seconds_since(started);
  const double seconds = seconds_since(started) - epoch_training_start;
  if (seconds > 0.5) {
    state.images_per_second = static_cast<double>(samples_done - samples_at_epoch_start) / seconds;
  }
  state.learning_rate = learning_rate;
  {
    const std::scoped_lock lock(latest_mutex);
    if (latest.samples > 0) state.train_top1 = latest.top1;
  }
  if (!record.epochs.empty()) state.test_top1 = record.epochs.back().test_top1;
  observer->progress(state);
}

Choice Trainer::Impl::decide(std::span<const CandidateScore> scores, int epoch) const {
  const Config& config = experiment.config;
  switch (config.training.learning_rate.policy) {
    case Policy::random_winner:
      return choose_at_random(scores, config.training.seed, epoch);
    case Policy::always_one:
      return choose_unchanged(scores);
    default:
      return choose(scores, config.stpt.tie_rule, config.stpt.score_metric);
  }
}

void Trainer::Impl::choose_learning_rate(Session& session, Pretrain& pretrain, int epoch,
                                         std::span<const std::uint32_t> order,
                                         EpochRecord& result) {
  const StptConfig& config = experiment.config.stpt;
  const CandidateSet& set = candidates_at(config, epoch);
  const EpochPlan plan = experiment.schedule.plan(epoch);
  const std::int64_t replica_batch =
      std::int64_t{experiment.workers_per_replica(set.factors.size())} *
      experiment.config.training.batch_per_worker;
  result.candidate_set = set.name.empty() ? "custom" : set.name;
  for (int attempt = 0;; ++attempt) {
    const double base = progress.base_learning_rate;
    result.base_learning_rate = base;
    std::int64_t counted = 0;
    PretrainResult outcome = pretrain.run(epoch, base, set.factors, order, [&](int submitted, int) {
      count_samples((submitted - std::exchange(counted, submitted)) * replica_batch);
      show(epoch, "pre-train", base);
    });
    const auto choosing = Clock::now();
    const Choice choice = decide(outcome.scores, epoch);
    result.seconds_pretrain += outcome.seconds_train;
    result.seconds_score += outcome.seconds_score;
    result.seconds_choose += outcome.seconds_snapshot;
    result.choice_reason = choice.reason;

    result.candidates.clear();
    for (std::size_t k = 0; k < outcome.scores.size(); ++k) {
      const CandidateScore& score = outcome.scores[k];
      const Replica& replica = pretrain.replica(k);
      CandidateRecord& candidate = result.candidates.emplace_back();
      candidate.factor = score.factor;
      candidate.learning_rate = score.learning_rate;
      candidate.score_top1 = score.accuracy;
      candidate.score_loss = score.loss;
      candidate.diverged = score.diverged;
      candidate.winner = choice.winner == k;
      candidate.curve = curve_of(replica.steps, plan.first, 10, [&](std::int64_t iteration) {
        return experiment.schedule.at(iteration, score.learning_rate);
      });
      const auto steps = static_cast<std::int64_t>(replica.steps.size());
      if (candidate.winner && config.winner_progress == Progress::kept) {
        result.iterations += steps;
        result.samples_winner += steps * replica_batch;
      } else {
        result.iterations_discarded += steps;
        result.samples_discarded += steps * replica_batch;
      }
    }
    if (choice.winner) {
      if (config.winner_progress == Progress::kept)
        pretrain.hand_over(*choice.winner, set.factors.size());
      progress.chosen_learning_rate = outcome.scores[*choice.winner].learning_rate;
      progress.base_learning_rate =
          next_base(progress.chosen_learning_rate, base,
                    experiment.config.training.learning_rate.initial, config);
      session.runtime.wait_for_all();
      result.seconds_choose += seconds_since(choosing);
      return;
    }
    // The snapshot is session.current, which Pre-train has not touched.
    if (attempt == config.max_retries) {
      throw TrainingError("epoch " + std::to_string(epoch) + ": all " +
                          std::to_string(set.factors.size()) +
                          " candidates diverged, also after halving the base learning rate " +
                          std::to_string(attempt) + " times to " + format_learning_rate(base) +
                          "; start from a smaller training.learning_rate.initial");
    }
    ++result.retries;
    progress.base_learning_rate = base / 2;
  }
}

void Trainer::Impl::train_main(Session& session, int epoch, std::span<const std::uint32_t> order,
                               EpochRecord& result) {
  const EpochPlan plan = experiment.schedule.plan(epoch);
  const auto start = Clock::now();
  std::vector<StepResult> steps;
  std::atomic<std::int64_t> broken = -1;  // iteration whose loss was not finite
  TrainingLog log("main");
  log.on_step = [&](const StepResult& step) {
    if (!step.finite() && broken < 0)
      broken = plan.main_first + static_cast<std::int64_t>(steps.size());
    steps.push_back(step);
    const std::scoped_lock lock(latest_mutex);
    latest = step;
  };
  const std::string phase = result.phase == "warmup" ? "warm-up"
                            : result.phase == "stpt" ? "main-train"
                                                     : "train";
  for (std::int64_t iteration = plan.main_first; iteration < plan.end && broken < 0; ++iteration) {
    const runtime::IterationMark mark(iteration);
    const double rate = experiment.schedule.at(iteration, progress.chosen_learning_rate);
    const auto batches =
        session.load(order, iteration - plan.first, experiment.config.training.workers, epoch);
    session.data_parallel.step(*session.current, batches, static_cast<float>(rate), log);
    count_samples(experiment.global_batch());
    show(epoch, phase, rate);
  }
  session.runtime.wait_for_all();
  result.seconds_main = seconds_since(start);
  if (broken >= 0) {
    const double rate = experiment.schedule.at(broken, progress.chosen_learning_rate);
    throw TrainingError("epoch " + std::to_string(epoch) + ", iteration " +
                        std::to_string(broken - plan.first + 1) +
                        ": the training loss is not finite at learning rate " +
                        format_learning_rate(rate) +
                        "; start from a smaller training.learning_rate.initial");
  }
  result.iterations += plan.end - plan.main_first;
  result.samples_winner += (plan.end - plan.main_first) * experiment.global_batch();
  result.learning_rate = experiment.schedule.at(plan.end - 1, progress.chosen_learning_rate);
  result.curve = curve_of(steps, plan.main_first, 25, [&](std::int64_t iteration) {
    return experiment.schedule.at(iteration, progress.chosen_learning_rate);
  });
  for (const StepResult& step : steps) {
    result.train_loss += step.loss / static_cast<double>(steps.size());
    result.train_top1 += step.top1 / static_cast<double>(steps.size());
  }
}

void Trainer::Impl::test(Session& session, std::span<const std::uint32_t> order,
                         EpochRecord& result) {
  const auto start = Clock::now();
  EvaluatedModel model;
  model.state = session.current.get();
  if (session.averaged_running) {
    session.settle_running_statistics(*session.current, experiment.config.training.workers, order,
                                      session.averaged_running);
    model.running = &session.averaged_running;
  }
  const Evaluation evaluation = session.test.evaluate({&model, 1}).front();
  result.test_top1 = evaluation.top1();
  result.test_top5 = evaluation.top5();
  result.test_loss = evaluation.loss();
  result.seconds_test = seconds_since(start);
}

void Trainer::Impl::run_epoch(Session& session, Pretrain* pretrain, int epoch) {
  const auto start = Clock::now();
  epoch_training_start = seconds_since(started);
  samples_at_epoch_start = samples_done;
  EpochRecord result;
  result.epoch = epoch;
  result.base_learning_rate = progress.base_learning_rate;
  result.phase = experiment.schedule.pretrains(epoch)   ? "stpt"
                 : experiment.schedule.in_warmup(epoch) ? "warmup"
                                                        : "scheduled";
  const std::vector<std::uint32_t> order =
      experiment.sampler.order(static_cast<std::uint64_t>(epoch));
  if (result.phase == "stpt") choose_learning_rate(session, *pretrain, epoch, order, result);
  train_main(session, epoch, order, result);
  show(epoch, "test", result.learning_rate);
  test(session, order, result);
  result.seconds = seconds_since(start);
  result.images_per_second = static_cast<double>(result.samples_winner + result.samples_discarded) /
                             (result.seconds_pretrain + result.seconds_main);
  result.memory_bytes = runtime::resident_bytes();
  experiment.schedule.observe(epoch, result.test_top1);
  record.epochs.push_back(std::move(result));
}

std::string Trainer::Impl::digest(const Session& session) const {
  Sha256 hash;
  const auto add = [&](const float* values, std::int64_t count) {
    hash.update(std::as_bytes(std::span(values, static_cast<std::size_t>(count))));
  };
  const models::Network& network = experiment.network;
  for (const models::Parameter& parameter : network.parameters) {
    add(final_model.parameters[static_cast<std::size_t>(parameter.bucket)].data() +
            parameter.offset,
        parameter.shape.elements());
  }
  if (!session.averaged_running) return hash.hex_digest();
  const runtime::HostView running(session.averaged_running, runtime::Access::read);
  for (const models::Layer& layer : network.layers) {
    if (layer.kind != models::LayerKind::batch_norm) continue;
    const auto channels = network.activations[static_cast<std::size_t>(layer.output)].c;
    add(running.as<float>().data() + layer.running_mean, channels);
    add(running.as<float>().data() + layer.running_variance, channels);
  }
  return hash.hex_digest();
}

void Trainer::Impl::restore(Session& session) {
  const int workers = experiment.config.training.workers;
  if (progress.epoch == 0) {
    models::write(*session.current, models::ModelValues::initial(experiment.network, workers,
                                                                 experiment.config.training.seed));
    return;
  }
  models::write(*session.current, progress.model);
  experiment.schedule.restore(progress.plateau);
  for (const EpochRecord& epoch : record.epochs)
    samples_done += epoch.samples_winner + epoch.samples_discarded;
}

RunRecord Trainer::Impl::run(const TrainerObserver& run_observer,
                             const std::atomic<bool>* run_stop) {
  observer = &run_observer;
  stop = run_stop;
  started = Clock::now();
  samples_planned = planned_samples();
  record.status = "running";
  const double earlier_seconds = progress.wall_seconds;
  Session session(experiment);
  restore(session);
  std::optional<Pretrain> pretrain;
  if (experiment.pretrains()) pretrain.emplace(session, experiment.most_candidates());
  try {
    for (int epoch = progress.epoch + 1; epoch <= experiment.config.training.epochs; ++epoch) {
      run_epoch(session, pretrain ? &*pretrain : nullptr, epoch);
      record.wall_seconds = earlier_seconds + seconds_since(started);
      Checkpoint checkpoint = progress;
      checkpoint.epoch = epoch;
      checkpoint.plateau = experiment.schedule.plateau();
      checkpoint.wall_seconds = record.wall_seconds;
      const bool saves = experiment.config.runtime.checkpoint && run_observer.epoch_done;
      if (saves) checkpoint.model = models::read(*session.current);
      if (run_observer.epoch_done) run_observer.epoch_done(record, saves ? &checkpoint : nullptr);
    }
    record.status = "complete";
  } catch (const Stopped&) {
    session.runtime.wait_for_all();
    record.status = "stopped";
  }
  record.wall_seconds = earlier_seconds + seconds_since(started);
  final_model = models::read(*session.current);
  // Without an epoch there are no settled running statistics to take the digest of.
  if (record.status == "complete") record.model_digest = digest(session);
  return record;
}

Trainer::Trainer(const Config& config, const std::string& source)
    : impl_(std::make_unique<Impl>(config, source)) {}

Trainer::~Trainer() = default;

const RunRecord& Trainer::record() const { return impl_->record; }

void Trainer::resume(Checkpoint checkpoint, const RunRecord& record) {
  const Config& config = impl_->experiment.config;
  const auto fresh = models::ModelValues::initial(impl_->experiment.network,
                                                  config.training.workers, config.training.seed);
  const auto sizes_agree = [](const std::vector<std::vector<float>>& a,
                              const std::vector<std::vector<float>>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const auto& x, const auto& y) { return x.size() == y.size(); });
  };
  if (!sizes_agree(checkpoint.model.parameters, fresh.parameters) ||
      !sizes_agree(checkpoint.model.velocity, fresh.velocity) ||
      !sizes_agree(checkpoint.model.running, fresh.running)) {
    throw CheckpointError("checkpoint: its tensors are not those of model " + config.model.name +
                          " with " + std::to_string(config.training.workers) +
                          " workers; resume with the config it was made with");
  }
  if (checkpoint.epoch >= config.training.epochs) {
    throw CheckpointError("checkpoint: it has completed epoch " + std::to_string(checkpoint.epoch) +
                          " of " + std::to_string(config.training.epochs) +
                          "; to go on, set training.epochs to more");
  }
  const std::string device = impl_->record.device;
  impl_->record = record;
  impl_->record.device = device;
  impl_->record.status = "running";
  impl_->record.failure.clear();
  impl_->record.epochs_planned = config.training.epochs;
  auto& epochs = impl_->record.epochs;
  if (static_cast<int>(epochs.size()) > checkpoint.epoch)
    epochs.resize(static_cast<std::size_t>(checkpoint.epoch));
  impl_->progress = std::move(checkpoint);
}

RunRecord Trainer::run(const TrainerObserver& observer, const std::atomic<bool>* stop) {
  return impl_->run(observer, stop);
}

const models::ModelValues& Trainer::model() const { return impl_->final_model; }

}  // namespace stpt
