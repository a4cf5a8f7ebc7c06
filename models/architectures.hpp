// The families of networks that zoo.cpp names members of. Each throws std::invalid_argument where
// the input is too small.
#pragma once

#include <array>
#include <string>

#include "models/network.hpp"
#include "models/zoo.hpp"

namespace stpt::models {

/// What every family is told.
struct ModelRequest {
  std::string name;
  Shape input;
  int classes = 0;
  ModelOptions options;
};

/// He et al. 2016, "Deep residual learning for image recognition", section 4.2: three stages of
/// basic blocks with 16, 32 and 64 filters; depth = 6 x blocks_per_stage + 2. Where the shape
/// changes the shortcut is a 1x1 convolution with BatchNorm (option B).
[[nodiscard]] Network cifar_resnet(const ModelRequest& request, int blocks_per_stage);

enum class ResidualBlock {
  basic,       ///< two 3x3 convolutions
  bottleneck,  ///< 1x1, 3x3, 1x1 with four times as many filters; the 3x3 has the stride ("v1.5")
};

/// How a bottleneck's 3x3 convolution differs from ResNet's: in groups, as of Xie et al. 2017,
/// "Aggregated residual transformations", or wider, as of Zagoruyko and Komodakis 2016, "Wide
/// residual networks".
struct Bottleneck {
  int groups = 1;
  int width_per_group = 64;  ///< filters of a group in the first stage; twice that in each next
};

/// The same paper, table 1: a 7x7 convolution and max pooling, then four stages. Layers are called
/// as torchvision calls them.
[[nodiscard]] Network imagenet_resnet(const ModelRequest& request, ResidualBlock block,
                                      std::array<int, 4> blocks_per_stage,
                                      const Bottleneck& bottleneck = {});

/// Huang et al. 2017, "Densely connected convolutional networks", table 1: DenseNet-BC, whose
/// layers add `growth` channels each to what all before them have made. Layers are called as
/// torchvision calls them. Images have at least 32x32 pixels.
[[nodiscard]] Network densenet(const ModelRequest& request, int first_filters, int growth,
                               std::array<int, 4> layers_per_block);

/// Simonyan and Zisserman 2015, "Very deep convolutional networks", table 1: five stages of 3x3
/// convolutions, each ending in max pooling, and three fully connected layers, the first two with
/// half of their outputs dropped. Layers are called as torchvision calls them. Images have at least
/// 32x32 pixels. What the stages leave of one is averaged to 7x7; where that is less, as of images
/// below 224x224, the classifier takes it as it is and has fewer inputs.
[[nodiscard]] Network vgg(const ModelRequest& request, std::array<int, 5> convolutions_per_stage,
                          bool batch_norm);

/// Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2. Layers
/// of this and the next two are called as torchvision calls them, and have its rates of
/// dropout; but batch norms' momentum is 0.1, for a hundredth takes many epochs of small data sets.
[[nodiscard]] Network mobilenet_v2(const ModelRequest& request);

enum class MobileNetV3 { small, large };

/// Howard et al. 2019, "Searching for MobileNetV3", tables 1 and 2.
[[nodiscard]] Network mobilenet_v3(const ModelRequest& request, MobileNetV3 size);

/// How a member of the family differs from the smallest, EfficientNet-B0.
struct EfficientNet {
  double width = 1, depth = 1;  ///< times as many channels, and blocks
  double dropout = 0.2;         ///< before the classifier
  float epsilon = 1e-5f;        ///< of batch norms
};

/// Tan and Le 2019, "EfficientNet: rethinking model scaling", table 1. Up to a fifth of the images
/// go around a block while it trains.
[[nodiscard]] Network efficientnet(const ModelRequest& request, const EfficientNet& scaled);

/// Three stages of two 3x3 convolutions with 32, 64 and 128 filters, each ending in max pooling,
/// and two fully connected layers; no normalisation. Images have at least 8x8 pixels. Nobody has
/// published a learning rate for it.
[[nodiscard]] Network plain_cnn(const ModelRequest& request);

/// Throws std::invalid_argument where an image has nothing left after it was halved so often.
void require_image(const ModelRequest& request, int halvings);

}  // namespace stpt::models
