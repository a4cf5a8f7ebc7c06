#include "stpt/tester.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "data/dataset.hpp"
#include "models/averages.hpp"
#include "runtime/cluster.hpp"
#include "stpt/session.hpp"
#include "stpt/whole_model.hpp"

namespace stpt {
namespace {

/// What a test takes of a training: neither its workers, which may be those of many machines, nor
/// what it asks of the training images.
Config without_training(Config config) {
  config.training.workers = runtime::Cluster::current().size();
  config.training.learning_rate.policy = Policy::fixed;
  config.stpt.alpha = 0;
  config.stpt.running_statistics = RunningStatistics::winner;
  return config;
}

Config without_weights(Config config) {
  config.model.weights.clear();  // the checkpoint has them
  config.model.new_layers.clear();
  config.data.hold_out = 0;  // and the normalization
  return config;
}

}  // namespace

Tester::Tester(const Config& config, const ConfigSource& source)
    : experiment_(without_training(config), source), model_(experiment_.initial_values()) {}

Tester::Tester(const Config& config, const ConfigSource& source, Checkpoint checkpoint, int classes)
    : experiment_(without_training(without_weights(config)), source) {
  if (experiment_.network.classes != classes) {
    throw data::DataError(experiment_.data.name + ": has " +
                          std::to_string(experiment_.network.classes) +
                          " classes; must have as many as the run, " + std::to_string(classes));
  }
  check_made_with(checkpoint, config);
  arrange_model(checkpoint, experiment_.network, config.training.workers,
                optimizer_settings(config.training.optimizer).rule);
  model_ = std::move(checkpoint.model);
  if (experiment_.network.has_batch_norm()) {
    const auto workers = static_cast<std::size_t>(experiment_.config.training.workers);
    model_.running.assign(workers, models::average_running(model_));
  }
  experiment_.normalization = checkpoint.normalization;
}

TestResult Tester::test(const std::function<void(const std::exception& error)>& abandon) {
  try {
    Session session(experiment_);
    place_model(session, model_);
    EvaluatedModel model;
    model.parameters = &session.current->parameters;
    if (session.averaged_running) {
      const runtime::HostView running(session.averaged_running, runtime::Access::write);
      std::ranges::copy(model_.running.front(), running.as<float>().begin());
      model.running = &session.averaged_running;
    }
    return session.test.evaluate_on_all_ranks(model);
  } catch (const std::exception& error) {
    if (runtime::Cluster::current().size() > 1) abandon(error);
    throw;
  }
}

}  // namespace stpt
