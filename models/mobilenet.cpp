#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "models/architectures.hpp"

// MobileNets and EfficientNets are inverted residual blocks (Sandler et al. 2018, figure 3): a 1x1
// convolution to more channels, a depthwise one, perhaps squeeze-and-excitation, and a 1x1
// convolution back, behind which there is no activation.

namespace stpt::models {
namespace {

/// ReLU if there is none.
using Function = std::optional<codelets::Activation>;
constexpr Function relu = std::nullopt;

/// What the blocks of a family have in common.
struct Family {
  float epsilon = 1e-5f;         ///< of batch norms
  Function squeezed = {};        ///< of squeeze-and-excitation, in between
  Function gate = {};            ///< at its end
  bool flat_projection = false;  ///< the last convolution and its norm are modules of the block
};

struct Block {
  int kernel = 3, stride = 1;
  /// Channels of the depthwise convolution; as many as the input's: there is none before it.
  int expanded = 0;
  int filters = 0;
  int squeezed = 0;  ///< channels in squeeze-and-excitation; 0: there is none
  Function activation;
  double drop_rate = 0;  ///< of images' branches
};

/// Builds a network of one family.
class Builder {
 public:
  Builder(const ModelRequest& request, const Family& family)
      : net(request.name, request.input, request.classes),
        family_(family),
        zero_gamma_(request.options.zero_gamma) {}

  NetworkBuilder net;

  ActivationId activated(ActivationId x, const Function& function) {
    return function ? net.activation(x, *function) : net.relu(x);
  }

  /// Torchvision's modules <name>.0 and .1.
  ActivationId normalised(const std::string& name, ActivationId x, int filters, int kernel,
                          int stride = 1, int groups = 1) {
    x = net.convolution(name + ".0", x, filters, kernel, stride, kernel / 2, {.groups = groups});
    return net.batch_norm(name + ".1", x, {.epsilon = family_.epsilon});
  }

  /// Modules <name>.0, .1, ...
  ActivationId inverted_residual(const std::string& name, ActivationId x, const Block& block) {
    int modules = 0;
    const auto next = [&] { return name + "." + std::to_string(modules++); };
    const auto channels = static_cast<int>(net.shape(x).c);
    ActivationId y = x;
    if (block.expanded != channels)
      y = activated(normalised(next(), y, block.expanded, 1), block.activation);
    y = normalised(next(), y, block.expanded, block.kernel, block.stride, block.expanded);
    y = activated(y, block.activation);
    if (block.squeezed > 0) y = excited(next(), y, block.squeezed);
    const bool has_shortcut = block.stride == 1 && block.filters == channels;
    const std::string first = next(), second = family_.flat_projection ? next() : first + ".1";
    y = net.convolution(family_.flat_projection ? first : first + ".0", y, block.filters, 1, 1, 0);
    y = net.batch_norm(
        second, y,
        {.gamma = zero_gamma_ && has_shortcut ? 0.0f : 1.0f, .epsilon = family_.epsilon});
    if (!has_shortcut) return y;
    if (block.drop_rate > 0) y = net.dropout(y, block.drop_rate, codelets::Dropped::images);
    return net.add(y, x);
  }

 private:
  /// Hu et al. 2018, "Squeeze-and-excitation networks", section 3.
  ActivationId excited(const std::string& name, ActivationId x, int squeezed) {
    const auto channels = static_cast<int>(net.shape(x).c);
    ActivationId y = net.global_average_pool(x);
    y = net.convolution(name + ".fc1", y, squeezed, 1, 1, 0, {.bias = true});
    y = activated(y, family_.squeezed);
    y = net.convolution(name + ".fc2", y, channels, 1, 1, 0, {.bias = true});
    return net.multiply(x, activated(y, family_.gate));
  }

  Family family_;
  bool zero_gamma_;
};

/// The nearest multiple of 8 that is at least nine tenths of it.
int in_eights(double channels) {
  const int near = std::max(8, static_cast<int>(channels + 4) / 8 * 8);
  return near < 0.9 * channels ? near + 8 : near;
}

}  // namespace

Network mobilenet_v2(const ModelRequest& request) {
  Builder builder(request, {.flat_projection = true});
  NetworkBuilder& net = builder.net;
  constexpr auto relu6 = codelets::Activation::relu6;
  net.begin_block("features.0");
  ActivationId x =
      builder.activated(builder.normalised("features.0", net.input(), 32, 3, 2), relu6);
  struct Stage {
    int expansion, filters, blocks, stride;
  };
  int number = 1;
  for (const auto& [expansion, filters, blocks, stride] : {Stage{1, 16, 1, 1},
                                                           {6, 24, 2, 2},
                                                           {6, 32, 3, 2},
                                                           {6, 64, 4, 2},
                                                           {6, 96, 3, 1},
                                                           {6, 160, 3, 2},
                                                           {6, 320, 1, 1}}) {
    for (int index = 0; index < blocks; ++index) {
      const std::string name = "features." + std::to_string(number++);
      net.begin_block(name);
      x = builder.inverted_residual(name + ".conv", x,
                                    {.stride = index == 0 ? stride : 1,
                                     .expanded = expansion * static_cast<int>(net.shape(x).c),
                                     .filters = filters,
                                     .activation = relu6});
    }
  }
  net.begin_block("features.18");
  x = builder.activated(builder.normalised("features.18", x, 1280, 1), relu6);
  net.begin_block("classifier");
  x = net.dropout(net.global_average_pool(x), 0.2);
  return net.build(net.fully_connected("classifier.1", x, request.classes));
}

Network mobilenet_v3(const ModelRequest& request, MobileNetV3 size) {
  constexpr auto swish = codelets::Activation::hard_swish;
  const bool large = size == MobileNetV3::large;
  struct Row {  // of the paper's tables 1 and 2
    int kernel, expanded, filters;
    bool squeezes;
    Function activation;
    int stride;
  };
  const std::vector<Row> rows =
      large ? std::vector<Row>{{3, 16, 16, false, relu, 1},   {3, 64, 24, false, relu, 2},
                               {3, 72, 24, false, relu, 1},   {5, 72, 40, true, relu, 2},
                               {5, 120, 40, true, relu, 1},   {5, 120, 40, true, relu, 1},
                               {3, 240, 80, false, swish, 2}, {3, 200, 80, false, swish, 1},
                               {3, 184, 80, false, swish, 1}, {3, 184, 80, false, swish, 1},
                               {3, 480, 112, true, swish, 1}, {3, 672, 112, true, swish, 1},
                               {5, 672, 160, true, swish, 2}, {5, 960, 160, true, swish, 1},
                               {5, 960, 160, true, swish, 1}}
            : std::vector<Row>{{3, 16, 16, true, relu, 2},   {3, 72, 24, false, relu, 2},
                               {3, 88, 24, false, relu, 1},  {5, 96, 40, true, swish, 2},
                               {5, 240, 40, true, swish, 1}, {5, 240, 40, true, swish, 1},
                               {5, 120, 48, true, swish, 1}, {5, 144, 48, true, swish, 1},
                               {5, 288, 96, true, swish, 2}, {5, 576, 96, true, swish, 1},
                               {5, 576, 96, true, swish, 1}};
  Builder builder(request, {.epsilon = 1e-3f,
                            .squeezed = relu,
                            .gate = codelets::Activation::hard_sigmoid,
                            .flat_projection = false});
  NetworkBuilder& net = builder.net;
  net.begin_block("features.0");
  ActivationId x =
      builder.activated(builder.normalised("features.0", net.input(), 16, 3, 2), swish);
  int number = 1;
  for (const Row& row : rows) {
    const std::string name = "features." + std::to_string(number++);
    net.begin_block(name);
    x = builder.inverted_residual(name + ".block", x,
                                  {.kernel = row.kernel,
                                   .stride = row.stride,
                                   .expanded = row.expanded,
                                   .filters = row.filters,
                                   .squeezed = row.squeezes ? in_eights(row.expanded / 4) : 0,
                                   .activation = row.activation});
  }
  const std::string last = "features." + std::to_string(number);
  net.begin_block(last);
  x = builder.activated(builder.normalised(last, x, 6 * rows.back().filters, 1), swish);
  net.begin_block("classifier");
  x = net.fully_connected("classifier.0", net.global_average_pool(x), large ? 1280 : 1024);
  x = net.dropout(builder.activated(x, swish), 0.2);
  return net.build(net.fully_connected("classifier.3", x, request.classes));
}

Network efficientnet(const ModelRequest& request, const EfficientNet& scaled) {
  constexpr auto silu = codelets::Activation::silu;
  struct Stage {  // of the paper's table 1
    int expansion, kernel, stride, filters, blocks;
  };
  constexpr std::array stages = {
      Stage{1, 3, 1, 16, 1},  Stage{6, 3, 2, 24, 2},  Stage{6, 5, 2, 40, 2}, Stage{6, 3, 2, 80, 3},
      Stage{6, 5, 1, 112, 3}, Stage{6, 5, 2, 192, 4}, Stage{6, 3, 1, 320, 1}};
  const auto blocks_of = [&](const Stage& stage) {
    return static_cast<int>(std::ceil(stage.blocks * scaled.depth));
  };
  int blocks = 0;
  for (const Stage& stage : stages) blocks += blocks_of(stage);

  Builder builder(request, {.epsilon = scaled.epsilon,
                            .squeezed = silu,
                            .gate = codelets::Activation::sigmoid,
                            .flat_projection = false});
  NetworkBuilder& net = builder.net;
  net.begin_block("features.0");
  ActivationId x = builder.activated(
      builder.normalised("features.0", net.input(), in_eights(32 * scaled.width), 3, 2), silu);
  int number = 1, block = 0;
  for (const Stage& stage : stages) {
    const std::string name = "features." + std::to_string(number++);
    for (int index = 0; index < blocks_of(stage); ++index, ++block) {
      const std::string own = name + "." + std::to_string(index);
      const auto channels = static_cast<int>(net.shape(x).c);
      net.begin_block(own);
      x = builder.inverted_residual(own + ".block", x,
                                    {.kernel = stage.kernel,
                                     .stride = index == 0 ? stage.stride : 1,
                                     .expanded = in_eights(channels * stage.expansion),
                                     .filters = in_eights(stage.filters * scaled.width),
                                     .squeezed = std::max(1, channels / 4),
                                     .activation = silu,
                                     .drop_rate = 0.2 * block / blocks});
    }
  }
  const std::string last = "features." + std::to_string(number);
  net.begin_block(last);
  x = builder.activated(builder.normalised(last, x, 4 * static_cast<int>(net.shape(x).c), 1), silu);
  net.begin_block("classifier");
  x = net.dropout(net.global_average_pool(x), scaled.dropout);
  return net.build(net.fully_connected("classifier.1", x, request.classes));
}

}  // namespace stpt::models
