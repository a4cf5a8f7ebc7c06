#include "stpt/learning_rate.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace stpt {
namespace {

/// How much of [first, end) lies before `iteration`, in [0, 1].
double elapsed(std::int64_t iteration, std::int64_t first, std::int64_t end) {
  if (iteration <= first) return 0;
  if (iteration >= end) return 1;
  return static_cast<double>(iteration - first) / static_cast<double>(end - first);
}

double linear_to_zero(double elapsed) { return 1 - elapsed; }

/// (1 + cos(pi x)) / 2 as a square, which keeps its digits where it approaches 0.
double cosine_to_zero(double elapsed) {
  if (elapsed >= 1) return 0;
  const double root = std::cos(std::numbers::pi / 2 * elapsed);
  return root * root;
}

}  // namespace

double next_base(double chosen_learning_rate, double previous_base, double initial,
                 const StptConfig& config) {
  switch (config.drift_limit) {
    case DriftLimit::clamp:
      return std::clamp(chosen_learning_rate, initial * config.clamp_low,
                        initial * config.clamp_high);
    case DriftLimit::anchor:
      return initial;
    case DriftLimit::ratio_cap:
      return std::clamp(chosen_learning_rate, previous_base / config.ratio_cap,
                        previous_base * config.ratio_cap);
  }
  throw std::invalid_argument("next_base: unknown drift limit");
}

double pretrain_learning_rate(double base, double factor, const StptConfig& config,
                              std::int64_t group_batch, std::int64_t global_batch) {
  const double effective = base * factor;
  if (config.pretrain_batch == PretrainBatch::global) return effective;
  const double ratio = static_cast<double>(group_batch) / static_cast<double>(global_batch);
  switch (config.lr_scaling) {
    case LrScaling::none:
      return effective;
    case LrScaling::linear:
      return effective * ratio;
    case LrScaling::square_root:
      return effective * std::sqrt(ratio);
  }
  throw std::invalid_argument("pretrain_learning_rate: unknown scaling");
}

LearningRateSchedule::LearningRateSchedule(const TrainingConfig& training, const StptConfig& stpt,
                                           std::int64_t iterations_per_epoch)
    : rate_(training.learning_rate),
      alpha_(stpt.alpha),
      progress_(stpt.winner_progress),
      pretrain_during_warmup_(stpt.pretrain_during_warmup),
      iterations_per_epoch_(iterations_per_epoch),
      iterations_(training.epochs * iterations_per_epoch),
      warmup_iterations_(rate_.warmup.epochs * iterations_per_epoch),
      anneal_start_(iterations_) {
  if (iterations_per_epoch < 1) {
    throw std::invalid_argument("training.batch_per_worker: an epoch has no full batch");
  }
  if (chooses(rate_.policy) && alpha_ > iterations_per_epoch) {
    throw std::invalid_argument("stpt.alpha: " + std::to_string(alpha_) + " exceeds the " +
                                std::to_string(iterations_per_epoch) + " iterations of an epoch");
  }
  if (rate_.anneal.form == AnnealForm::none) return;
  if (rate_.policy == Policy::cosine || rate_.policy == Policy::linear) {
    throw std::invalid_argument(
        "training.learning_rate.anneal.form: policies cosine and linear go to 0 by themselves and "
        "need none");
  }
  const std::int64_t after_warmup = std::max<std::int64_t>(iterations_ - warmup_iterations_, 0);
  const double annealed = rate_.anneal.fraction * static_cast<double>(after_warmup);
  // Of few iterations one is left: an epoch to choose in.
  const std::int64_t most = rate_.anneal.fraction < 1 ? after_warmup - 1 : after_warmup;
  anneal_start_ -= std::min<std::int64_t>(std::llround(annealed), std::max<std::int64_t>(most, 0));
}

double LearningRateSchedule::factor(std::int64_t iteration) const {
  return warmup_factor(iteration) * policy_factor(iteration) * anneal_factor(iteration);
}

double LearningRateSchedule::warmup_factor(std::int64_t iteration) const {
  if (iteration >= warmup_iterations_) return 1;
  const double start = rate_.warmup.start / rate_.initial;
  if (rate_.warmup.form == WarmupForm::constant) return start;
  return start + (1 - start) * elapsed(iteration, 0, warmup_iterations_);
}

double LearningRateSchedule::policy_factor(std::int64_t iteration) const {
  switch (rate_.policy) {
    case Policy::step: {
      const std::int64_t epoch = 1 + iteration / iterations_per_epoch_;
      const auto passed = std::ranges::count_if(
          rate_.milestones, [epoch](int milestone) { return milestone <= epoch; });
      return std::pow(rate_.decay_factor, static_cast<double>(passed));
    }
    case Policy::plateau:
      return std::pow(rate_.decay_factor, plateau_.decays);
    case Policy::cosine:
      return cosine_to_zero(elapsed(iteration, warmup_iterations_, iterations_));
    case Policy::linear:
      return linear_to_zero(elapsed(iteration, warmup_iterations_, iterations_));
    case Policy::stpt:
    case Policy::fixed:
    case Policy::random_winner:
    case Policy::always_one:
      break;
  }
  return 1;
}

double LearningRateSchedule::anneal_factor(std::int64_t iteration) const {
  switch (rate_.anneal.form) {
    case AnnealForm::linear:
      return linear_to_zero(elapsed(iteration, anneal_start_, iterations_));
    case AnnealForm::cosine:
      return cosine_to_zero(elapsed(iteration, anneal_start_, iterations_));
    case AnnealForm::none:
      break;
  }
  return 1;
}

bool LearningRateSchedule::pretrains(int epoch) const {
  return chooses(rate_.policy) && (!in_warmup(epoch) || pretrain_during_warmup_) &&
         (epoch - 1) * iterations_per_epoch_ < anneal_start_;
}

EpochPlan LearningRateSchedule::plan(int epoch) const {
  EpochPlan plan;
  plan.first = (epoch - 1) * iterations_per_epoch_;
  plan.pretrain = pretrains(epoch) ? alpha_ : 0;
  plan.main_first = progress_ == Progress::kept ? plan.first + plan.pretrain : plan.first;
  plan.end = plan.first + iterations_per_epoch_;
  return plan;
}

void LearningRateSchedule::observe(int epoch, double top1) {
  if (rate_.policy != Policy::plateau) return;
  if (top1 > plateau_.best_top1) {
    plateau_.best_top1 = top1;
    plateau_.stale_epochs = 0;
  } else if (!in_warmup(epoch) && ++plateau_.stale_epochs >= rate_.patience) {
    ++plateau_.decays;
    plateau_.stale_epochs = 0;
  }
}

}  // namespace stpt
