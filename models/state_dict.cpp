#include "models/state_dict.hpp"

#include <numeric>

namespace stpt::models {
namespace {

/// PyTorch's tensors have only the dimensions that mean something.
std::vector<std::int64_t> weight_dimensions(LayerKind kind, const Shape& shape) {
  switch (kind) {
    case LayerKind::batch_norm:
    case LayerKind::group_norm:
      return {shape.c};
    case LayerKind::fully_connected:
      return {shape.n, shape.c};
    default:
      return {shape.n, shape.c, shape.h, shape.w};
  }
}

}  // namespace

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
  const auto add_parameter = [&](int index, std::vector<std::int64_t> dimensions) {
    const Parameter& parameter = network.parameter(index);
    entries.push_back({parameter.name, std::move(dimensions), false,
                       static_cast<std::size_t>(parameter.bucket), parameter.offset});
  };
  for (const Layer& layer : network.layers) {
    if (layer.weight < 0) continue;
    const auto& weight = network.parameter(layer.weight);
    const std::int64_t channels = network.shape(layer.output).c;
    add_parameter(layer.weight, weight_dimensions(layer.kind, weight.shape));
    if (layer.bias >= 0) add_parameter(layer.bias, {channels});
    if (layer.kind != LayerKind::batch_norm) continue;
    const auto add_running = [&](const char* name, int offset) {
      entries.push_back({layer.name + name, {channels}, true, 0, static_cast<std::size_t>(offset)});
    };
    add_running(".running_mean", layer.running_mean);
    add_running(".running_var", layer.running_variance);
  }
  return entries;
}

}  // namespace stpt::models
