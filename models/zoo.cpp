#include "models/zoo.hpp"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "models/architectures.hpp"
#include "runtime/edit_distance.hpp"

namespace stpt::models {
namespace {

Network mlp(const ModelRequest& request) {
  NetworkBuilder net(request.name, request.input, request.classes);
  ActivationId x = net.input();
  for (const char* layer : {"fc1", "fc2"}) {
    net.begin_block(layer);
    x = net.relu(net.fully_connected(layer, x, 256));
  }
  net.begin_block("fc3");
  return net.build(net.fully_connected("fc3", x, request.classes));
}

/// LeCun et al. 1998, figure 2, with ReLU and max pooling as is usual today.
Network lenet5(const ModelRequest& request) {
  NetworkBuilder net(request.name, request.input, request.classes);
  // The original pads 28x28 digits to 32x32.
  const int padding = request.input.h < 32 ? 2 : 0;
  net.begin_block("conv1");
  ActivationId x = net.max_pool(
      net.relu(net.convolution("conv1", net.input(), 6, 5, 1, padding, {.bias = true})), 2, 2);
  net.begin_block("conv2");
  x = net.max_pool(net.relu(net.convolution("conv2", x, 16, 5, 1, 0, {.bias = true})), 2, 2);
  net.begin_block("classifier");
  x = net.relu(net.fully_connected("fc1", x, 120));
  x = net.relu(net.fully_connected("fc2", x, 84));
  return net.build(net.fully_connected("fc3", x, request.classes));
}

struct Entry {
  ModelInfo info;
  std::function<Network(const ModelRequest&)> make;
};

std::vector<Entry> make_entries() {
  const Shape digit{1, 1, 28, 28}, thumbnail{1, 3, 32, 32}, photograph{1, 3, 224, 224};
  std::vector<Entry> table = {
      {{"mlp", "two hidden layers of 256, ReLU", digit}, mlp},
      {{"lenet5", "LeNet-5 with ReLU and max pooling", digit}, lenet5},
      {{"plain_cnn", "six convolutions without batch normalisation", thumbnail}, plain_cnn},
  };
  for (const int depth : {8, 20, 32, 44, 56, 110}) {
    const std::string number = std::to_string(depth);
    table.push_back(
        {{"resnet" + number, "CIFAR-style ResNet, " + number + " layers", thumbnail},
         [depth](const ModelRequest& request) { return cifar_resnet(request, (depth - 2) / 6); }});
  }
  const auto add_resnet = [&](int depth, ResidualBlock block, std::array<int, 4> blocks) {
    const std::string number = std::to_string(depth);
    table.push_back({{"resnet" + number,
                      "ImageNet ResNet, " + number + " layers" +
                          (block == ResidualBlock::bottleneck ? ", stride in the 3x3 (v1.5)" : ""),
                      photograph},
                     [block, blocks](const ModelRequest& request) {
                       return imagenet_resnet(request, block, blocks);
                     }});
  };
  add_resnet(18, ResidualBlock::basic, {2, 2, 2, 2});
  add_resnet(34, ResidualBlock::basic, {3, 4, 6, 3});
  add_resnet(50, ResidualBlock::bottleneck, {3, 4, 6, 3});
  add_resnet(101, ResidualBlock::bottleneck, {3, 4, 23, 3});
  add_resnet(152, ResidualBlock::bottleneck, {3, 8, 36, 3});
  const auto add_other_bottleneck = [&](const std::string& name, const std::string& description,
                                        std::array<int, 4> blocks, Bottleneck bottleneck) {
    table.push_back(
        {{name, description, photograph}, [blocks, bottleneck](const ModelRequest& request) {
           return imagenet_resnet(request, ResidualBlock::bottleneck, blocks, bottleneck);
         }});
  };
  add_other_bottleneck("resnext50_32x4d", "ResNeXt, 50 layers, 32 groups", {3, 4, 6, 3}, {32, 4});
  add_other_bottleneck("resnext101_32x8d", "ResNeXt, 101 layers, 32 groups", {3, 4, 23, 3},
                       {32, 8});
  add_other_bottleneck("resnext101_64x4d", "ResNeXt, 101 layers, 64 groups", {3, 4, 23, 3},
                       {64, 4});
  add_other_bottleneck("wide_resnet50_2", "ResNet-50 with twice as wide 3x3 convolutions",
                       {3, 4, 6, 3}, {1, 128});
  add_other_bottleneck("wide_resnet101_2", "ResNet-101 with twice as wide 3x3 convolutions",
                       {3, 4, 23, 3}, {1, 128});
  const auto add_densenet = [&](int depth, int first_filters, int growth,
                                std::array<int, 4> layers) {
    const std::string number = std::to_string(depth);
    table.push_back({{"densenet" + number, "DenseNet, " + number + " layers", photograph},
                     [first_filters, growth, layers](const ModelRequest& request) {
                       return densenet(request, first_filters, growth, layers);
                     }});
  };
  add_densenet(121, 64, 32, {6, 12, 24, 16});
  add_densenet(161, 96, 48, {6, 12, 36, 24});
  add_densenet(169, 64, 32, {6, 12, 32, 32});
  add_densenet(201, 64, 32, {6, 12, 48, 32});
  const auto add_vgg = [&](int depth, std::array<int, 5> convolutions) {
    for (const bool batch_norm : {false, true}) {
      const std::string number = std::to_string(depth);
      table.push_back(
          {{"vgg" + number + (batch_norm ? "_bn" : ""),
            "VGG, " + number + " layers" + (batch_norm ? ", batch normalisation" : ""), photograph},
           [convolutions, batch_norm](const ModelRequest& request) {
             return vgg(request, convolutions, batch_norm);
           }});
    }
  };
  table.push_back({{"mobilenet_v2", "MobileNetV2", photograph}, mobilenet_v2});
  for (const auto& [size, name] :
       {std::pair{MobileNetV3::small, "small"}, {MobileNetV3::large, "large"}}) {
    table.push_back(
        {{std::string("mobilenet_v3_") + name, std::string("MobileNetV3, ") + name, photograph},
         [size](const ModelRequest& request) { return mobilenet_v3(request, size); }});
  }
  const auto add_efficientnet = [&](int number, int side, const EfficientNet& scaled) {
    const std::string name = std::to_string(number);
    table.push_back(
        {{"efficientnet_b" + name, "EfficientNet-B" + name, {1, 3, side, side}},
         [scaled](const ModelRequest& request) { return efficientnet(request, scaled); }});
  };
  add_efficientnet(0, 224, {1.0, 1.0, 0.2});
  add_efficientnet(1, 240, {1.0, 1.1, 0.2});
  add_efficientnet(2, 288, {1.1, 1.2, 0.3});
  add_efficientnet(3, 300, {1.2, 1.4, 0.3});
  add_efficientnet(4, 380, {1.4, 1.8, 0.4});
  add_efficientnet(5, 456, {1.6, 2.2, 0.4, 1e-3f});
  add_efficientnet(6, 528, {1.8, 2.6, 0.5, 1e-3f});
  add_efficientnet(7, 600, {2.0, 3.1, 0.5, 1e-3f});
  add_vgg(11, {1, 1, 2, 2, 2});
  add_vgg(13, {2, 2, 2, 2, 2});
  add_vgg(16, {2, 2, 3, 3, 3});
  add_vgg(19, {2, 2, 4, 4, 4});
  return table;
}

const std::vector<Entry>& entries() {
  static const std::vector<Entry> table = make_entries();
  return table;
}

/// Some BatchNorm starts with gamma 0.
bool has_zero_gamma(const Network& network) {
  return std::ranges::any_of(network.layers, [&](const Layer& layer) {
    return layer.kind == LayerKind::batch_norm && network.parameter(layer.weight).initial == 0.0f;
  });
}

}  // namespace

const std::vector<ModelInfo>& available_models() {
  static const std::vector<ModelInfo> models = [] {
    std::vector<ModelInfo> list;
    for (const Entry& entry : entries()) list.push_back(entry.info);
    return list;
  }();
  return models;
}

Network make_network(const std::string& name, const Shape& input, int classes,
                     const ModelOptions& options) {
  if (input.c < 1 || input.h < 1 || input.w < 1) {
    throw std::invalid_argument(name + ": images of " + input.to_string() + " have no pixels");
  }
  if (classes < 2) {
    throw std::invalid_argument(name + ": " + std::to_string(classes) +
                                " classes; at least 2 are needed");
  }
  for (const Entry& entry : entries()) {
    if (entry.info.name != name) continue;
    Network network = entry.make({name, input, classes, options});
    if (options.zero_gamma && !has_zero_gamma(network)) {
      throw std::invalid_argument(
          name + ": has no residual branch that ends in BatchNorm; zero_gamma must be false");
    }
    return network;
  }
  std::vector<std::string> names;
  std::string known;
  for (const ModelInfo& model : available_models()) {
    names.push_back(model.name);
    known += (known.empty() ? "" : ", ") + model.name;
  }
  const std::string meant = runtime::nearest_word(name, names);
  throw std::invalid_argument("unknown model \"" + name + "\"" +
                              (meant.empty() ? "" : ", perhaps \"" + meant + "\"?") +
                              " (known: " + known + ")");
}

}  // namespace stpt::models
