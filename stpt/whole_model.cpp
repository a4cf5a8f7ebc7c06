#include "stpt/whole_model.hpp"

#include <optional>
#include <span>

#include "models/transfer.hpp"
#include "runtime/cluster.hpp"
#include "stpt/files/sha256.hpp"

namespace stpt {
namespace {

/// One rank's team that has all workers.
models::Placement whole_placement(const Experiment& experiment) {
  return {experiment.network, {0, 1, experiment.config.training.workers}};
}

}  // namespace

models::ModelValues collect_model(Session& session) {
  const runtime::Cluster& cluster = runtime::Cluster::current();
  if (cluster.size() == 1) return models::read(*session.current);
  const models::Placement whole = whole_placement(session.experiment);
  std::optional<models::ModelState> state;
  if (cluster.rank() == 0)
    state.emplace(session.experiment.network, whole.team, "collected", session.optimizer.rule());
  models::transfer(session.current.get(), session.current->placement, state ? &*state : nullptr,
                   whole, 0);
  session.runtime.wait_for_all();
  return state ? models::read(*state) : models::ModelValues{};
}

void place_model(Session& session, const models::ModelValues& values) {
  const runtime::Cluster& cluster = runtime::Cluster::current();
  if (cluster.size() == 1) return models::write(*session.current, values);
  const models::Placement whole = whole_placement(session.experiment);
  std::optional<models::ModelState> state;
  if (cluster.rank() == 0) {
    state.emplace(session.experiment.network, whole.team, "placed", session.optimizer.rule());
    models::write(*state, values);
  }
  models::transfer(state ? &*state : nullptr, whole, session.current.get(),
                   session.current->placement, 0);
  session.runtime.wait_for_all();
}

std::string digest_of(const models::ModelValues& model, const Session& session) {
  Sha256 hash;
  const auto add = [&](const float* values, std::int64_t count) {
    hash.update(std::as_bytes(std::span(values, static_cast<std::size_t>(count))));
  };
  const models::Network& network = session.experiment.network;
  for (const models::Parameter& parameter : network.parameters) {
    add(model.parameters[static_cast<std::size_t>(parameter.bucket)].data() + parameter.offset,
        parameter.shape.elements());
  }
  if (!session.averaged_running) return hash.hex_digest();
  const runtime::HostView running(session.averaged_running, runtime::Access::read);
  for (const models::Layer& layer : network.layers) {
    if (layer.kind != models::LayerKind::batch_norm) continue;
    const auto channels = network.shape(layer.output).c;
    add(running.as<float>().data() + layer.running_mean, channels);
    add(running.as<float>().data() + layer.running_variance, channels);
  }
  return hash.hex_digest();
}

}  // namespace stpt
