#include "models/program.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>

#include "models/zoo.hpp"
#include "tests/catch.hpp"
#include "tests/models/program_testing.hpp"
#include "tests/models/reference.hpp"
#include "tests/runtime/runtime_testing.hpp"

namespace stpt::testing {
namespace {

using models::ActivationId;
using models::make_network;
using models::NetworkBuilder;
using runtime::Runtime;

constexpr int classes = 5;

/// Networks that each need something else of the lowering.
struct Form {
  std::string name;
  Shape input;
  std::function<ActivationId(NetworkBuilder&)> layers;

  [[nodiscard]] Network network() const {
    NetworkBuilder net(name, input, classes);
    net.begin_block("first");
    const ActivationId logits = layers(net);
    return net.build(logits);
  }
};

ActivationId classifier(NetworkBuilder& net, ActivationId x) {
  net.begin_block("classifier");
  return net.fully_connected("fc", x, classes);
}

const std::vector<Form>& forms() {
  static const std::vector<Form> all = {
      {"windows that overlap differently in height and width",
       {1, 3, 9, 6},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.relu(net.convolution("conv", net.input(), 8, 3, 1, 1, {.bias = true}));
         return classifier(net, net.average_pool_to(x, 4));
       }},
      {"sum of two convolutions",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.relu(net.convolution("conv1", net.input(), 8, 3, 1, 1, {.bias = true}));
         net.begin_block("second");
         const ActivationId a = net.convolution("conv2", x, 8, 3, 1, 1);
         const ActivationId b = net.relu(net.convolution("conv3", x, 8, 1, 1, 0, {.bias = true}));
         return classifier(net, net.relu(net.add(a, b)));
       }},
      {"channels joined: blocks of them, parts of a block, other layouts, and the images",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId a = net.convolution("conv1", net.input(), 16, 3, 1, 1);
         const ActivationId b = net.relu(net.convolution("conv2", a, 5, 3, 1, 1));
         net.begin_block("second");
         const ActivationId whole = net.concat({net.concat({a, a}), b});
         const ActivationId c = net.batch_norm("bn", net.convolution("conv3", whole, 16, 1, 1, 0));
         return classifier(net, net.relu(net.concat({b, net.input(), c})));
       }},
      {"channels taken apart: all, blocks of them, parts of a block, with gaps, more than once",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId x = net.convolution("conv1", net.input(), 48, 3, 1, 1);
         const ActivationId a = net.slice(x, 0, 16), b = net.slice(x, 16, 32);
         const ActivationId c = net.relu(net.convolution("conv2", net.concat({b, a}), 19, 3, 1, 1));
         net.begin_block("second");
         const ActivationId d = net.add(net.slice(c, 1, 8), net.slice(c, 5, 8));
         const ActivationId e = net.batch_norm("bn", net.convolution("conv3", a, 8, 1, 1, 0));
         return classifier(net, net.concat({net.slice(net.input(), 1, 2), d, net.relu(e),
                                            net.slice(c, 0, 19), net.slice(c, 16, 3)}));
       }},
      {"three readers",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId x = net.convolution("conv1", net.input(), 16, 3, 1, 1);
         net.begin_block("second");
         const ActivationId a = net.convolution("conv2", x, 16, 3, 1, 1);
         const ActivationId b = net.batch_norm("bn", net.convolution("conv3", x, 16, 3, 1, 1));
         return classifier(net, net.relu(net.add(net.add(a, b), x)));
       }},
      {"batch norm with three readers",
       {1, 3, 6, 6},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.relu(net.batch_norm("bn", net.convolution("conv1", net.input(), 8, 3, 1, 1)));
         net.begin_block("second");
         const ActivationId a = net.convolution("conv2", x, 8, 3, 1, 1);
         const ActivationId b = net.convolution("conv3", x, 8, 3, 1, 1);
         const ActivationId c = net.convolution("conv4", x, 8, 1, 1, 0);
         return classifier(net, net.add(net.add(a, b), c));
       }},
      {"images as the shortcut",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.batch_norm("bn", net.convolution("conv1", net.input(), 3, 3, 1, 1));
         return classifier(net, net.relu(net.add(net.input(), x)));
       }},
      {"images plus a convolution",
       {1, 16, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId x = net.convolution("conv1", net.input(), 16, 3, 1, 1);
         const ActivationId sum = net.add(net.input(), x);
         net.begin_block("second");
         return classifier(net, net.add(net.convolution("conv2", x, 16, 3, 1, 1), sum));
       }},
      {"shortcut from another layout",
       {1, 16, 8, 8},
       [](NetworkBuilder& net) {
         // Pooled images stay in the images' layout; the convolution chooses its own.
         const ActivationId pooled = net.max_pool(net.batch_norm("bn1", net.input()), 2, 2);
         const ActivationId x =
             net.batch_norm("bn2", net.convolution("conv1", pooled, 16, 3, 1, 1));
         return classifier(net, net.relu(net.add(x, pooled)));
       }},
      {"batch norm on the images",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId x = net.batch_norm("bn", net.input());
         return classifier(net, net.relu(net.convolution("conv", x, 8, 3, 2, 1)));
       }},
      {"relu after pooling",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         ActivationId x = net.convolution("conv", net.input(), 8, 3, 1, 1);
         x = net.relu(net.max_pool(x, 3, 2, 1));
         x = net.relu(net.average_pool(net.batch_norm("bn", x), 2, 1, 1));
         return classifier(net, x);
       }},
      {"pooled and rectified images",
       {1, 3, 9, 7},
       [](NetworkBuilder& net) {
         const ActivationId a = net.relu(net.input());
         const ActivationId b = net.average_pool(net.input(), 3, 1, 1);
         return classifier(net, net.convolution("conv", net.add(a, b), 8, 3, 1, 0));
       }},
      {"relu that is not alone",
       {1, 3, 6, 6},
       [](NetworkBuilder& net) {
         const ActivationId x = net.convolution("conv", net.input(), 8, 3, 1, 1);
         return classifier(net, net.add(net.relu(x), x));
       }},
      {"all activations of a convolution, and some of images, of a batch norm, and of logits",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId x = net.convolution("conv1", net.input(), 19, 3, 1, 1, {.bias = true});
         ActivationId sum = x;
         for (const auto& [function, word] : codelets::named_activations)
           sum = net.add(sum, net.activation(x, function));
         net.begin_block("second");
         const ActivationId y = net.activation(
             net.batch_norm("bn", net.convolution("conv2", sum, 5, 3, 1, 1)), Activation::sigmoid);
         const ActivationId images = net.activation(net.input(), Activation::tanh);
         const ActivationId logits = classifier(net, net.concat({y, images}));
         return net.activation(logits, Activation::leaky_relu, 0.3f);
       }},
      {"normalisations with other activations, of which one has two readers",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         ActivationId x = net.batch_norm("bn1", net.convolution("conv1", net.input(), 19, 3, 1, 1));
         x = net.activation(x, Activation::silu);
         net.begin_block("second");
         const ActivationId gate =
             net.activation(net.convolution("conv2", net.global_average_pool(x), 19, 1, 1, 0),
                            Activation::sigmoid);
         x = net.batch_norm("bn2", net.convolution("conv3", net.multiply(x, gate), 16, 3, 1, 1));
         x = net.activation(x, Activation::hard_swish);
         x = net.group_norm("gn", net.convolution("conv4", x, 12, 1, 1, 0), 3);
         x = net.activation(x, Activation::leaky_relu, 0.3f);
         x = net.batch_norm("bn3", net.convolution("conv5", x, 8, 3, 2, 1));
         return classifier(net, net.activation(x, Activation::relu6));
       }},
      {"channels shuffled: the images, in blocks, and of one pixel",
       {1, 6, 5, 4},
       [](NetworkBuilder& net) {
         ActivationId x = net.channel_shuffle(net.input(), 3);
         x = net.channel_shuffle(net.convolution("conv1", x, 36, 3, 1, 1), 4);
         net.begin_block("second");
         const ActivationId y = net.convolution("conv2", x, 36, 1, 1, 0, {.groups = 2});
         x = net.global_average_pool(net.relu(net.add(x, y)));
         return classifier(net, net.channel_shuffle(x, 2));
       }},
      {"sum of what is rectified",
       {1, 3, 6, 6},
       [](NetworkBuilder& net) {
         const ActivationId x = net.relu(net.convolution("conv1", net.input(), 8, 3, 1, 1));
         const ActivationId y =
             net.relu(net.batch_norm("bn", net.convolution("conv2", x, 8, 3, 1, 1)));
         return classifier(net, net.relu(net.relu(net.add(y, x))));
       }},
      {"twice the same",
       {1, 3, 6, 6},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.batch_norm("bn", net.convolution("conv", net.input(), 8, 3, 1, 1));
         return classifier(net, net.relu(net.add(x, x)));
       }},
      {"sum of two batch norms",
       {1, 3, 6, 6},
       [](NetworkBuilder& net) {
         const ActivationId x = net.relu(net.convolution("conv1", net.input(), 16, 3, 1, 1));
         const ActivationId a = net.batch_norm("bn1", net.convolution("conv2", x, 32, 3, 2, 1));
         net.begin_block("second");
         const ActivationId b = net.batch_norm("bn2", net.convolution("conv3", x, 32, 1, 2, 0));
         return classifier(net, net.relu(net.add(a, b)));
       }},
      {"no convolution after the last sum",
       {1, 3, 6, 6},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.convolution("conv1", net.input(), classes, 3, 1, 1, {.bias = true});
         const ActivationId y = net.batch_norm("bn", net.convolution("conv2", x, classes, 3, 1, 1));
         return net.global_average_pool(net.relu(net.add(x, y)));
       }},
      {"logits of a convolution",
       {1, 3, 5, 4},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.global_average_pool(net.convolution("conv1", net.input(), 24, 3, 1, 1));
         return net.convolution("conv2", net.relu(x), classes, 1, 1, 0, {.bias = true});
       }},
      {"dense layers with a shortcut",
       {1, 2, 3, 4},
       [](NetworkBuilder& net) {
         const ActivationId x = net.relu(net.fully_connected("fc1", net.input(), 20));
         net.begin_block("second");
         const ActivationId y = net.relu(net.fully_connected("fc2", x, 20));
         return classifier(net, net.add(x, y));
       }},
      {"batch norm of dense layers",
       {1, 2, 3, 4},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.relu(net.batch_norm("bn", net.fully_connected("fc1", net.input(), 20),
                                     {.epsilon = 0.3f, .momentum = 0.7f}));
         return classifier(net, x);
       }},
      {"group norm: of the images, rectified, with three readers, with a sum, of another layout",
       {1, 4, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId pooled = net.max_pool(net.group_norm("gn1", net.input(), 2), 2, 2);
         ActivationId x = net.convolution("conv1", pooled, 24, 3, 1, 1);
         x = net.relu(net.group_norm("gn2", x, 3, {.epsilon = 0.2f}));
         net.begin_block("second");
         const ActivationId a = net.group_norm("gn3", net.convolution("conv2", x, 24, 1, 1, 0), 24);
         const ActivationId b = net.add(net.convolution("conv3", x, 24, 1, 1, 0), x);
         x = net.relu(net.add(net.add(a, b), x));
         const ActivationId c = net.group_norm("gn4", net.convolution("conv4", x, 4, 1, 1, 0), 1);
         return classifier(net, net.relu(net.add(pooled, c)));
       }},
      {"layer norm: of the images, by layouts of cores, rectified, with two readers; of pixels",
       {1, 3, 7, 6},
       [](NetworkBuilder& net) {
         ActivationId x = net.convolution("conv1", net.layer_norm("ln1", net.input()), 20, 3, 1, 1);
         x = net.relu(net.layer_norm("ln2", x, 0.2f));
         net.begin_block("second");
         ActivationId y = net.layer_norm(
             "ln3", net.convolution("conv2", x, 20, 7, 1, 3, {.bias = true, .groups = 20}));
         y = net.activation(net.fully_connected_pixels("fc1", y, 40), Activation::gelu);
         y = net.scale("factor", net.fully_connected_pixels("fc2", y, 20, false),
                       {.initial = 0.5f});
         x = net.global_average_pool(net.add(y, x));
         return classifier(net, net.layer_norm("ln4", x));
       }},
      {"scales: of the images, of one pixel, with a ReLU",
       {1, 4, 5, 4},
       [](NetworkBuilder& net) {
         ActivationId x = net.scale("factor1", net.input());
         x = net.relu(net.scale("factor2", net.convolution("conv", x, 18, 3, 1, 1)));
         x = net.scale("factor3", net.global_average_pool(x), {.dimensions = {18}});
         return classifier(net, x);
       }},
      {"group norm of dense layers",
       {1, 2, 3, 4},
       [](NetworkBuilder& net) {
         const ActivationId x = net.fully_connected("fc1", net.input(), 20);
         return classifier(net, net.relu(net.group_norm("gn", x, 5)));
       }},
      {"logits read twice",
       {1, 2, 3, 4},
       [](NetworkBuilder& net) {
         const ActivationId x = net.fully_connected("fc1", net.input(), classes);
         return net.add(net.relu(x), net.fully_connected("fc2", x, classes));
       }},
      {"channels weighed: by another layout, the images, and two that share a gradient",
       {1, 3, 6, 5},
       [](NetworkBuilder& net) {
         const ActivationId x = net.convolution("conv1", net.input(), 19, 3, 1, 1);
         const ActivationId squeezed = net.global_average_pool(x);
         const ActivationId a = net.relu(net.convolution("conv2", squeezed, 5, 1, 1, 0));
         const ActivationId b = net.fully_connected("fc1", a, 19);
         net.begin_block("second");
         const ActivationId y = net.multiply(net.add(net.multiply(x, b), x), squeezed);
         const ActivationId images = net.global_average_pool(net.input());
         return classifier(net, net.concat({net.relu(y), net.multiply(net.input(), images)}));
       }},
      {"products: of two layouts, with the images, of a tensor with itself; numbers",
       {1, 5, 6, 5},
       [](NetworkBuilder& net) {
         const ActivationId images = net.affine(net.input(), 2, -0.5f);
         ActivationId x = net.multiply(net.input(), net.convolution("conv1", images, 5, 3, 1, 1));
         x = net.convolution("conv2", net.multiply(x, net.input()), 19, 3, 1, 1);
         net.begin_block("second");
         const ActivationId a = net.affine(net.multiply(x, x), 0.3f, 0);
         const ActivationId b = net.multiply(net.layer_norm("ln", x), net.affine(x, 1, 1));
         const ActivationId c =
             net.multiply(net.global_average_pool(x), net.fully_connected("fc1", a, 19));
         return classifier(net, net.multiply(net.add(net.relu(b), a), c));
       }},
      {"padded: images, and blocks of channels",
       {1, 3, 5, 6},
       [](NetworkBuilder& net) {
         ActivationId x = net.pad(net.input(), {0, 1}, {1, 2});
         x = net.relu(net.convolution("conv1", x, 19, 3, 2, 0));
         net.begin_block("second");
         x = net.add(net.max_pool(net.pad(x, 1, {1, 0}), 2, 1), net.pad(x, {1, 0}, 0));
         return classifier(net, x);
       }},
      {"dropped: images, what others read as well, sums and logits",
       {1, 3, 7, 5},
       [](NetworkBuilder& net) {
         const ActivationId x =
             net.convolution("conv1", net.dropout(net.input(), 0.25), 19, 3, 1, 1);
         const ActivationId a = net.dropout(x, 0.5), b = net.dropout(x, 0.5);
         net.begin_block("second");
         const ActivationId c = net.convolution("conv2", a, 19, 3, 1, 1);
         const ActivationId d = net.dropout(
             net.add(net.dropout(net.add(c, b), 0.5, codelets::Dropped::images), x), 0.1);
         return net.dropout(classifier(net, net.relu(d)), 0.2);
       }},
      {"windows that are not square, dilated, and beyond the image; no biases",
       {1, 3, 11, 10},
       [](NetworkBuilder& net) {
         ActivationId x = net.convolution("conv1", net.input(), 19, {1, 7}, {2, 1}, {0, 3});
         x = net.relu(net.convolution("conv2", x, 19, {7, 1}, 1, {3, 0}, {.bias = true}));
         const ActivationId a = net.max_pool(x, 3, 2, 0, {.ceil_mode = true});
         net.begin_block("second");
         const ActivationId b = net.average_pool(
             net.convolution("conv3", x, 19, 3, 1, {2, 3}, {.groups = 19, .dilation = {2, 3}}), 3,
             2, 0, {.ceil_mode = true});
         const ActivationId c =
             net.average_pool(x, {3, 4}, 2, {0, 1}, {.count_padding = true, .ceil_mode = true});
         x = net.convolution("conv4", net.concat({net.add(a, b), c}), 8, 2, 1, 1, {.dilation = 2});
         x = net.relu(net.fully_connected("fc1", x, 12, false));
         return net.fully_connected("fc2", x, classes, false);
       }},
      {"a block without parameters",
       {1, 3, 8, 8},
       [](NetworkBuilder& net) {
         const ActivationId x = net.convolution("conv", net.input(), 8, 3, 1, 1);
         net.begin_block("empty");
         const ActivationId y = net.relu(net.max_pool(x, 2, 2));
         return classifier(net, y);
       }},
  };
  return all;
}

/// A network of random layers over random earlier outputs; all outputs take part in the logits.
Network random_network(unsigned seed) {
  std::mt19937 generator(seed);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(generator() % n); };
  NetworkBuilder net("random " + std::to_string(seed),
                     {1, static_cast<std::int64_t>(1 + below(4)), 7, 6}, classes);
  net.begin_block("block0");
  std::vector<ActivationId> outputs{net.input()};
  std::vector<int> readers{0};
  const auto take = [&](std::size_t index) {
    ++readers[index];
    return outputs[index];
  };
  const std::size_t count = 4 + below(9);
  for (std::size_t layer = 0; layer < count; ++layer) {
    const std::string number = std::to_string(layer);
    if (below(3) == 0) net.begin_block("block" + number);
    // Mostly the newest output, so that layers follow each other.
    const std::size_t from = below(3) == 0 ? below(outputs.size()) : outputs.size() - 1;
    const Shape shape = net.shape(outputs[from]);
    ActivationId made = 0;
    std::size_t kind = below(11);
    if (kind == 10) {
      const auto first = below(static_cast<std::size_t>(shape.c));
      const auto channels = 1 + below(static_cast<std::size_t>(shape.c) - first);
      made = net.slice(take(from), static_cast<int>(first), static_cast<int>(channels));
    } else if (kind >= 7) {  // a sum, if there is something of the same shape
      std::vector<std::size_t> alike;
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (net.shape(outputs[i]) == shape) alike.push_back(i);
      }
      if (alike.size() > 1) {
        const std::size_t other = alike[below(alike.size())];
        const ActivationId a = take(from), b = take(other);
        made = below(3) == 0 ? net.concat({a, b, a}) : net.add(a, b);
      } else {
        kind = below(7);
      }
    }
    constexpr std::array<int, 4> filters = {5, 8, 16, 19};
    if (made != 0) {
    } else if (kind <= 2) {
      const int kernel = below(2) == 0 ? 3 : 1;
      const int to = filters[below(4)];
      const int groups = below(3) == 0 ? std::gcd(static_cast<int>(shape.c), to) : 1;
      made = net.convolution("conv" + number, take(from), to, kernel, 1, kernel / 2,
                             {below(2) == 0, groups});
    } else if (kind == 3 && below(2) == 0) {
      made = net.batch_norm("bn" + number, take(from));
    } else if (kind == 3) {
      const int groups = below(2) == 0 ? 1 : static_cast<int>(shape.c);
      made = net.group_norm("gn" + number, take(from), groups);
    } else if (kind <= 5) {
      const auto& all = codelets::named_activations;
      const std::size_t function = below(2 * all.size() + 4);
      if (function < all.size()) {
        made = net.activation(take(from), all[function].first);
      } else if (function < all.size() + 4) {
        made =
            net.dropout(take(from), 0.3,
                        below(2) == 0 ? codelets::Dropped::elements : codelets::Dropped::channels);
      } else {
        made = net.relu(take(from));
      }
    } else if (below(2) == 0) {
      made = net.max_pool(take(from), 3, 1, 1);
    } else {
      made = net.average_pool(take(from), 3, 1, 1);
    }
    outputs.push_back(made);
    readers.push_back(0);
  }
  net.begin_block("end");
  ActivationId logits = -1;
  for (std::size_t i = 1; i < outputs.size(); ++i) {
    if (readers[i] > 0) continue;
    const ActivationId part = net.fully_connected("fc" + std::to_string(i), outputs[i], classes);
    logits = logits < 0 ? part : net.add(logits, part);
  }
  const Network network = net.build(logits);
  return seed % 2 == 0 ? network : with_a_bucket_per_block(network);
}

Reference reference_of(const Problem& problem) {
  Reference reference(problem.network, problem.batch, problem.images, problem.labels);
  reference.keys = problem.keys;
  for (const auto& bucket : problem.values.parameters) {
    reference.parameters.emplace_back(bucket.begin(), bucket.end());
  }
  if (!problem.values.running.empty()) {
    reference.running.assign(problem.values.running[0].begin(), problem.values.running[0].end());
  }
  return reference;
}

/// Losses and running statistics of all modes, and some of all gradients, against the reference in
/// double. Rounding to float32 (6e-8) grows with the depth and where batch norm divides by a small
/// deviation; what goes wrong in a lowering is wrong in the first digit.
void check_against_reference(const Problem& problem, const LoweringOptions& options) {
  INFO(problem.network.name << ", grain " << static_cast<int>(options.grain));
  const Tolerance forward{1e-4, 1e-5};
  for (const Mode mode :
       {Mode::train, Mode::batch_statistics, Mode::inference, Mode::calibration}) {
    INFO("mode " << static_cast<int>(mode));
    const Outcome outcome = execute(problem, mode, options);
    Reference reference = reference_of(problem);
    reference.label_smoothing = static_cast<double>(options.label_smoothing);
    const auto losses = reference.losses(mode);
    if (mode != Mode::calibration) {
      std::vector<float> actual;
      for (const SampleScore& score : outcome.scores) actual.push_back(score.loss);
      require_close("losses", actual, losses, forward);
    }
    REQUIRE(same(outcome.values.parameters, problem.values.parameters));
    if (problem.network.has_batch_norm()) {
      require_close("running statistics", outcome.values.running[0], reference.running, forward);
    }
    if (mode == Mode::batch_statistics || mode == Mode::inference) {
      REQUIRE(same(outcome.values.running, problem.values.running));
    }
    if (mode != Mode::train) continue;

    // Central differences in double: truncation 1e-10, and no rounding to speak of.
    for (const models::Parameter& parameter : problem.network.parameters) {
      const auto gradient = outcome.gradient(parameter);
      std::vector<double> numerical, analytical;
      auto& bucket = reference.parameters[static_cast<std::size_t>(parameter.bucket)];
      const std::size_t places = std::min<std::size_t>(gradient.size(), 4);
      for (std::size_t i = 0; i < places; ++i) {
        const std::size_t place = i * (gradient.size() - 1) / std::max<std::size_t>(places - 1, 1);
        double& value = bucket[parameter.offset + place];
        const double before = value, step = 1e-6;
        value = before + step;
        const double above = reference.mean_loss(mode);
        value = before - step;
        const double below = reference.mean_loss(mode);
        value = before;
        numerical.push_back((above - below) / (2 * step));
        analytical.push_back(static_cast<double>(gradient[place]));
      }
      REQUIRE(std::ranges::all_of(gradient, [](float g) { return std::isfinite(g); }));
      double largest = 0;
      for (const float g : gradient) largest = std::max(largest, std::abs(static_cast<double>(g)));
      require_close(parameter.name + " gradient", analytical, numerical,
                    {0, 1e-3 * largest + 1e-5});
    }
    // What lies between the parameters has stayed 0.
    std::size_t padding = 0, zeros = 0;
    for (std::size_t b = 0; b < outcome.gradients.size(); ++b) {
      std::vector<bool> used(outcome.gradients[b].size());
      for (const models::Parameter& parameter : problem.network.parameters) {
        if (parameter.bucket != static_cast<int>(b)) continue;
        std::fill_n(used.begin() + static_cast<std::ptrdiff_t>(parameter.offset),
                    parameter.shape.elements(), true);
      }
      for (std::size_t i = 0; i < used.size(); ++i) {
        if (used[i]) continue;
        ++padding;
        zeros += outcome.gradients[b][i] == 0 ? 1 : 0;
      }
    }
    REQUIRE(padding == zeros);
  }
}

constexpr std::array<Grain, 3> grains = {Grain::op, Grain::block, Grain::step};

TEST_CASE("networks of all forms compute what they say", "[program]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  for (const Form& form : forms()) {
    SECTION(form.name) {
      for (const Grain grain : grains)
        check_against_reference(Problem(with_a_bucket_per_block(form.network()), 3, 7), {grain});
    }
  }
}

TEST_CASE("the models of the zoo compute what they say", "[program]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Network lenet5 = with_a_bucket_per_block(make_network("lenet5", {1, 1, 28, 28}, 10));
  check_against_reference(Problem(lenet5, 2, 3), {Grain::block});
  check_against_reference(Problem(make_network("mlp", {1, 1, 6, 6}, 10), 3, 4), {Grain::op});
  check_against_reference(Problem(make_network("resnet8", {1, 3, 12, 12}, 10), 2, 5),
                          {Grain::step});
}

TEST_CASE("labels are smoothed for training alone", "[program]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  LoweringOptions options;
  options.label_smoothing = 0.2f;
  check_against_reference(Problem(make_network("mlp", {1, 1, 6, 6}, 10), 3, 4), options);
}

TEST_CASE("every model of the zoo can be lowered", "[program]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  for (const models::ModelInfo& info : models::available_models()) {
    INFO(info.name);
    const Network network = make_network(info.name, {1, 3, 32, 32}, 10);
    const Program program(network, 2, Mode::train, {Grain::block});
    // A segment forward and one backward for each block; the loss goes with the last one.
    CHECK(program.segments() == 2 * network.blocks.size());
  }
}

TEST_CASE("random networks compute what they say", "[program]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  for (unsigned seed = 1; seed <= 40; ++seed) {
    check_against_reference(Problem(random_network(seed), 3, seed), {grains[seed % 3]});
  }
}

TEST_CASE("the grain changes no bit", "[program]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  for (unsigned seed = 0; seed <= 12; ++seed) {
    const Problem problem(
        seed == 0 ? make_network("resnet8", {1, 3, 16, 16}, 10) : random_network(100 + seed), 4,
        seed);
    const Optimizer optimizer(problem.network, {.momentum = 0.9f, .weight_decay = 1e-3f}, false);
    const Outcome one = execute(problem, Mode::train, Grain::step, How::here, &optimizer, 3);
    INFO(problem.network.name);
    for (const Grain grain : grains) {
      CHECK(same(execute(problem, Mode::train, grain, How::tasks, &optimizer, 3), one));
      CHECK(same(execute(problem, Mode::train, grain, How::here, &optimizer, 3), one));
    }
  }
}

TEST_CASE("workers and scheduler change no bit", "[program]") {
  const Problem problem(make_network("resnet8", {1, 3, 16, 16}, 10), 4, 9);
  const Optimizer optimizer(problem.network, {.momentum = 0.9f, .weight_decay = 1e-3f}, false);
  const auto train = [&](int workers, const std::string& scheduler, Grain grain) {
    Runtime runtime({.cpu_workers = workers_up_to(workers), .scheduler = scheduler});
    return execute(problem, Mode::train, grain, How::tasks, &optimizer, 3);
  };
  const Outcome one = train(1, "eager", Grain::step);
  for (const char* scheduler : {"eager", "lws", "dmda"}) {
    for (const int workers : {1, 2, 8}) {
      for (const Grain grain : {Grain::op, Grain::block}) {
        INFO(scheduler << ", " << workers << " workers");
        CHECK(same(train(workers, scheduler, grain), one));
      }
    }
  }
}

TEST_CASE("chains in flight on few lanes do not disturb each other", "[program]") {
  const int workers = GENERATE(1, 2, 8);
  const std::size_t lanes = GENERATE(1U, 2U, 3U);
  const Grain grain = GENERATE(Grain::op, Grain::block, Grain::step);
  Runtime runtime({.cpu_workers = workers_up_to(workers), .scheduler = "lws"});
  std::vector<Problem> problems;
  std::vector<Outcome> alone;
  for (unsigned seed = 1; seed <= 6; ++seed) {
    problems.emplace_back(with_a_bucket_per_block(make_network("resnet8", {1, 3, 8, 8}, classes)),
                          2, seed);
    alone.push_back(execute(problems.back(), Mode::train, grain));
  }
  const Program program(problems[0].network, 2, Mode::train, {grain});
  std::vector<Lane> memory;
  for (std::size_t lane = 0; lane < lanes; ++lane) memory.push_back(program.make_lane());
  std::vector<ModelState> states;
  std::vector<Buffers> buffers;
  for (const Problem& problem : problems) {
    models::write(states.emplace_back(problem.network, 1, "state"), problem.values);
    buffers.emplace_back(problem);
  }
  for (std::size_t i = 0; i < problems.size(); ++i) {
    program.submit(buffers[i].inputs(states[i], memory[i % lanes]));
  }
  runtime.wait_for_all();
  for (std::size_t i = 0; i < problems.size(); ++i) {
    CHECK(same(Outcome::of(buffers[i], states[i], Mode::train), alone[i]));
  }
}

TEST_CASE("a program pinned to a worker computes the same", "[program]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = "lws"});
  const Problem problem(make_network("lenet5", {1, 1, 28, 28}, 10), 2, 1);
  const Outcome anywhere = execute(problem, Mode::train, Grain::block);
  for (const runtime::Worker& worker : runtime.workers()) {
    const Program program(problem.network, 2, Mode::train, {Grain::block});
    ModelState state(problem.network, 1, "state");
    models::write(state, problem.values);
    const Buffers buffers(problem);
    const Lane lane = program.make_lane();
    program.submit(buffers.inputs(state, lane), worker.id, 1);
    runtime.wait_for_all();
    CHECK(same(Outcome::of(buffers, state, Mode::train), anywhere));
  }
}

TEST_CASE("the coarser the grain, the fewer the segments and the less passes between them",
          "[program]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const Network network = make_network("resnet20", {1, 3, 32, 32}, 10);
  const Program op(network, 8, Mode::train, {Grain::op}),
      block(network, 8, Mode::train, {Grain::block}), step(network, 8, Mode::train, {Grain::step}),
      inference(network, 8, Mode::inference, {Grain::block});
  CHECK(op.segments() == op.operations());
  CHECK(op.operations() == step.operations());
  CHECK(block.segments() == 2 * network.blocks.size());
  CHECK(step.segments() == 1);
  CHECK(inference.segments() == network.blocks.size());
  // Convolutions and batch norms of 19 layers and 2 shortcuts; pool, dense layer and loss.
  CHECK(inference.operations() == 2 * (19 + 2) + 3);
  CHECK(step.lane_bytes() == 0);
  CHECK(block.lane_bytes() < op.lane_bytes());
  CHECK(inference.lane_bytes() + inference.scratch_bytes() < block.lane_bytes());
}

TEST_CASE("gradients of neighbouring slices are joined at once, in whatever order they are taken",
          "[program]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const auto operations = [](const std::vector<int>& firsts) {
    NetworkBuilder net("slices", {1, 3, 4, 4}, classes);
    const ActivationId x = net.convolution("conv", net.input(), 12, 3, 1, 1);
    std::vector<ActivationId> parts;
    for (const int first : firsts) parts.push_back(net.relu(net.slice(x, first, 4)));
    const ActivationId logits = net.fully_connected("fc", net.concat(parts), classes);
    return Program(net.build(logits), 2, Mode::train, {Grain::op}).operations();
  };
  CHECK(operations({0, 4, 8}) == operations({8, 4, 0}));
}

TEST_CASE("programs that CPUs cannot run are errors that say what to change", "[program]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  Network network = make_network("lenet5", {1, 1, 28, 28}, 10);
  const auto refused = [&](int batch) {
    return message_of<std::invalid_argument>(
        [&] { Program(network, batch, Mode::train, {Grain::op}); });
  };
  CHECK(contains(refused(0), "a batch of 0"));
  network.data_type = runtime::DataType::bfloat16;
  const std::string message = refused(1);
  CHECK(contains(message, "model.data_type"));
  CHECK(contains(message, "bfloat16"));
  CHECK(contains(message, "float32"));
}

TEST_CASE("batch statistics of a single value are an error", "[program]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  NetworkBuilder net("single", {1, 3, 1, 1}, classes);
  const Network network =
      net.build(net.fully_connected("fc", net.batch_norm("bn", net.input()), classes));
  CHECK_THROWS_AS(Program(network, 1, Mode::train, {Grain::op}), std::invalid_argument);
  CHECK_NOTHROW(Program(network, 2, Mode::train, {Grain::op}));
  CHECK_NOTHROW(Program(network, 1, Mode::inference, {Grain::op}));
}

TEST_CASE("What is made of the images without parameters has no backward", "[program]") {
  const auto operations = [](bool with_pad) {
    NetworkBuilder net("net", {1, 3, 8, 8}, classes);
    net.begin_block("only");
    ActivationId x = net.input();
    if (with_pad) x = net.affine(net.pad(x, 1, 1), 2, -1);
    x = net.convolution("conv", x, 8, 3, 1, with_pad ? 0 : 1, {});
    const Network network = net.build(classifier(net, x));
    return models::lower({network, 4, models::Mode::train, {}, 1}).operations.size();
  };
  CHECK(operations(true) == operations(false) + 2);
}

}  // namespace
}  // namespace stpt::testing
