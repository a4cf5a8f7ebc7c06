#include "models/network.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <stdexcept>

#include "models/zoo.hpp"
#include "runtime/tensor.hpp"
#include "tests/catch.hpp"
#include "tests/runtime/runtime_testing.hpp"

namespace stpt::models {
namespace {

using testing::contains;
using testing::message_of;

template <class Act>
std::string refusal(Act&& act) {
  return message_of<std::invalid_argument>(std::forward<Act>(act));
}

TEST_CASE("parameter counts are those of the papers", "[zoo]") {
  // LeNet-5 with full connections between its convolutions: the well-known 61,706.
  CHECK(make_network("lenet5", {1, 1, 28, 28}, 10).parameter_count() == 61706);
  CHECK(make_network("lenet5", {1, 1, 32, 32}, 10).parameter_count() == 61706);
  // He et al. 2015, table 6: 0.27M and 0.85M; with the 1x1 shortcuts of option B 2752 more each.
  CHECK(make_network("resnet20", {1, 3, 32, 32}, 10).parameter_count() == 269722 + 2752);
  CHECK(make_network("resnet56", {1, 3, 32, 32}, 10).parameter_count() == 853018 + 2752);
  CHECK(make_network("mlp", {1, 1, 28, 28}, 10).parameter_count() ==
        (784 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 10);
}

TEST_CASE("operations are counted as 2 per multiply-add", "[zoo]") {
  // ResNet-20: 40.55 million multiply-adds without shortcuts, 2 * 131072 for the two of option B.
  constexpr double stem = 3 * 16 * 9 * 1024.0, stage1 = 6 * 16 * 16 * 9 * 1024.0;
  constexpr double stage2 = (16 + 5 * 32) * 32 * 9 * 256.0, stage3 = (32 + 5 * 64) * 64 * 9 * 64.0;
  constexpr double shortcuts = 16 * 32 * 256.0 + 32 * 64 * 64.0, dense = 64 * 10;
  constexpr double all = stem + stage1 + stage2 + stage3 + shortcuts + dense;
  CHECK(make_network("resnet20", {1, 3, 32, 32}, 10).flops_per_image() == 2 * all);
  CHECK(all == Approx(40.55e6 + 2 * 131072).epsilon(1e-3));
  CHECK(make_network("mlp", {1, 1, 28, 28}, 10).flops_per_image() ==
        2.0 * (784 * 256 + 256 * 256 + 256 * 10));
  CHECK(make_network("lenet5", {1, 1, 28, 28}, 10).flops_per_image() ==
        2.0 * (6 * 25 * 784 + 16 * 6 * 25 * 100 + 400 * 120 + 120 * 84 + 84 * 10));
}

TEST_CASE("the networks of ImageNet have the published numbers of parameters and multiply-adds",
          "[zoo]") {
  struct Published {
    const char* name;
    std::int64_t parameters;
    double giga_multiply_adds;  // to the 2 decimals that torchvision's documentation has
  };
  for (const Published& published : {Published{"resnet18", 11'689'512, 1.81},
                                     {"resnet34", 21'797'672, 3.66},
                                     {"resnet50", 25'557'032, 4.09},
                                     {"resnext50_32x4d", 25'028'904, 4.23},
                                     {"resnext101_32x8d", 88'791'336, 16.41},
                                     {"resnext101_64x4d", 83'455'272, 15.46},
                                     {"wide_resnet50_2", 68'883'240, 11.40},
                                     {"wide_resnet101_2", 126'886'696, 22.75},
                                     {"densenet121", 7'978'856, 2.83},
                                     {"densenet161", 28'681'000, 7.73},
                                     {"densenet169", 14'149'480, 3.36},
                                     {"densenet201", 20'013'928, 4.29},
                                     {"resnet101", 44'549'160, 7.80},
                                     {"resnet152", 60'192'808, 11.51},
                                     {"vgg11", 132'863'336, 7.61},
                                     {"vgg13", 133'047'848, 11.31},
                                     {"vgg16", 138'357'544, 15.47},
                                     {"vgg19", 143'667'240, 19.63},
                                     {"vgg11_bn", 132'868'840, 7.61},
                                     {"vgg16_bn", 138'365'992, 15.47},
                                     {"mobilenet_v2", 3'504'872, 0.30},
                                     {"mobilenet_v3_small", 2'542'856, 0.06},
                                     {"mobilenet_v3_large", 5'483'032, 0.22},
                                     {"efficientnet_b0", 5'288'548, 0.39},
                                     {"efficientnet_b1", 7'794'184, 0.69},
                                     {"efficientnet_b2", 9'109'994, 1.09},
                                     {"efficientnet_b3", 12'233'232, 1.83},
                                     {"efficientnet_b4", 19'341'616, 4.39},
                                     {"efficientnet_b5", 30'389'784, 10.27},
                                     {"efficientnet_b6", 43'040'704, 19.07},
                                     {"efficientnet_b7", 66'347'960, 37.75}}) {
    INFO(published.name);
    const auto& models = available_models();
    const auto info = std::ranges::find(models, published.name, &ModelInfo::name);
    REQUIRE(info != models.end());
    const Network network = make_network(published.name, info->usual_input, 1000);
    CHECK(network.parameter_count() == published.parameters);
    CHECK(network.flops_per_image() / 2e9 == Approx(published.giga_multiply_adds).margin(0.0051));
  }
}

TEST_CASE("gamma 0 is for the last BatchNorm of each residual branch", "[zoo]") {
  for (const char* name : {"mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0"}) {
    INFO(name);
    const Network network = make_network(name, {1, 3, 32, 32}, 10, {.zero_gamma = true});
    for (const Layer& layer : network.layers) {
      if (layer.kind != LayerKind::batch_norm) continue;
      const auto reader = [&](ActivationId id) {
        return std::ranges::find_if(network.layers, [id](const Layer& other) {
          return std::ranges::find(other.inputs, id) != other.inputs.end();
        });
      };
      auto next = reader(layer.output);
      if (next->kind == LayerKind::dropout) next = reader(next->output);
      const bool ends_branch =
          next->kind == LayerKind::add &&
          (layer.output == next->inputs[0] || reader(layer.output)->output == next->inputs[0]);
      CHECK((network.parameter(layer.weight).initial == 0.0f) == ends_branch);
    }
  }
  for (const char* name : {"resnet20", "resnet18", "resnet50"}) {
    INFO(name);
    const Network network = make_network(name, {1, 3, 32, 32}, 10, {.zero_gamma = true});
    const std::string last = std::string(name) == "resnet50" ? ".bn3.weight" : ".bn2.weight";
    int zeros = 0;
    for (const Parameter& parameter : network.parameters) {
      if (!parameter.name.ends_with(".weight") || parameter.shape.n != 1) continue;
      const bool zero = parameter.initial == 0.0f;
      CHECK(zero == parameter.name.ends_with(last));
      zeros += zero;
    }
    int sums = 0;
    for (const Layer& layer : network.layers) sums += layer.kind == LayerKind::add;
    CHECK(zeros == sums);
  }
  for (const char* name : {"vgg11_bn", "lenet5"}) {
    const std::string message = refusal([&] {
      (void)make_network(name, {1, 3, 32, 32}, 10, {.zero_gamma = true});
    });
    CHECK(contains(message, std::string(name) + ": has no residual branch"));
  }
}

TEST_CASE("a VGG's classifier takes what the stages leave of the image", "[zoo]") {
  const auto inputs = [](std::int64_t h, std::int64_t w) {
    for (const Parameter& parameter : make_network("vgg11", {1, 3, h, w}, 10).parameters) {
      if (parameter.name == "classifier.0.weight") return parameter.shape.c;
    }
    return std::int64_t{0};
  };
  CHECK(inputs(32, 32) == 512);
  CHECK(inputs(64, 96) == 512 * 2 * 3);
  CHECK(inputs(224, 224) == 512 * 49);
  CHECK(inputs(256, 256) == 512 * 49);
  CHECK(inputs(448, 230) == 512 * 49);
  CHECK(inputs(448, 192) == 512 * 14 * 6);
}

TEST_CASE("a VGG drops half of what its first two fully connected layers give", "[zoo]") {
  for (const char* name : {"vgg11", "vgg16_bn"}) {
    const Network network = make_network(name, {1, 3, 32, 32}, 10);
    std::vector<LayerKind> last;
    for (const Layer& layer : network.layers) {
      last.push_back(layer.kind);
      if (layer.kind == LayerKind::dropout) CHECK(layer.rate == 0.5);
    }
    using enum LayerKind;
    last.erase(last.begin(), last.end() - 7);
    CHECK(last == std::vector{fully_connected, relu, dropout, fully_connected, relu, dropout,
                              fully_connected});
    CHECK(std::ranges::count(network.layers, dropout, &Layer::kind) == 2);
  }
}

TEST_CASE("MobileNets and EfficientNets drop what torchvision's do", "[zoo]") {
  using codelets::Dropped;
  const auto drops = [](const char* name) {
    std::vector<std::pair<double, Dropped>> rates;
    for (const Layer& layer : make_network(name, {1, 3, 64, 64}, 10).layers) {
      if (layer.kind == LayerKind::dropout) rates.emplace_back(layer.rate, layer.dropped);
    }
    return rates;
  };
  const std::vector<std::pair<double, Dropped>> before_classifier = {{0.2, Dropped::elements}};
  for (const char* name : {"mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"})
    CHECK(drops(name) == before_classifier);
  // B0 has 16 blocks; those that have a shortcut, counted from 0:
  std::vector<std::pair<double, Dropped>> b0;
  for (const int block : {2, 4, 6, 7, 9, 10, 12, 13, 14})
    b0.emplace_back(0.2 * block / 16, Dropped::images);
  b0.emplace_back(0.2, Dropped::elements);
  CHECK(drops("efficientnet_b0") == b0);
  CHECK(drops("efficientnet_b4").back() == std::pair(0.4, Dropped::elements));
}

TEST_CASE("every model fits its usual images and others", "[zoo]") {
  for (const ModelInfo& info : available_models()) {
    INFO(info.name);
    const bool halves_all = info.name.starts_with("vgg") || info.name.starts_with("densenet");
    for (const Shape& input : {info.usual_input, Shape{1, 3, 32, 32}, Shape{1, 1, 28, 28},
                               Shape{1, 3, 40, 24}, Shape{1, 3, 256, 256}}) {
      if (halves_all && std::min(input.h, input.w) < 32) continue;
      const Network network = make_network(info.name, input, 7);
      CHECK(network.name == info.name);
      CHECK(network.classes == 7);
      CHECK(network.input() == input);
      CHECK(network.activations[static_cast<std::size_t>(network.logits)] == Shape{1, 7, 1, 1});
    }
    CHECK_FALSE(info.description.empty());
  }
}

TEST_CASE("parameters lie aligned in the buckets, without overlap, each with its own name",
          "[network]") {
  for (const ModelInfo& info : available_models()) {
    const Network network = make_network(info.name, info.usual_input, 10);
    std::set<std::string> names;
    std::vector<std::size_t> ends(network.buckets.size(), 0);
    std::int64_t count = 0;
    for (const Parameter& parameter : network.parameters) {
      auto& end = ends[static_cast<std::size_t>(parameter.bucket)];
      CHECK(parameter.offset >= end);
      CHECK(parameter.offset * sizeof(float) % runtime::tensor_alignment == 0);
      end = parameter.offset + static_cast<std::size_t>(parameter.shape.elements());
      names.insert(parameter.name);
      count += parameter.shape.elements();
      const bool is_weight = !parameter.initial;
      CHECK(parameter.decay == is_weight);
    }
    for (std::size_t i = 0; i < ends.size(); ++i) CHECK(ends[i] <= network.buckets[i]);
    CHECK(names.size() == network.parameters.size());
    CHECK(count == network.parameter_count());
  }
}

TEST_CASE("neighbouring blocks share a bucket until it is large enough", "[network]") {
  const auto sizes = [](const char* model, std::size_t least) {
    Network network = make_network(model, {1, 3, 32, 32}, 10);
    make_buckets(network, least);
    // Blocks are never torn apart.
    std::map<int, int> bucket_of;
    for (const Layer& layer : network.layers) {
      if (layer.weight < 0) continue;
      const int bucket = network.parameters[static_cast<std::size_t>(layer.weight)].bucket;
      CHECK(bucket_of.try_emplace(layer.block, bucket).first->second == bucket);
    }
    return network.buckets;
  };
  for (const char* model : {"lenet5", "plain_cnn", "resnet20", "resnet56", "resnet50", "vgg11"}) {
    INFO(model);
    const std::vector<std::size_t> blocks = sizes(model, 1);
    const auto all = std::accumulate(blocks.begin(), blocks.end(), std::size_t{0});
    const std::size_t largest = *std::ranges::max_element(blocks);
    for (const std::size_t least : {std::size_t{5000}, least_bucket, all}) {
      const std::vector<std::size_t> buckets = sizes(model, least);
      CHECK(std::accumulate(buckets.begin(), buckets.end(), std::size_t{0}) == all);
      for (std::size_t i = 0; i < buckets.size(); ++i) {
        CHECK((i == 0 || buckets[i] >= least));
        CHECK(buckets[i] < least + largest);
      }
    }
    CHECK(sizes(model, all).size() == 1);
    CHECK(sizes(model, all + 1).size() == 1);
  }
  CHECK(make_network("resnet20", {1, 3, 32, 32}, 10).buckets == sizes("resnet20", least_bucket));
  CHECK(sizes("resnet20", least_bucket).size() == 2);
}

TEST_CASE("averages down to a size take equal windows that cover the image", "[network]") {
  NetworkBuilder net("net", {1, 3, 30, 17}, 10);
  const ActivationId x = net.average_pool_to(net.input(), 7);
  CHECK(net.shape(x) == Shape{1, 3, 7, 7});
  CHECK(net.average_pool_to(x, 7) == x);
  CHECK(net.average_pool_to(x, 8) == x);
  const Network network = net.build(net.fully_connected("fc", x, 10));
  const Layer& layer = network.layers.front();
  CHECK(layer.kind == LayerKind::average_pool);
  CHECK(layer.window.stride == 2);
  CHECK(6 * 2 + layer.window.kernel.h == 30);
  CHECK(6 * 2 + layer.window.kernel.w == 17);
}

TEST_CASE("weights start as He et al. have it", "[network]") {
  const Network network = make_network("resnet20", {1, 3, 32, 32}, 10);
  const auto buckets = network.initial_parameters(42);
  REQUIRE(buckets.size() == network.buckets.size());
  for (const Parameter& parameter : network.parameters) {
    const auto count = static_cast<std::size_t>(parameter.shape.elements());
    const float* values =
        buckets[static_cast<std::size_t>(parameter.bucket)].data() + parameter.offset;
    INFO(parameter.name);
    if (parameter.initial) {
      CHECK(std::all_of(values, values + count, [&](float v) { return v == parameter.initial; }));
      continue;
    }
    CHECK(parameter.fan_in == parameter.shape.elements() / parameter.shape.n);
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < count; ++i)
      mean += static_cast<double>(values[i]) / static_cast<double>(count);
    for (std::size_t i = 0; i < count; ++i) {
      variance += std::pow(static_cast<double>(values[i]) - mean, 2) / static_cast<double>(count);
    }
    const double stddev = std::sqrt(2.0 / static_cast<double>(parameter.fan_in));
    // 4.5 standard errors: one wrong alarm in 150,000 draws, and the seed is fixed.
    const double error = 4.5 / std::sqrt(static_cast<double>(count));
    CHECK(std::abs(mean) < error * stddev);
    CHECK(std::abs(std::sqrt(variance) / stddev - 1) < error / std::sqrt(2.0));
  }
}

TEST_CASE("initial values depend on the seed and on nothing else", "[network]") {
  const Network network = make_network("resnet8", {1, 3, 32, 32}, 10);
  CHECK(network.initial_parameters(1) == network.initial_parameters(1));
  CHECK(network.initial_parameters(1) != network.initial_parameters(2));
  // The same parameters in other company: of all images, and beside more classes.
  const Network other = make_network("resnet8", {1, 3, 16, 16}, 100);
  const auto a = network.initial_parameters(5), b = other.initial_parameters(5);
  for (std::size_t bucket = 0; bucket + 1 < a.size(); ++bucket) CHECK(a[bucket] == b[bucket]);
  // No two weight tensors share their numbers.
  std::set<float> firsts;
  std::size_t weights = 0;
  for (const Parameter& parameter : network.parameters) {
    if (parameter.initial) continue;
    const double scale = std::sqrt(static_cast<double>(parameter.fan_in));
    const float first = a[static_cast<std::size_t>(parameter.bucket)][parameter.offset];
    firsts.insert(static_cast<float>(static_cast<double>(first) * scale));
    ++weights;
  }
  CHECK(firsts.size() == weights);
}

TEST_CASE("running statistics start as mean 0 and variance 1", "[network]") {
  const Network network = make_network("resnet8", {1, 3, 32, 32}, 10);
  REQUIRE(network.has_batch_norm());
  const auto values = network.initial_running_statistics();
  CHECK(values.size() == network.running_statistics);
  double ones = 0, channels = 0;
  for (const Layer& layer : network.layers) {
    if (layer.kind != LayerKind::batch_norm) continue;
    channels += static_cast<double>(network.activations[static_cast<std::size_t>(layer.output)].c);
    CHECK(values[static_cast<std::size_t>(layer.running_mean)] == 0);
    CHECK(values[static_cast<std::size_t>(layer.running_variance)] == 1);
  }
  for (const float value : values) ones += static_cast<double>(value);
  CHECK(ones == channels);
  CHECK_FALSE(make_network("lenet5", {1, 1, 28, 28}, 10).has_batch_norm());
}

TEST_CASE("layers that do not fit are errors that name the layer and the shapes", "[network]") {
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  const ActivationId x = net.convolution("conv1", net.input(), 4, 3, 1, 1);
  const ActivationId small = net.convolution("conv2", x, 4, 3, 2, 1);
  const std::string sum = refusal([&] { net.add(x, small); });
  CHECK(contains(sum, "net: cannot add"));
  CHECK(contains(sum, "1x4x8x8"));
  CHECK(contains(sum, "1x4x4x4"));
  const std::string convolution = refusal([&] { net.convolution("conv3", x, 4, 11, 1, 0); });
  CHECK(contains(convolution, "net: layer conv3"));
  CHECK(contains(convolution, "8x8"));
  CHECK_FALSE(refusal([&] { net.convolution("conv4", x, 0, 3, 1, 1); }).empty());
  CHECK_FALSE(refusal([&] { net.convolution("conv5", x, 4, 3, 0, 1); }).empty());
  CHECK(contains(refusal([&] { net.max_pool(x, 9, 1); }), "net: pooling"));
  CHECK(contains(refusal([&] { net.average_pool(x, 3, 0); }), "net: pooling"));
  CHECK(contains(refusal([&] { net.fully_connected("fc0", x, 0); }), "net: layer fc0"));
  for (const float slope : {0.0f, -0.1f, std::numeric_limits<float>::infinity()}) {
    CHECK(contains(refusal([&] { net.activation(x, codelets::Activation::leaky_relu, slope); }),
                   "net: layer leaky_relu: a slope of"));
  }
  CHECK_THROWS_AS(net.relu(99), std::out_of_range);
  CHECK_THROWS_AS(net.relu(-1), std::out_of_range);
}

TEST_CASE("outputs that are no logits, and layers for nothing, are errors", "[network]") {
  {
    NetworkBuilder net("net", {1, 3, 8, 8}, 10);
    const ActivationId x = net.fully_connected("fc", net.input(), 9);
    const std::string message = refusal([&] { (void)net.build(x); });
    CHECK(contains(message, "1x9x1x1"));
    CHECK(contains(message, "10 classes"));
  }
  NetworkBuilder net("net", {1, 3, 8, 8}, 10);
  const ActivationId x = net.fully_connected("fc", net.input(), 10);
  net.convolution("lonely", net.input(), 4, 3, 1, 1);
  CHECK(contains(refusal([&] { (void)net.build(x); }), "lonely"));
}

TEST_CASE("a model that cannot be made is an error that says what would do", "[zoo]") {
  const std::string unknown = refusal([] { (void)make_network("resnet21", {1, 3, 32, 32}, 10); });
  CHECK(contains(unknown, "\"resnet21\""));
  CHECK(contains(unknown, "perhaps \"resnet20\"?"));
  CHECK(contains(refusal([] {
                   (void)make_network("vgg", {1, 3, 32, 32}, 10);
                 }),
                 "perhaps \"vgg11\"?"));
  CHECK(contains(unknown, "lenet5"));
  const std::string far = refusal([] { (void)make_network("transformer", {1, 3, 32, 32}, 10); });
  CHECK_FALSE(contains(far, "perhaps"));
  CHECK(contains(far, "resnet56"));
  CHECK(contains(refusal([] { (void)make_network("lenet5", {1, 1, 4, 4}, 10); }), "lenet5"));
  CHECK(contains(refusal([] { (void)make_network("mlp", {1, 1, 0, 4}, 10); }), "1x1x0x4"));
  CHECK(refusal([] {
          (void)make_network("vgg16", {1, 3, 32, 31}, 10);
        }) == "vgg16: images of 32x31 pixels are too small; at least 32x32 are needed");
  CHECK(refusal([] {
          (void)make_network("plain_cnn", {1, 3, 7, 8}, 10);
        }) == "plain_cnn: images of 7x8 pixels are too small; at least 8x8 are needed");
  CHECK(contains(refusal([] { (void)make_network("mlp", {1, 1, 4, 4}, 1); }), "1 classes"));
}

}  // namespace
}  // namespace stpt::models
