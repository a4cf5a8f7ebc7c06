#include "models/zoo.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace stpt::models {
namespace {

Network mlp(const std::string& name, const Shape& input, int classes) {
  NetworkBuilder net(name, input, classes);
  ActivationId x = net.input();
  for (const char* layer : {"fc1", "fc2"}) {
    net.begin_block(layer);
    x = net.relu(net.fully_connected(layer, x, 256));
  }
  net.begin_block("fc3");
  return net.build(net.fully_connected("fc3", x, classes));
}

/// LeCun et al. 1998, figure 2, with ReLU and max pooling as is usual today.
Network lenet5(const std::string& name, const Shape& input, int classes) {
  NetworkBuilder net(name, input, classes);
  // The original pads 28x28 digits to 32x32.
  const int padding = input.h < 32 ? 2 : 0;
  net.begin_block("conv1");
  ActivationId x =
      net.max_pool(net.relu(net.convolution("conv1", net.input(), 6, 5, 1, padding, true)), 2, 2);
  net.begin_block("conv2");
  x = net.max_pool(net.relu(net.convolution("conv2", x, 16, 5, 1, 0, true)), 2, 2);
  net.begin_block("classifier");
  x = net.relu(net.fully_connected("fc1", x, 120));
  x = net.relu(net.fully_connected("fc2", x, 84));
  return net.build(net.fully_connected("fc3", x, classes));
}

/// He et al. 2016, section 4.2: 6n+2 layers, three stages of n basic blocks with 16, 32 and 64
/// filters. Where the shape changes the shortcut is a 1x1 convolution with BatchNorm (option B).
Network cifar_resnet(const std::string& name, const Shape& input, int classes,
                     int blocks_per_stage) {
  NetworkBuilder net(name, input, classes);
  net.begin_block("stem");
  ActivationId x =
      net.relu(net.batch_norm("bn", net.convolution("conv", net.input(), 16, 3, 1, 1)));
  for (int stage = 1; stage <= 3; ++stage) {
    const int filters = 8 << stage;
    for (int index = 1; index <= blocks_per_stage; ++index) {
      const std::string block = "stage" + std::to_string(stage) + ".block" + std::to_string(index);
      const int stride = stage > 1 && index == 1 ? 2 : 1;
      net.begin_block(block);
      ActivationId y = net.convolution(block + ".conv1", x, filters, 3, stride, 1);
      y = net.relu(net.batch_norm(block + ".bn1", y));
      y = net.batch_norm(block + ".bn2", net.convolution(block + ".conv2", y, filters, 3, 1, 1));
      if (net.shape(x) != net.shape(y)) {
        x = net.batch_norm(block + ".shortcut.bn",
                           net.convolution(block + ".shortcut.conv", x, filters, 1, stride, 0));
      }
      x = net.relu(net.add(y, x));
    }
  }
  net.begin_block("classifier");
  return net.build(net.fully_connected("fc", net.global_average_pool(x), classes));
}

struct Entry {
  ModelInfo info;
  Network (*make)(const std::string& name, const Shape& input, int classes);
};

template <int depth>
Network cifar_resnet_of(const std::string& name, const Shape& input, int classes) {
  static_assert((depth - 2) % 6 == 0);
  return cifar_resnet(name, input, classes, (depth - 2) / 6);
}

const std::vector<Entry>& entries() {
  static const std::vector<Entry> table = {
      {{"mlp", "two hidden layers of 256, ReLU", {1, 1, 28, 28}}, mlp},
      {{"lenet5", "LeNet-5 with ReLU and max pooling", {1, 1, 28, 28}}, lenet5},
      {{"resnet8", "CIFAR-style ResNet, 8 layers", {1, 3, 32, 32}}, cifar_resnet_of<8>},
      {{"resnet20", "CIFAR-style ResNet, 20 layers", {1, 3, 32, 32}}, cifar_resnet_of<20>},
      {{"resnet56", "CIFAR-style ResNet, 56 layers", {1, 3, 32, 32}}, cifar_resnet_of<56>},
  };
  return table;
}

/// Characters to insert, remove or replace.
std::size_t edits(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (const char left : a) {
    std::size_t diagonal = row[0]++;
    for (std::size_t i = 0; i < b.size(); ++i) {
      const std::size_t replaced = diagonal + (left == b[i] ? 0 : 1);
      diagonal = row[i + 1];
      row[i + 1] = std::min({replaced, row[i] + 1, diagonal + 1});
    }
  }
  return row.back();
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

Network make_network(const std::string& name, const Shape& input, int classes) {
  if (input.c < 1 || input.h < 1 || input.w < 1) {
    throw std::invalid_argument(name + ": images of " + input.to_string() + " have no pixels");
  }
  if (classes < 2) {
    throw std::invalid_argument(name + ": " + std::to_string(classes) +
                                " classes; at least 2 are needed");
  }
  for (const Entry& entry : entries()) {
    if (entry.info.name == name) return entry.make(name, input, classes);
  }
  std::string known, nearest;
  std::size_t least = name.size();
  for (const ModelInfo& model : available_models()) {
    known += (known.empty() ? "" : ", ") + model.name;
    if (const std::size_t distance = edits(name, model.name); distance < least) {
      least = distance;
      nearest = model.name;
    }
  }
  throw std::invalid_argument("unknown model \"" + name + "\"" +
                              (least <= 2 ? ", perhaps \"" + nearest + "\"?" : "") +
                              " (known: " + known + ")");
}

}  // namespace stpt::models
