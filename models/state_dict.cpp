#include "models/state_dict.hpp"

#include <numeric>

namespace stpt::models {

std::size_t StateEntry::elements() const {
  return static_cast<std::size_t>(
      std::accumulate(dimensions.begin(), dimensions.end(), std::int64_t{1}, std::multiplies<>()));
}

std::span<const float> StateEntry::in(const ModelValues& values, std::size_t worker) const {
  const std::span<const float> array =
      running ? values.running.at(worker) : values.parameters.at(bucket);
  return array.subspan(offset, elements());
}

std::span<float> StateEntry::in(ModelValues& values, std::size_t worker) const {
  const std::span<float> array = running ? values.running.at(worker) : values.parameters.at(bucket);
  return array.subspan(offset, elements());
}

std::vector<StateEntry> state_dict(const Network& network) {
  std::vector<StateEntry> entries;
  const auto add_parameter = [&](int index) {
    const Parameter& parameter = network.parameter(index);
    entries.push_back({parameter.name, parameter.dimensions, false,
                       static_cast<std::size_t>(parameter.bucket), parameter.offset});
  };
  for (const Layer& layer : network.layers) {
    if (layer.weight < 0) continue;
    add_parameter(layer.weight);
    if (layer.bias >= 0) add_parameter(layer.bias);
    if (layer.kind != LayerKind::batch_norm) continue;
    const std::int64_t channels = network.shape(layer.output).c;
    const auto add_running = [&](const char* name, int offset) {
      entries.push_back({layer.name + name, {channels}, true, 0, static_cast<std::size_t>(offset)});
    };
    add_running(".running_mean", layer.running_mean);
    add_running(".running_var", layer.running_variance);
  }
  return entries;
}

}  // namespace stpt::models
