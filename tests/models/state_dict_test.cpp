#include "models/state_dict.hpp"

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "models/zoo.hpp"
#include "tests/catch.hpp"

namespace stpt::models {
namespace {

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

/// tests/golden/torchvision_state_dicts.txt, without the counters of batches, which are no state of
/// a network's.
std::map<std::string, Shapes> torchvision_state_dicts() {
  std::ifstream file(std::string(STPT_TEST_DATA_DIR) + "/torchvision_state_dicts.txt");
  std::map<std::string, Shapes> models;
  Shapes* model = nullptr;
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with(':')) {
      model = &models[line.substr(0, line.size() - 1)];
      continue;
    }
    std::istringstream words(line);
    std::string name;
    words >> name;
    std::vector<std::int64_t> shape;
    for (std::int64_t size = 0; words >> size;) shape.push_back(size);
    if (!name.ends_with(".num_batches_tracked")) model->emplace(name, shape);
  }
  return models;
}

TEST_CASE("names and shapes are torchvision's", "[state_dict]") {
  const auto expected = torchvision_state_dicts();
  REQUIRE(expected.size() == 23);
  for (const auto& [model, shapes] : expected) {
    INFO(model);
    Shapes found;
    const auto entries = state_dict(make_network(model, {1, 3, 224, 224}, 1000));
    for (const StateEntry& entry : entries) found.emplace(entry.name, entry.dimensions);
    CHECK(found.size() == entries.size());
    CHECK(found == shapes);
  }
}

TEST_CASE("what PyTorch has as vectors and matrices is exported so", "[state_dict]") {
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  ActivationId x = net.convolution("conv", net.input(), 6, 3, 1, 1, {.bias = true});
  x = net.fully_connected_pixels("mlp", net.layer_norm("norm", x), 4);
  x = net.scale("block.gamma", net.scale("layer_scale", x), {.dimensions = {4}});
  Shapes shapes;
  for (const StateEntry& entry : state_dict(net.build(net.fully_connected("fc", x, 10))))
    shapes.emplace(entry.name, entry.dimensions);
  CHECK(shapes == Shapes{{"conv.weight", {6, 3, 3, 3}},
                         {"conv.bias", {6}},
                         {"norm.weight", {6}},
                         {"norm.bias", {6}},
                         {"mlp.weight", {4, 6}},
                         {"mlp.bias", {4}},
                         {"layer_scale", {4, 1, 1}},
                         {"block.gamma", {4}},
                         {"fc.weight", {10, 256}},
                         {"fc.bias", {10}}});
}

TEST_CASE("entries cover every parameter and statistic, each once", "[state_dict]") {
  for (const char* name : {"resnet8", "vgg11_bn", "lenet5"}) {
    INFO(name);
    const Network network = make_network(name, {1, 3, 32, 32}, 10);
    std::set<std::pair<std::size_t, std::size_t>> places, statistics;
    std::size_t parameters = 0, running = 0;
    for (const StateEntry& entry : state_dict(network)) {
      (entry.running ? running : parameters) += entry.elements();
      CHECK((entry.running ? statistics : places).emplace(entry.bucket, entry.offset).second);
    }
    CHECK(parameters == static_cast<std::size_t>(network.parameter_count()));
    std::size_t channels = 0;
    for (const Layer& layer : network.layers) {
      if (layer.kind != LayerKind::batch_norm) continue;
      channels +=
          static_cast<std::size_t>(network.activations[static_cast<std::size_t>(layer.output)].c);
    }
    CHECK(running == 2 * channels);
  }
}

TEST_CASE("an entry finds its values", "[state_dict]") {
  const Network network = make_network("resnet8", {1, 1, 8, 8}, 10);
  ModelValues values = ModelValues::initial(network, 2, 1);
  for (const StateEntry& entry : state_dict(network)) {
    INFO(entry.name);
    if (entry.name.ends_with(".running_var")) {
      entry.in(values, 1)[0] = 5;
      CHECK(std::as_const(values).running[1][entry.offset] == 5);
      CHECK(entry.in(values, 0)[0] == 1);
    } else if (entry.name == "fc.weight") {
      CHECK(entry.dimensions == std::vector<std::int64_t>{10, 64});
      CHECK(entry.in(values).data() == values.parameters.back().data() + entry.offset);
    }
  }
}

}  // namespace
}  // namespace stpt::models
