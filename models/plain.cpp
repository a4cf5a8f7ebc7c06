#include <stdexcept>

#include "models/architectures.hpp"

namespace stpt::models {

void require_image(const ModelRequest& request, int halvings) {
  const int least = 1 << halvings;
  if (request.input.h >= least && request.input.w >= least) return;
  throw std::invalid_argument(request.name + ": images of " + std::to_string(request.input.h) +
                              "x" + std::to_string(request.input.w) +
                              " pixels are too small; at least " + std::to_string(least) + "x" +
                              std::to_string(least) + " are needed");
}

Network vgg(const ModelRequest& request, std::array<int, 5> convolutions_per_stage,
            bool batch_norm) {
  require_image(request, 5);
  NetworkBuilder net(request.name, request.input, request.classes);
  ActivationId x = net.input();
  constexpr std::array filters = {64, 128, 256, 512, 512};
  int module = 0;  // torchvision counts its ReLUs and poolings, too
  for (std::size_t stage = 0; stage < filters.size(); ++stage) {
    net.begin_block("stage" + std::to_string(stage + 1));
    for (int index = 0; index < convolutions_per_stage[stage]; ++index) {
      x = net.convolution("features." + std::to_string(module++), x, filters[stage], 3, 1, 1,
                          {.bias = true});
      if (batch_norm) x = net.batch_norm("features." + std::to_string(module++), x);
      x = net.relu(x);
      ++module;
    }
    x = net.max_pool(x, 2, 2);
    ++module;
  }
  x = net.average_pool_to(x, 7);
  for (const char* layer : {"classifier.0", "classifier.3"}) {
    net.begin_block(layer);
    x = net.dropout(net.relu(net.fully_connected(layer, x, 4096)), 0.5);
  }
  net.begin_block("classifier.6");
  return net.build(net.fully_connected("classifier.6", x, request.classes));
}

Network plain_cnn(const ModelRequest& request) {
  require_image(request, 3);
  NetworkBuilder net(request.name, request.input, request.classes);
  ActivationId x = net.input();
  for (int stage = 1; stage <= 3; ++stage) {
    const std::string block = "stage" + std::to_string(stage);
    net.begin_block(block);
    for (const char* layer : {".conv1", ".conv2"}) {
      x = net.relu(net.convolution(block + layer, x, 16 << stage, 3, 1, 1, {.bias = true}));
    }
    x = net.max_pool(x, 2, 2);
  }
  net.begin_block("classifier");
  x = net.relu(net.fully_connected("fc1", x, 256));
  return net.build(net.fully_connected("fc2", x, request.classes));
}

}  // namespace stpt::models
