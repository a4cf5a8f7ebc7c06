#include "models/architectures.hpp"

namespace stpt::models {

Network densenet(const ModelRequest& request, int first_filters, int growth,
                 std::array<int, 4> layers_per_block) {
  require_image(request, 5);
  NetworkBuilder net(request.name, request.input, request.classes);
  const auto normalised = [&net](const std::string& name, ActivationId x) {
    return net.relu(net.batch_norm(name, x));
  };
  net.begin_block("stem");
  ActivationId x = net.convolution("features.conv0", net.input(), first_filters, 7, 2, 3);
  x = net.max_pool(normalised("features.norm0", x), 3, 2, 1);
  for (std::size_t block = 1; block <= layers_per_block.size(); ++block) {
    const std::string number = std::to_string(block);
    for (int index = 1; index <= layers_per_block[block - 1]; ++index) {
      const std::string layer =
          "features.denseblock" + number + ".denselayer" + std::to_string(index);
      net.begin_block(layer);
      ActivationId y =
          net.convolution(layer + ".conv1", normalised(layer + ".norm1", x), 4 * growth, 1, 1, 0);
      y = net.convolution(layer + ".conv2", normalised(layer + ".norm2", y), growth, 3, 1, 1);
      x = net.concat({x, y});
    }
    if (block == layers_per_block.size()) break;
    const std::string transition = "features.transition" + number;
    net.begin_block(transition);
    x = net.convolution(transition + ".conv", normalised(transition + ".norm", x),
                        static_cast<int>(net.shape(x).c) / 2, 1, 1, 0);
    x = net.average_pool(x, 2, 2);
  }
  net.begin_block("classifier");
  x = net.global_average_pool(normalised("features.norm5", x));
  return net.build(net.fully_connected("classifier", x, request.classes));
}

}  // namespace stpt::models
