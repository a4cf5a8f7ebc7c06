// Counts a run's training samples, for the person who waits: how many are done and planned, and how
// fast they go.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>

#include "stpt/data_parallel.hpp"
#include "stpt/experiment.hpp"
#include "stpt/progress.hpp"

namespace stpt {

/// Losers' samples count as any others.
class SampleMeter {
 public:
  /// Starts the clock. The experiment must outlive this.
  explicit SampleMeter(const Experiment& experiment) : experiment_(experiment) {}

  /// Seconds since this was made.
  [[nodiscard]] double elapsed() const;

  /// All of this epoch and of those behind it is to be done, besides what is done already.
  void plan_from(int epoch);
  /// The speed is that since here.
  void begin_epoch();
  /// Submitted, or done by a process before this one.
  void add(std::int64_t samples) { done_ += samples; }
  /// Planned, but of a candidate that is out.
  void drop(std::int64_t samples) { dropped_ += samples; }
  /// Any thread may call it.
  void step_done(const StepResult& step);

  /// With what is known here: done, planned, elapsed, images_per_second and train_top1.
  [[nodiscard]] ProgressState state() const;

 private:
  using Clock = std::chrono::steady_clock;

  const Experiment& experiment_;
  Clock::time_point start_ = Clock::now();
  double epoch_start_ = 0;  ///< of elapsed()
  std::int64_t done_ = 0, planned_ = 0, dropped_ = 0, done_before_epoch_ = 0;
  mutable std::mutex mutex_;
  std::optional<double> train_top1_;  ///< of the latest step
};

}  // namespace stpt
