// Runs a whole training: epochs of Pre-train, Choose and Main-train (paper 2.1, algorithm 1) or of
// a baseline.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "stpt/config/config.hpp"
#include "stpt/experiment.hpp"
#include "stpt/files/checkpoint.hpp"
#include "stpt/files/record.hpp"
#include "stpt/progress.hpp"

namespace stpt {

/// Training cannot go on, though every task did its work: all candidates diverged, or the loss is
/// not finite.
class TrainingError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What the trainer tells while it runs. Any of them may be empty. Over several ranks only rank 0
/// knows curves and the model; the others' are told nothing worth writing.
struct TrainerObserver {
  std::function<void(const ProgressState&)> progress;
  /// After each epoch, with the checkpoint if the config wants one; `run` includes the epoch.
  std::function<void(const RunRecord& run, const Checkpoint* checkpoint)> epoch_done;
  /// Over several ranks: this rank cannot go on. It must end the job, as tasks wait for messages
  /// that will never come: it does not return.
  std::function<void(const std::exception& error)> abandon;
};

class Trainer {
 public:
  /// Reads the data, builds the network and allocates nothing else. Throws ConfigError,
  /// data::DataError. `source` names the run file in errors.
  explicit Trainer(const Config& config, const ConfigSource& source = {});
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  [[nodiscard]] const Experiment& experiment() const;
  /// What is known before the first epoch.
  [[nodiscard]] const RunRecord& record() const;

  /// Goes on after this checkpoint (over several ranks: rank 0's; the others get it from there);
  /// `record` is the run's until then. Throws CheckpointError if they do not fit, data::DataError
  /// if the data are others.
  void resume(Checkpoint checkpoint, const RunRecord& record);
  /// Trains to the end or until `stop` is set on any rank (then status is "stopped"). Throws
  /// runtime::TaskError, TrainingError. All ranks of the job call it.
  RunRecord run(const TrainerObserver& observer, const std::atomic<bool>* stop = nullptr);

  /// data::Dataset::unreadable() of the training and the test images, as far as this rank met them.
  [[nodiscard]] std::vector<std::string> unreadable_images() const;

  /// The model after a complete run(): parameters, moments, running statistics. For tests and
  /// tools. Rank 0 only.
  [[nodiscard]] const models::ModelValues& model() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stpt
