// The learning rate at every iteration: a base, which STPT chooses or the config gives, times what
// is scheduled. Epochs count from 1, iterations from 0; an epoch is alpha Pre-train plus beta
// Main-train iterations of the surviving model (paper 2.1), whether or not it pre-trains.
#pragma once

#include <cstdint>

#include "stpt/config/config.hpp"

namespace stpt {

/// The base that the next epoch's candidates multiply (paper 2.1: the chosen LR), kept from
/// drifting:
///   clamp      within [clamp_low, clamp_high] times the initial LR;
///   anchor     always the initial LR: candidates are absolute, LRs do not compound;
///   ratio_cap  within [1/ratio_cap, ratio_cap] times `previous_base`, the base that this epoch's
///              candidates multiplied (after halving, if all had diverged).
/// It limits where candidates start from, not the chosen LR: that one is what Main-train runs with,
/// and what later epochs without Pre-train go on with.
[[nodiscard]] double next_base(double chosen_learning_rate, double previous_base, double initial,
                               const StptConfig& config);

/// The LR with which a replica pre-trains: base * factor, scaled to the batch that it sees when
/// that is the worker's. `group_batch`: images per iteration of the replica, `global_batch`: of
/// Main-train. The effective LR that is chosen stays base * factor.
[[nodiscard]] double pretrain_learning_rate(double base, double factor, const StptConfig& config,
                                            std::int64_t group_batch, std::int64_t global_batch);

/// All that policy plateau remembers, for checkpoints.
struct PlateauState {
  double best_top1 = -1;  ///< before the first observation
  int stale_epochs = 0;   ///< since there was a better one
  int decays = 0;
  bool operator==(const PlateauState&) const = default;
};

/// Iterations of the surviving model in one epoch.
struct EpochPlan {
  std::int64_t first = 0;       ///< of the epoch; Pre-train's first, if there is one
  std::int64_t pretrain = 0;    ///< alpha, or 0
  std::int64_t main_first = 0;  ///< first + pretrain; first if the winner's progress is discarded
  std::int64_t end = 0;         ///< one past the last: the next epoch's first
  bool operator==(const EpochPlan&) const = default;
};

/// Everything about the LR that STPT does not choose, as a factor of the base LR:
/// warm-up * policy * final anneal. Outside of these the factor is exactly 1.
///
/// Warm-up: `start` at iteration 0 to `initial` at the first iteration after it (linear), or
/// `start` throughout (constant), both taken relative to `initial`; with Pre-train during warm-up,
/// candidates ride on the ramp.
/// Policies: fixed, stpt and its controls 1; step times decay_factor from each milestone's epoch
/// on; plateau times decay_factor per observed plateau; cosine and linear from 1 after warm-up to
/// 0. Anneal: 1 at its first iteration to 0, for every policy but cosine and linear, which are
/// refused with one because they go to 0 by themselves.
/// What goes to 0 would arrive at the iteration after the last: each iteration has an LR above 0.
class LearningRateSchedule {
 public:
  /// Throws std::invalid_argument, naming the key, for settings that cannot be scheduled
  /// (alpha above the iterations of an epoch, anneal with cosine or linear).
  LearningRateSchedule(const TrainingConfig& training, const StptConfig& stpt,
                       std::int64_t iterations_per_epoch);

  /// `base`: for STPT the LR last chosen or a candidate's, before that and for other policies the
  /// initial LR.
  [[nodiscard]] double at(std::int64_t iteration, double base) const {
    return base * factor(iteration);
  }
  [[nodiscard]] double factor(std::int64_t iteration) const;

  [[nodiscard]] bool in_warmup(int epoch) const { return epoch <= rate_.warmup.epochs; }

  /// Whether the epoch begins with Pre-train: a policy that does, not in warm-up (unless
  /// pretrain_during_warmup), and not in an epoch that begins within the anneal, where a choice
  /// would fight it.
  [[nodiscard]] bool pretrains(int epoch) const;
  [[nodiscard]] EpochPlan plan(int epoch) const;

  [[nodiscard]] std::int64_t iterations() const { return iterations_; }
  /// First iteration of the final anneal; iterations() without one.
  [[nodiscard]] std::int64_t anneal_start() const { return anneal_start_; }
  [[nodiscard]] double anneal_factor(std::int64_t iteration) const;

  /// Top-1 at the end of `epoch`, for policy plateau (others ignore it). Epochs of the warm-up set
  /// the mark but do not count as stale.
  void observe(int epoch, double top1);
  [[nodiscard]] const PlateauState& plateau() const { return plateau_; }
  void restore(const PlateauState& state) { plateau_ = state; }

 private:
  [[nodiscard]] double warmup_factor(std::int64_t iteration) const;
  [[nodiscard]] double policy_factor(std::int64_t iteration) const;

  LearningRateConfig rate_;
  int alpha_;
  Progress progress_;
  bool pretrain_during_warmup_;
  std::int64_t iterations_per_epoch_, iterations_, warmup_iterations_, anneal_start_;
  PlateauState plateau_;
};

}  // namespace stpt
