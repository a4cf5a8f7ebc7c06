#include "models/layer_fusion.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <vector>

namespace stpt::models {
namespace {

bool is_normalisation(LayerKind kind) {
  return kind == LayerKind::batch_norm || kind == LayerKind::group_norm;
}

/// Whether the activation can be computed by the op of what comes before it.
bool takes(const FusedLayer& producer, const Layer& activation) {
  const LayerKind kind = producer.layer->kind;
  if (producer.activation) return false;
  if (activation.kind == LayerKind::relu) {
    return is_normalisation(kind) || kind == LayerKind::convolution ||
           kind == LayerKind::fully_connected || kind == LayerKind::add;
  }
  return is_normalisation(kind) && !producer.relu && !producer.residual &&
         codelets::fuses_with_normalisations(activation.function);
}

}  // namespace

std::vector<FusedLayer> fuse_layers(const Network& network) {
  std::vector<int> readers(network.activations.size(), 0);
  for (const Layer& layer : network.layers) {
    for (const ActivationId input : layer.inputs) ++readers[static_cast<std::size_t>(input)];
  }
  ++readers[static_cast<std::size_t>(network.logits)];

  std::vector<std::optional<FusedLayer>> fused;  // none where it became part of a later one
  std::map<ActivationId, std::size_t> producers;
  const auto sole_producer = [&](ActivationId id) -> std::optional<FusedLayer>* {
    const auto found = producers.find(id);
    if (found == producers.end() || readers[static_cast<std::size_t>(id)] != 1) return nullptr;
    return &fused[found->second];
  };

  for (const Layer& layer : network.layers) {
    if (layer.kind == LayerKind::relu || layer.kind == LayerKind::activation) {
      auto* producer = sole_producer(layer.inputs[0]);
      if (producer != nullptr && takes(**producer, layer)) {
        if (layer.kind == LayerKind::relu) {
          (*producer)->relu = true;
        } else {
          (*producer)->activation = &layer;
        }
        (*producer)->output = layer.output;
        producers[layer.output] = static_cast<std::size_t>(producer - fused.data());
        continue;
      }
    }
    FusedLayer fresh{&layer, false, nullptr, std::nullopt, layer.output};
    if (layer.kind == LayerKind::add) {
      for (std::size_t i = 0; i < 2; ++i) {
        auto* norm = sole_producer(layer.inputs[i]);
        if (norm == nullptr || !is_normalisation((*norm)->layer->kind) || (*norm)->relu ||
            (*norm)->activation || (*norm)->residual)
          continue;
        // The normalisation moves to where the other summand is known as well.
        fresh.layer = (*norm)->layer;
        fresh.residual = layer.inputs[1 - i];
        norm->reset();
        break;
      }
    }
    producers[layer.output] = fused.size();
    fused.emplace_back(fresh);
  }

  std::vector<FusedLayer> all;
  for (const std::optional<FusedLayer>& layer : fused) {
    if (layer) all.push_back(*layer);
  }
  return all;
}

}  // namespace stpt::models
