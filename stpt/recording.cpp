#include "stpt/recording.hpp"

#include <algorithm>
#include <array>
#include <ctime>
#include <limits>
#include <string>

#include "runtime/cluster.hpp"
#include "runtime/machine.hpp"
#include "stpt/config/config_names.hpp"
#include "stpt/config/json_text.hpp"

namespace stpt {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm fields{};
  gmtime_r(&now, &fields);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &fields);
  return text.data();
}

}  // namespace

RunRecord new_record(const Experiment& experiment) {
  const Config& config = experiment.config;
  RunRecord record;
  record.name = config.name;
  record.model = experiment.network.name;
  record.dataset = experiment.data.name;
  record.started = utc_now();
  record.policy = enum_name(config.training.learning_rate.policy);
  record.optimizer = enum_name(config.training.optimizer.name);
  record.parameters = experiment.network.parameter_count();
  record.flops_per_image = experiment.network.flops_per_image();
  const runtime::Shape input = experiment.network.input();
  record.channels = static_cast<int>(input.c);
  record.height = static_cast<int>(input.h);
  record.width = static_cast<int>(input.w);
  record.classes = experiment.network.classes;
  for (const std::string& class_name : experiment.data.class_names)
    record.class_names.push_back(utf8_text(class_name));
  record.training_images = static_cast<std::int64_t>(experiment.split.training.size());
  record.hold_out_images = static_cast<std::int64_t>(experiment.split.hold_out.size());
  record.test_images = static_cast<std::int64_t>(experiment.data.test->size());
  record.workers = config.training.workers;
  record.batch_per_worker = config.training.batch_per_worker;
  record.iterations_per_epoch = experiment.iterations_per_epoch;
  record.epochs_planned = config.training.epochs;
  record.alpha = experiment.pretrains() ? config.stpt.alpha : 0;
  record.initial_learning_rate = config.training.learning_rate.initial;
  if (experiment.pretrains()) {
    record.score = enum_name(config.stpt.score);
    record.score_metric = enum_name(config.stpt.score_metric);
  }
  const runtime::Machine machine = runtime::Machine::detect();
  const std::string gpus = experiment.gpu_choice.to_string();
  record.device = (gpus.empty() ? "" : gpus + "; ") + machine.to_string();
  record.status = "running";
  return record;
}

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

void set_training(std::span<const StepResult> steps, EpochRecord& record) {
  record.train_loss = record.train_top1 = 0;
  for (const StepResult& step : steps) {
    record.train_loss += step.loss / static_cast<double>(steps.size());
    record.train_top1 += step.top1 / static_cast<double>(steps.size());
  }
}

void record_candidates(const Experiment& experiment, const PretrainResult& outcome,
                       const Choice& choice, EpochRecord& result) {
  const StptConfig& config = experiment.config.stpt;
  const std::int64_t replica_batch = experiment.replica_batch(outcome.scores.size());
  result.choice_reason = choice.reason;
  result.candidates.clear();
  for (std::size_t k = 0; k < outcome.scores.size(); ++k) {
    const CandidateScore& score = outcome.scores[k];
    CandidateRecord& candidate = result.candidates.emplace_back();
    candidate.factor = score.factor;
    candidate.learning_rate = score.learning_rate;
    constexpr double none = std::numeric_limits<double>::quiet_NaN();  // null in metrics.jsonl
    candidate.score_top1 = score.diverged ? none : score.accuracy;
    candidate.score_loss = score.diverged ? none : score.loss;
    candidate.diverged = score.diverged;
    candidate.winner = choice.winner == k;
    const double trained_with = pretrain_learning_rate(
        result.base_learning_rate, score.factor, config, replica_batch, experiment.global_batch());
    candidate.curve = curve_of(
        outcome.steps[k], experiment.schedule.plan(result.epoch).first, 10,
        [&](std::int64_t iteration) { return experiment.schedule.at(iteration, trained_with); });
    const std::int64_t steps = std::ssize(outcome.steps[k]);
    if (candidate.winner && config.winner_progress == Progress::kept) {
      result.iterations += steps;
      result.samples_winner += steps * replica_batch;
    } else {
      result.iterations_discarded += steps;
      result.samples_discarded += steps * replica_batch;
    }
  }
}

void record_traffic(const Session& session, const runtime::Traffic& before, double busy_before,
                    EpochRecord& result) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  if (cluster.size() == 1) return;
  const runtime::Traffic now = runtime::traffic();
  // A GPU's task has been enqueued, not computed, when it returns.
  const double busy =
      session.experiment.gpu_choice.gpus.empty() ? session.runtime.busy_seconds() - busy_before : 0;
  struct Spent {
    std::int64_t bytes, messages;
    double busy;
  };
  const Spent mine{now.bytes_sent - before.bytes_sent, now.messages_sent - before.messages_sent,
                   busy / static_cast<double>(session.runtime.workers().size())};
  for (const auto& rank : cluster.gather(std::vector{mine})) {
    result.bytes_sent += rank.front().bytes;
    result.messages_sent += rank.front().messages;
    result.seconds_busy += rank.front().busy / cluster.size();
  }
}

}  // namespace stpt
