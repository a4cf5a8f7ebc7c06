#include "models/architectures.hpp"

namespace stpt::models {
namespace {

BatchNormOptions last_norm(const ModelOptions& options) {
  return {.gamma = options.zero_gamma ? 0.0f : 1.0f};
}

}  // namespace

Network cifar_resnet(const ModelRequest& request, int blocks_per_stage) {
  NetworkBuilder net(request.name, request.input, request.classes);
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
      y = net.convolution(block + ".conv2", y, filters, 3, 1, 1);
      y = net.batch_norm(block + ".bn2", y, last_norm(request.options));
      if (net.shape(x) != net.shape(y)) {
        x = net.batch_norm(block + ".shortcut.bn",
                           net.convolution(block + ".shortcut.conv", x, filters, 1, stride, 0));
      }
      x = net.relu(net.add(y, x));
    }
  }
  net.begin_block("classifier");
  return net.build(net.fully_connected("fc", net.global_average_pool(x), request.classes));
}

Network imagenet_resnet(const ModelRequest& request, ResidualBlock kind,
                        std::array<int, 4> blocks_per_stage, const Bottleneck& inner) {
  NetworkBuilder net(request.name, request.input, request.classes);
  net.begin_block("stem");
  ActivationId x = net.convolution("conv1", net.input(), 64, 7, 2, 3);
  x = net.max_pool(net.relu(net.batch_norm("bn1", x)), 3, 2, 1);
  const bool bottleneck = kind == ResidualBlock::bottleneck;
  for (std::size_t stage = 0; stage < blocks_per_stage.size(); ++stage) {
    const int width = 64 << stage;
    const int filters = bottleneck ? 4 * width : width;
    const int inner_width = inner.groups * inner.width_per_group << stage;
    for (int index = 0; index < blocks_per_stage[stage]; ++index) {
      const std::string block = "layer" + std::to_string(stage + 1) + "." + std::to_string(index);
      const int stride = stage > 0 && index == 0 ? 2 : 1;
      net.begin_block(block);
      ActivationId y = x;
      if (bottleneck) {
        y = net.convolution(block + ".conv1", y, inner_width, 1, 1, 0);
        y = net.relu(net.batch_norm(block + ".bn1", y));
        y = net.convolution(block + ".conv2", y, inner_width, 3, stride, 1,
                            {.groups = inner.groups});
        y = net.relu(net.batch_norm(block + ".bn2", y));
        y = net.convolution(block + ".conv3", y, filters, 1, 1, 0);
      } else {
        y = net.convolution(block + ".conv1", y, filters, 3, stride, 1);
        y = net.relu(net.batch_norm(block + ".bn1", y));
        y = net.convolution(block + ".conv2", y, filters, 3, 1, 1);
      }
      y = net.batch_norm(block + (bottleneck ? ".bn3" : ".bn2"), y, last_norm(request.options));
      if (stride != 1 || net.shape(x).c != filters) {
        x = net.batch_norm(block + ".downsample.1",
                           net.convolution(block + ".downsample.0", x, filters, 1, stride, 0));
      }
      x = net.relu(net.add(y, x));
    }
  }
  net.begin_block("classifier");
  return net.build(net.fully_connected("fc", net.global_average_pool(x), request.classes));
}

}  // namespace stpt::models
