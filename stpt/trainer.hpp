// Runs a whole training: epochs of Pre-train, Choose and Main-train (paper 2.1, algorithm 1) or of
// a baseline.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "stpt/checkpoint.hpp"
#include "stpt/config.hpp"
#include "stpt/progress.hpp"
#include "stpt/record.hpp"

namespace stpt {

/// Training cannot go on, though every task did its work: all candidates diverged, or the loss is
/// not finite.
class TrainingError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What the trainer tells while it runs. Any of them may be empty.
struct TrainerObserver {
  std::function<void(const ProgressState&)> progress;
  /// After each epoch, with the checkpoint if the config wants one; `run` includes the epoch.
  std::function<void(const RunRecord& run, const Checkpoint* checkpoint)> epoch_done;
};

class Trainer {
 public:
  /// Reads the data, builds the network and allocates nothing else. Throws ConfigError,
  /// data::DataError. `source` names the run file in errors.
  explicit Trainer(const Config& config, const std::string& source = "");
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// What is known before the first epoch.
  [[nodiscard]] const RunRecord& record() const;

  /// Goes on after this checkpoint; `record` is the run's until then. Throws CheckpointError if
  /// they do not fit.
  void resume(Checkpoint checkpoint, const RunRecord& record);

  /// Trains to the end or until `stop` is set (then status is "stopped"). Throws
  /// runtime::TaskError, TrainingError.
  RunRecord run(const TrainerObserver& observer, const std::atomic<bool>* stop = nullptr);

  /// The model after run(): parameters, velocity, running statistics. For tests and tools.
  [[nodiscard]] const models::ModelValues& model() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stpt
