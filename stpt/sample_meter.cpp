#include "stpt/sample_meter.hpp"

#include "stpt/config/lr_sets.hpp"

namespace stpt {

double SampleMeter::elapsed() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void SampleMeter::plan_from(int epoch) {
  const StptConfig& stpt = experiment_.config.stpt;
  dropped_ = 0;
  planned_ = done_;
  for (; epoch <= experiment_.config.training.epochs; ++epoch) {
    const EpochPlan plan = experiment_.schedule.plan(epoch);
    planned_ += (plan.end - plan.main_first) * experiment_.global_batch();
    if (!experiment_.schedule.pretrains(epoch)) continue;
    const std::size_t candidates = candidates_at(stpt, epoch).factors.size();
    planned_ +=
        static_cast<std::int64_t>(candidates) * stpt.alpha * experiment_.replica_batch(candidates);
  }
}

void SampleMeter::begin_epoch() {
  epoch_start_ = elapsed();
  done_before_epoch_ = done_;
}

void SampleMeter::step_done(const StepResult& step) {
  const std::scoped_lock lock(mutex_);
  train_top1_ = step.top1;
}

ProgressState SampleMeter::state() const {
  ProgressState state;
  state.done = done_;
  state.planned = planned_ - dropped_;
  state.elapsed = elapsed();
  const double seconds = state.elapsed - epoch_start_;
  if (seconds > 0.5)  // the first steps say little
    state.images_per_second = static_cast<double>(done_ - done_before_epoch_) / seconds;
  const std::scoped_lock lock(mutex_);
  state.train_top1 = train_top1_;
  return state;
}

}  // namespace stpt
