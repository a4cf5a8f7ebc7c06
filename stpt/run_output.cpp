#include "stpt/run_output.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <system_error>
#include <utility>

#include "stpt/files/checkpoint.hpp"
#include "stpt/messages.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;

std::string percent(double share) { return format("%.2f %%", 100 * share); }

/// "runs/quickstart: test accuracy 91.20 % (best 91.35 % in epoch 9), ..."
std::string result_line(const RunRecord& run, const RunDirectory& directory) {
  std::string line = directory.path().string() + ": ";
  const std::string done = std::to_string(run.epochs.size());
  if (run.status == "stopped") {
    line += "stopped after " + done + " of " + std::to_string(run.epochs_planned) + " epochs; ";
  }
  if (!run.epochs.empty()) {
    const EpochRecord& last = run.epochs.back();
    const EpochRecord& best = *std::ranges::max_element(run.epochs, {}, &EpochRecord::test_top1);
    line += "test accuracy " + percent(last.test_top1) + " (best " + percent(best.test_top1) +
            " in epoch " + std::to_string(best.epoch) + "), final learning rate " +
            format_learning_rate(last.learning_rate) + ", ";
  }
  line += format_duration(run.wall_seconds) + "; report: " + directory.file(report_name).string();
  std::error_code ignored;
  if (run.status == "stopped" &&
      (run.epochs.empty() || fs::exists(directory.file(checkpoint_name), ignored))) {
    line += "; go on: stpt_starpu --resume " + directory.path().string();
  }
  return line + "\n";
}

void write_results(const RunDirectory& directory, const RunRecord& run) {
  directory.write_summary(run);
  directory.write_report(run);
}

/// Keeps what there is; it is the first failure that a person has to know of.
void write_failure(const RunDirectory& directory, RunRecord run, const std::string& failure) {
  run.status = "failed";
  run.failure = failure;
  try {
    write_results(directory, run);
  } catch (const std::exception&) {
    // The disk is full, most likely: that is what `failure` says.
  }
}

}  // namespace

std::string unreadable_line(const std::vector<std::string>& images) {
  constexpr std::size_t shown = 3;
  std::string line = std::to_string(images.size()) + (images.size() == 1 ? " image" : " images") +
                     " cannot be read; others of the class stand in: ";
  for (std::size_t i = 0; i < std::min(shown, images.size()); ++i) {
    line += (i == 0 ? "" : "; ") + one_line(images[i]);
  }
  if (images.size() > shown) line += "; and " + std::to_string(images.size() - shown) + " more";
  return line;
}

RunOutput::RunOutput(RunDirectory& directory, const RunRecord& start, std::string version,
                     std::vector<RankRecord> ranks)
    : directory_(directory),
      version_(std::move(version)),
      ranks_(std::move(ranks)),
      earlier_seconds_(start.wall_seconds),
      last_(stamped(start)),
      progress_(std::cerr, isatty(STDERR_FILENO) == 1) {}

void RunOutput::begin(std::span<const std::string> notices) {
  const std::scoped_lock lock(mutex_);
  if (failed_) return;
  for (const std::string& notice : notices) progress_.message(notice);
  if (!directory_.locked()) {
    progress_.message(directory_.path().string() +
                      ": the file system has no locks; see to it that no other process writes "
                      "there");
  }
  directory_.begin_metrics(last_);
  write_results(directory_, last_);
  progress_.message("writing to " + directory_.path().string() + "; watch " +
                    directory_.file(report_name).string());
}

TrainerObserver RunOutput::observer() {
  TrainerObserver observer;
  observer.progress = [this](const ProgressState& state) {
    const std::scoped_lock lock(mutex_);
    if (!failed_) progress_.update(state);
  };
  observer.epoch_done = [this](const RunRecord& run, const Checkpoint* checkpoint) {
    const std::scoped_lock lock(mutex_);
    if (failed_) return;
    last_ = stamped(run);
    // The checkpoint comes after the line in the metrics: to resume needs both.
    directory_.append_epoch(last_.epochs.back());
    if (checkpoint != nullptr) save_checkpoint(directory_.file(checkpoint_name), *checkpoint);
    write_results(directory_, last_);
    progress_.epoch_done(last_.epochs.back());
  };
  return observer;
}

void RunOutput::name_unreadable(const std::vector<std::string>& images) {
  const std::scoped_lock lock(mutex_);
  if (images.size() > named_) progress_.message(unreadable_line(images));
  named_ = images.size();
}

bool RunOutput::finish(const RunRecord& run) {
  const std::scoped_lock lock(mutex_);
  if (failed_) return false;
  progress_.finish();
  write_results(directory_, stamped(run));
  finished_ = true;
  return true;
}

void RunOutput::print_result(const RunRecord& run) const { print(result_line(run, directory_)); }

void RunOutput::fail(const std::string& failure) {
  const std::scoped_lock lock(mutex_);
  if (std::exchange(failed_, true)) return;
  progress_.finish();
  // All is done and written, whatever fails as the process ends.
  if (finished_) return print_error(failure);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  RunRecord run = last_;
  run.wall_seconds = earlier_seconds_ + elapsed.count();
  write_failure(directory_, std::move(run), failure);
  print_error(failure);
}

RunRecord RunOutput::stamped(RunRecord run) const {
  run.version = version_;
  run.ranks = ranks_;
  return run;
}

}  // namespace stpt
