#include "models/layer_fusion.hpp"

#include <optional>
#include <string>
#include <vector>

#include "models/network.hpp"
#include "tests/catch.hpp"

namespace stpt::models {
namespace {

/// What became of the layers: kind, ReLU, residual.
struct Fused {
  LayerKind kind;
  bool relu = false;
  std::optional<ActivationId> residual = std::nullopt;
  friend bool operator==(const Fused&, const Fused&) = default;
};

std::vector<Fused> fused(const Network& network) {
  std::vector<Fused> all;
  for (const FusedLayer& layer : fuse_layers(network))
    all.push_back({layer.layer->kind, layer.relu, layer.residual});
  return all;
}

}  // namespace

TEST_CASE("a residual block is three ops", "[layer_fusion]") {
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  const ActivationId x = net.convolution("conv1", net.input(), 8, 3, 1, 1);
  ActivationId y = net.relu(net.batch_norm("bn", net.convolution("conv2", x, 8, 3, 1, 1)));
  y = net.batch_norm("bn2", net.convolution("conv3", y, 8, 3, 1, 1));
  const ActivationId sum = net.relu(net.add(x, y));
  const Network network = net.build(net.fully_connected("fc", sum, 10));
  CHECK(fused(network) == std::vector<Fused>{{LayerKind::convolution},
                                             {LayerKind::convolution},
                                             {LayerKind::batch_norm, true},
                                             {LayerKind::convolution},
                                             {LayerKind::batch_norm, true, x},
                                             {LayerKind::fully_connected}});
  const auto layers = fuse_layers(network);
  CHECK(layers[4].layer->name == "bn2");
  CHECK(layers[4].output == sum);
}

TEST_CASE("of a sum of two batch norms one has the addition", "[layer_fusion]") {
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  const ActivationId a = net.batch_norm("a", net.convolution("conv1", net.input(), 8, 1, 1, 0));
  const ActivationId b = net.batch_norm("b", net.convolution("conv2", net.input(), 8, 1, 1, 0));
  const Network network = net.build(net.fully_connected("fc", net.add(a, b), 10));
  CHECK(fused(network) == std::vector<Fused>{{LayerKind::convolution},
                                             {LayerKind::convolution},
                                             {LayerKind::batch_norm},
                                             {LayerKind::batch_norm, false, b},
                                             {LayerKind::fully_connected}});
}

TEST_CASE("a group norm takes an addition and a ReLU", "[layer_fusion]") {
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  const ActivationId x = net.convolution("conv", net.input(), 8, 3, 1, 1);
  const ActivationId sum = net.relu(net.add(x, net.group_norm("gn", x, 4)));
  const Network network = net.build(net.fully_connected("fc", sum, 10));
  CHECK(fused(network) == std::vector<Fused>{{LayerKind::convolution},
                                             {LayerKind::group_norm, true, x},
                                             {LayerKind::fully_connected}});
}

TEST_CASE("a normalisation takes another activation, where nothing is added", "[layer_fusion]") {
  using codelets::Activation;
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  ActivationId x = net.batch_norm("a", net.convolution("conv1", net.input(), 8, 1, 1, 0));
  const ActivationId y = x = net.activation(x, Activation::silu);
  x = net.relu(net.group_norm("b", net.activation(net.batch_norm("c", x), Activation::mish), 2));
  x = net.activation(net.add(net.batch_norm("d", x), y), Activation::hard_swish);
  x = net.activation(net.group_norm("e", x, 2), Activation::leaky_relu, 0.2f);
  x = net.relu(net.activation(net.batch_norm("f", net.relu(x)), Activation::relu6));
  const ActivationId z = net.activation(net.batch_norm("g", x), Activation::silu);
  const Network network = net.build(net.fully_connected("fc", net.add(z, x), 10));
  std::vector<std::string> seen;
  for (const FusedLayer& layer : fuse_layers(network)) {
    std::string text = layer.layer->name;
    if (layer.residual) text += " + " + std::to_string(*layer.residual);
    if (layer.relu) text += " relu";
    if (layer.activation) text += " " + layer.activation->name;
    seen.push_back(text);
  }
  CHECK(seen == std::vector<std::string>{"conv1", "a silu", "c", "mish", "b relu",
                                         "d + " + std::to_string(y), "hard_swish", "e leaky_relu",
                                         "relu", "f relu6", "relu", "g silu", "add", "fc"});
}

TEST_CASE("what others read as well is not fused away", "[layer_fusion]") {
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  const ActivationId x = net.batch_norm("bn", net.convolution("conv", net.input(), 8, 3, 1, 1));
  const ActivationId y = net.relu(x);
  const Network network = net.build(net.fully_connected("fc", net.add(x, y), 10));
  CHECK(fused(network) == std::vector<Fused>{{LayerKind::convolution},
                                             {LayerKind::batch_norm},
                                             {LayerKind::relu},
                                             {LayerKind::add},
                                             {LayerKind::fully_connected}});
}

TEST_CASE("a batch norm behind a ReLU takes no addition", "[layer_fusion]") {
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  const ActivationId x = net.convolution("conv", net.input(), 8, 3, 1, 1);
  const ActivationId y = net.relu(net.batch_norm("bn", x));
  const ActivationId pool = net.relu(net.max_pool(net.relu(net.add(x, y)), 2, 2));
  const Network network = net.build(net.fully_connected("fc", pool, 10));
  CHECK(fused(network) == std::vector<Fused>{{LayerKind::convolution},
                                             {LayerKind::batch_norm, true},
                                             {LayerKind::add, true},
                                             {LayerKind::max_pool},
                                             {LayerKind::relu},
                                             {LayerKind::fully_connected}});
}

}  // namespace stpt::models
