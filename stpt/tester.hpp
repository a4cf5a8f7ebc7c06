// Tests a model on the test images without training it.
#pragma once

#include <exception>
#include <functional>

#include "models/model_state.hpp"
#include "stpt/config/config.hpp"
#include "stpt/evaluator.hpp"
#include "stpt/experiment.hpp"
#include "stpt/files/checkpoint.hpp"

namespace stpt {

class Tester {
 public:
  /// Of the model that a training by `config` would begin with. Throws as Experiment does.
  Tester(const Config& config, const ConfigSource& source);

  /// Of the checkpoint's model, on the images of `config`, the run's but for where its data lie:
  /// maybe other data of as many `classes`, which are normalised as the run's. Throws
  /// CheckpointError, data::DataError, and as Experiment does.
  Tester(const Config& config, const ConfigSource& source, Checkpoint checkpoint, int classes);

  [[nodiscard]] const Experiment& experiment() const { return experiment_; }

  /// Throws runtime::TaskError, std::runtime_error; over several ranks `abandon`, which must end
  /// the job, is called before: other ranks wait for this one. All ranks of the job call it.
  [[nodiscard]] TestResult test(const std::function<void(const std::exception& error)>& abandon);

 private:
  Experiment experiment_;  ///< with a worker on each rank, and nothing to choose
  models::ModelValues model_;
};

}  // namespace stpt
