#include "models/network.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>

#include "codelets/channel_shuffle.hpp"
#include "codelets/concat.hpp"
#include "codelets/conv2d.hpp"
#include "codelets/group_norm.hpp"
#include "codelets/layer_norm.hpp"
#include "codelets/pool2d.hpp"
#include "runtime/random.hpp"
#include "runtime/tensor.hpp"

namespace stpt::models {
namespace {

/// Parameters start at whole alignment units, so that every kernel sees aligned pointers.
std::size_t padded(const Shape& shape) {
  return runtime::align_up(static_cast<std::size_t>(shape.elements()) * sizeof(float)) /
         sizeof(float);
}

/// What `ask` says of a layer, or what is wrong with it as LayerError.
template <class Ask>
auto fitting(const std::string& place, const Ask& ask) {
  try {
    return ask();
  } catch (const std::invalid_argument& error) {
    throw LayerError(place, error.what());
  }
}

}  // namespace

std::int64_t Network::parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters) count += parameter.shape.elements();
  return count;
}

double Network::flops_per_image() const {
  double flops = 0;
  for (const Layer& layer : layers) {
    if (layer.kind != LayerKind::convolution && layer.kind != LayerKind::fully_connected) continue;
    const auto weights = parameter(layer.weight).shape.elements();
    const auto positions = shape(layer.output).spatial();
    flops += 2.0 * static_cast<double>(weights) * static_cast<double>(positions);
  }
  return flops;
}

bool Network::has_dropout() const {
  return std::ranges::find(layers, LayerKind::dropout, &Layer::kind) != layers.end();
}

std::vector<std::vector<float>> Network::initial_parameters(std::uint64_t seed) const {
  std::vector<std::vector<float>> initial;
  for (const std::size_t elements : buckets) initial.emplace_back(elements, 0.0f);
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    const Parameter& parameter = parameters[index];
    const auto count = static_cast<std::size_t>(parameter.shape.elements());
    float* values = initial[static_cast<std::size_t>(parameter.bucket)].data() + parameter.offset;
    if (parameter.initial) {
      std::fill_n(values, count, *parameter.initial);
      continue;
    }
    const double stddev = std::sqrt(2.0 / static_cast<double>(parameter.fan_in));
    runtime::Random random(seed, runtime::stream_id("weights", index));
    for (std::size_t i = 0; i < count; ++i)
      values[i] = static_cast<float>(stddev * random.normal());
  }
  return initial;
}

std::vector<float> Network::initial_running_statistics() const {
  std::vector<float> values(running_statistics, 0.0f);
  for (const Layer& layer : layers) {
    if (layer.kind != LayerKind::batch_norm) continue;
    std::fill_n(values.begin() + layer.running_variance, shape(layer.output).c, 1.0f);
  }
  return values;
}

void make_buckets(Network& network, std::size_t least) {
  std::vector<int> block_of(network.parameters.size());
  for (const Layer& layer : network.layers) {
    for (const int parameter : {layer.weight, layer.bias}) {
      if (parameter >= 0) block_of[static_cast<std::size_t>(parameter)] = layer.block;
    }
  }
  std::vector<std::size_t> elements(network.blocks.size());
  for (std::size_t i = 0; i < block_of.size(); ++i)
    elements[static_cast<std::size_t>(block_of[i])] += padded(network.parameters[i].shape);
  // From the last block, as backward completes them: the rest that is smaller is the first blocks'.
  std::vector<bool> begins(elements.size());
  std::size_t sum = 0;
  for (std::size_t block = elements.size(); block-- > 0;) {
    sum += elements[block];
    begins[block] = sum >= least;
    if (begins[block]) sum = 0;
  }
  network.buckets.clear();
  int last_block = -1;
  for (std::size_t i = 0; i < block_of.size(); ++i) {
    const int block = block_of[i];
    if (network.buckets.empty() || (block != last_block && begins[static_cast<std::size_t>(block)]))
      network.buckets.push_back(0);
    last_block = block;
    std::size_t& bucket = network.buckets.back();
    network.parameters[i].bucket = static_cast<int>(network.buckets.size()) - 1;
    network.parameters[i].offset = bucket;
    bucket += padded(network.parameters[i].shape);
  }
}

NetworkBuilder::NetworkBuilder(std::string name, const Shape& input, int classes) {
  network_.name = std::move(name);
  network_.classes = classes;
  network_.activations.push_back({1, input.c, input.h, input.w});
}

void NetworkBuilder::begin_block(const std::string& name) { network_.blocks.push_back(name); }

Layer& NetworkBuilder::append(LayerKind kind, const std::string& name,
                              std::vector<ActivationId> inputs, const Shape& output) {
  if (network_.blocks.empty()) begin_block(name);
  Layer layer;
  layer.kind = kind;
  layer.name = name;
  layer.inputs = std::move(inputs);
  layer.output = static_cast<ActivationId>(network_.activations.size());
  layer.block = static_cast<int>(network_.blocks.size()) - 1;
  network_.activations.push_back(output);
  network_.layers.push_back(std::move(layer));
  return network_.layers.back();
}

int NetworkBuilder::parameter(Parameter parameter) {
  if (!parameter_names_.insert(parameter.name).second)
    throw LayerError(network_.name + ": ", "two parameters are called " + parameter.name);
  network_.parameters.push_back(std::move(parameter));
  return static_cast<int>(network_.parameters.size()) - 1;
}

void NetworkBuilder::add_weights(Layer& layer, const Shape& shape,
                                 std::vector<std::int64_t> dimensions, bool bias) {
  const std::int64_t fan_in = shape.c * shape.spatial();
  layer.weight = parameter({.name = layer.name + ".weight",
                            .shape = shape,
                            .dimensions = std::move(dimensions),
                            .initial = std::nullopt,
                            .fan_in = fan_in,
                            .decay = true});
  if (!bias) return;
  layer.bias = parameter({.name = layer.name + ".bias",
                          .shape = {1, shape.n, 1, 1},
                          .dimensions = {shape.n},
                          .initial = 0.0f,
                          .fan_in = fan_in});
}

ActivationId NetworkBuilder::convolution(const std::string& name, ActivationId x, int filters,
                                         PerAxis kernel, PerAxis stride, PerAxis padding,
                                         const ConvolutionOptions& options) {
  const Shape in = shape(x);
  const codelets::Window window{kernel, stride, padding, options.dilation};
  const Shape out = fitting(network_.name + ": layer " + name + ": ", [&] {
    return codelets::conv2d_output(in, filters, window, options.groups);
  });
  Layer& layer = append(LayerKind::convolution, name, {x}, out);
  layer.window = window;
  layer.groups = options.groups;
  const Shape weights{filters, in.c / options.groups, kernel.h, kernel.w};
  add_weights(layer, weights, {weights.n, weights.c, weights.h, weights.w}, options.bias);
  return layer.output;
}

ActivationId NetworkBuilder::batch_norm(const std::string& name, ActivationId x,
                                        const BatchNormOptions& options) {
  Layer& layer =
      append_normalisation(LayerKind::batch_norm, name, x, options.gamma, options.epsilon);
  layer.momentum = options.momentum;
  layer.running_mean = static_cast<int>(network_.running_statistics);
  const std::size_t channels = padded({1, shape(x).c, 1, 1});
  layer.running_variance = layer.running_mean + static_cast<int>(channels);
  network_.running_statistics += 2 * channels;
  return layer.output;
}

ActivationId NetworkBuilder::group_norm(const std::string& name, ActivationId x, int groups,
                                        const GroupNormOptions& options) {
  fitting(network_.name + ": layer " + name + ": ", [&] {
    codelets::require_valid(codelets::GroupNorm{
        .x = {.shape = shape(x)}, .groups = groups, .epsilon = options.epsilon});
  });
  Layer& layer =
      append_normalisation(LayerKind::group_norm, name, x, options.gamma, options.epsilon);
  layer.groups = groups;
  return layer.output;
}

Layer& NetworkBuilder::append_normalisation(LayerKind kind, const std::string& name, ActivationId x,
                                            float gamma, float epsilon) {
  const Shape in = shape(x), vector{1, in.c, 1, 1};
  Layer& layer = append(kind, name, {x}, in);
  layer.weight = parameter(
      {.name = name + ".weight", .shape = vector, .dimensions = {in.c}, .initial = gamma});
  layer.bias =
      parameter({.name = name + ".bias", .shape = vector, .dimensions = {in.c}, .initial = 0.0f});
  layer.epsilon = epsilon;
  return layer;
}

ActivationId NetworkBuilder::layer_norm(const std::string& name, ActivationId x, float epsilon) {
  fitting(network_.name + ": layer " + name + ": ", [&] {
    codelets::require_valid(codelets::LayerNorm{.x = {.shape = shape(x)}, .epsilon = epsilon});
  });
  return append_normalisation(LayerKind::layer_norm, name, x, 1, epsilon).output;
}

ActivationId NetworkBuilder::scale(const std::string& name, ActivationId x,
                                   const ScaleOptions& options) {
  const Shape in = shape(x);
  std::vector<std::int64_t> dimensions = options.dimensions;
  if (dimensions.empty()) dimensions = {in.c, 1, 1};
  const std::int64_t numbers =
      std::accumulate(dimensions.begin(), dimensions.end(), std::int64_t{1}, std::multiplies<>());
  if (numbers != in.c || std::ranges::max(dimensions) != in.c) {
    throw LayerError(network_.name + ": layer " + name + ": ",
                     "the shape must be " + std::to_string(in.c) +
                         ", a number for each channel of " + in.to_string() + ", beside any ones");
  }
  Layer& layer = append(LayerKind::convolution, name, {x}, in);
  layer.window = {1};
  layer.groups = static_cast<int>(in.c);
  layer.weight = parameter({.name = name,
                            .shape = {in.c, 1, 1, 1},
                            .dimensions = std::move(dimensions),
                            .initial = options.initial});
  return layer.output;
}

ActivationId NetworkBuilder::relu(ActivationId x) {
  return append(LayerKind::relu, "relu", {x}, shape(x)).output;
}

ActivationId NetworkBuilder::dropout(ActivationId x, double rate, codelets::Dropped dropped) {
  const char* name = dropped == codelets::Dropped::images     ? "stochastic_depth"
                     : dropped == codelets::Dropped::channels ? "channel_dropout"
                                                              : "dropout";
  Layer& layer = append(LayerKind::dropout, name, {x}, shape(x));
  layer.rate = rate;
  layer.dropped = dropped;
  return layer.output;
}

ActivationId NetworkBuilder::activation(ActivationId x, codelets::Activation function,
                                        float slope) {
  const std::string name(codelets::to_string(function));
  if (!std::isfinite(slope) || slope <= 0) {
    throw LayerError(network_.name + ": layer " + name + ": ",
                     "a slope of " + std::to_string(slope) + "; it must be above 0");
  }
  Layer& layer = append(LayerKind::activation, name, {x}, shape(x));
  layer.function = function;
  layer.slope = slope;
  return layer.output;
}

ActivationId NetworkBuilder::add(ActivationId a, ActivationId b) {
  if (shape(a) != shape(b)) {
    throw LayerError(network_.name + ": ", "cannot add " + shape(a).to_string() + " and " +
                                               shape(b).to_string() + ": shapes must be equal");
  }
  return append(LayerKind::add, "add", {a, b}, shape(a)).output;
}

ActivationId NetworkBuilder::multiply(ActivationId x, ActivationId factors) {
  const Shape of_channels{1, shape(x).c, 1, 1};
  if (shape(factors) != shape(x) && shape(factors) != of_channels) {
    throw LayerError(network_.name + ": ", "cannot multiply " + shape(x).to_string() + " by " +
                                               shape(factors).to_string() +
                                               ": the second must have the first's shape, or be " +
                                               of_channels.to_string() +
                                               ", a number for each channel");
  }
  return append(LayerKind::multiply, "multiply", {x, factors}, shape(x)).output;
}

ActivationId NetworkBuilder::affine(ActivationId x, float factor, float offset) {
  Layer& layer = append(LayerKind::affine, "affine", {x}, shape(x));
  layer.factor = factor;
  layer.offset = offset;
  return layer.output;
}

ActivationId NetworkBuilder::concat(const std::vector<ActivationId>& parts) {
  std::vector<Shape> shapes;
  for (const ActivationId part : parts) shapes.push_back(shape(part));
  const Shape whole =
      fitting(network_.name + ": ", [&] { return codelets::concat_output(shapes); });
  return append(LayerKind::concat, "concat", parts, whole).output;
}

ActivationId NetworkBuilder::slice(ActivationId x, int first, int channels) {
  Shape out = shape(x);
  if (first < 0 || channels < 1 || out.c - first < channels) {
    throw LayerError(network_.name + ": ", "cannot take channels " + std::to_string(first) +
                                               " to " + std::to_string(first + channels - 1) +
                                               " of " + out.to_string());
  }
  out.c = channels;
  Layer& layer = append(LayerKind::slice, "slice", {x}, out);
  layer.first_channel = first;
  return layer.output;
}

ActivationId NetworkBuilder::channel_shuffle(ActivationId x, int groups) {
  fitting(network_.name + ": ", [&] {
    codelets::require_valid(codelets::ChannelShuffle{{.shape = shape(x)}, groups});
  });
  Layer& layer = append(LayerKind::channel_shuffle, "channel_shuffle", {x}, shape(x));
  layer.groups = groups;
  return layer.output;
}

ActivationId NetworkBuilder::pad(ActivationId x, PerAxis before, PerAxis after) {
  Shape out = shape(x);
  out.h += before.h + after.h;
  out.w += before.w + after.w;
  Layer& layer = append(LayerKind::pad, "pad", {x}, out);
  layer.before = before;
  return layer.output;
}

ActivationId NetworkBuilder::pool(LayerKind kind, const std::string& name, ActivationId x,
                                  const codelets::Window& window, const PoolOptions& options) {
  const Shape out = fitting(network_.name + ": pooling: ", [&] {
    return codelets::pool2d_output(shape(x), window, options.ceil_mode);
  });
  Layer& layer = append(kind, name, {x}, out);
  layer.window = window;
  layer.count_padding = options.count_padding;
  layer.ceil_mode = options.ceil_mode;
  return layer.output;
}

ActivationId NetworkBuilder::max_pool(ActivationId x, PerAxis kernel, PerAxis stride,
                                      PerAxis padding, const PoolOptions& options) {
  return pool(LayerKind::max_pool, "max_pool", x, {kernel, stride, padding}, options);
}

ActivationId NetworkBuilder::average_pool(ActivationId x, PerAxis kernel, PerAxis stride,
                                          PerAxis padding, const PoolOptions& options) {
  return pool(LayerKind::average_pool, "average_pool", x, {kernel, stride, padding}, options);
}

ActivationId NetworkBuilder::global_average_pool(ActivationId x) {
  const Shape in = shape(x);
  return pool(LayerKind::average_pool, "global_average_pool", x,
              {PerAxis{static_cast<int>(in.h), static_cast<int>(in.w)}});
}

ActivationId NetworkBuilder::average_pool_to(ActivationId x, int size) {
  const Shape in = shape(x);
  const auto h = static_cast<int>(in.h), w = static_cast<int>(in.w);
  if (std::min(h, w) < size || std::max(h, w) == size) return x;
  const int stride = std::min(h, w) / size;
  return average_pool(x, {h - (size - 1) * stride, w - (size - 1) * stride}, stride);
}

void NetworkBuilder::require_outputs(const std::string& name, int outputs) const {
  if (outputs >= 1) return;
  throw LayerError(network_.name + ": layer " + name + ": ",
                   std::to_string(outputs) + " outputs; at least 1 is needed");
}

ActivationId NetworkBuilder::fully_connected(const std::string& name, ActivationId x, int outputs,
                                             bool bias) {
  const Shape in = shape(x);
  require_outputs(name, outputs);
  const Shape weights{outputs, in.elements(), 1, 1};
  Layer& layer = append(LayerKind::fully_connected, name, {x}, {1, outputs, 1, 1});
  add_weights(layer, weights, {weights.n, weights.c}, bias);
  return layer.output;
}

ActivationId NetworkBuilder::fully_connected_pixels(const std::string& name, ActivationId x,
                                                    int outputs, bool bias) {
  require_outputs(name, outputs);
  const Shape in = shape(x), weights{outputs, in.c, 1, 1};
  Layer& layer = append(LayerKind::convolution, name, {x}, {1, outputs, in.h, in.w});
  layer.window = {1};
  add_weights(layer, weights, {weights.n, weights.c}, bias);
  return layer.output;
}

Network NetworkBuilder::build(ActivationId logits) {
  const Shape expected{1, network_.classes, 1, 1};
  if (shape(logits) != expected) {
    throw std::invalid_argument(network_.name + ": the output is " + shape(logits).to_string() +
                                ", not one number for each of " + std::to_string(network_.classes) +
                                " classes");
  }
  std::vector<bool> used(network_.activations.size());
  used[static_cast<std::size_t>(logits)] = true;
  for (const Layer& layer : network_.layers) {
    for (const ActivationId input : layer.inputs) used[static_cast<std::size_t>(input)] = true;
  }
  for (const Layer& layer : network_.layers) {
    if (used[static_cast<std::size_t>(layer.output)]) continue;
    throw std::invalid_argument(network_.name + ": nothing uses the output of layer " + layer.name);
  }
  network_.logits = logits;
  make_buckets(network_);
  return std::move(network_);
}

}  // namespace stpt::models
