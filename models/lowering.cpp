#include "models/lowering.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <ranges>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "codelets/batch_norm.hpp"
#include "codelets/buffers.hpp"
#include "codelets/channel_shuffle.hpp"
#include "codelets/concat.hpp"
#include "codelets/conv2d.hpp"
#include "codelets/dropout.hpp"
#include "codelets/elementwise.hpp"
#include "codelets/fully_connected.hpp"
#include "codelets/group_norm.hpp"
#include "codelets/layer_norm.hpp"
#include "codelets/multiply.hpp"
#include "codelets/pad2d.hpp"
#include "codelets/pool2d.hpp"
#include "codelets/reorder.hpp"
#include "codelets/softmax_cross_entropy.hpp"
#include "models/layer_fusion.hpp"
#include "models/segmentation.hpp"

namespace stpt::models {
using runtime::Access;
using runtime::Layout;
using runtime::Shape;
using runtime::TensorSpec;

namespace {

codelets::BatchNormMode batch_norm_mode(Mode mode) {
  if (mode == Mode::batch_statistics) return codelets::BatchNormMode::batch_statistics;
  if (mode == Mode::inference) return codelets::BatchNormMode::inference;
  return codelets::BatchNormMode::training;
}

/// What batch norm and group norm have in common.
template <class Norm>
Norm norm_of(const TensorSpec& x, const FusedLayer& fused) {
  Norm norm;
  norm.x = x;
  norm.relu = fused.relu;
  norm.residual = fused.residual.has_value();
  norm.epsilon = fused.layer->epsilon;
  if (fused.activation) {
    norm.function = fused.activation->function;
    norm.slope = fused.activation->slope;
  }
  return norm;
}

/// Goes through the layers forward and backward and emits their ops.
class Lowering {
 public:
  explicit Lowering(const LoweringRequest& request);

  /// To be called once.
  [[nodiscard]] Lowered run();

 private:
  using Argument = Segmentation::Argument;

  /// Of the images, for dropout.
  static constexpr Argument keys{Resource::keys, 0, 0, Access::read};

  /// What forward leaves for a node's backward.
  struct Kept {
    codelets::Conv2d conv;
    codelets::BatchNorm batch_norm;
    codelets::GroupNorm group_norm;
    codelets::LayerNorm layer_norm;
    codelets::FullyConnected fc;
    codelets::Pool2d pool;
    codelets::Concat concat;
    codelets::Dropout dropout;
    int mean = -1, inverse_stddev = -1, mask = -1, indices = -1;  ///< buffers
    Argument adapted;                                             ///< an input, as the op wants it
  };
  struct Node : FusedLayer {
    Kept kept;
  };
  struct Gradient {
    int buffer;
    bool shared;  ///< read by several: must not be overwritten
  };
  /// The gradient of some of an activation's channels.
  struct SliceGradient {
    std::int64_t first;
    TensorSpec spec;
    int buffer;
  };
  struct Value {
    TensorSpec spec;
    Argument location;
    std::vector<Gradient> gradients;    ///< parts to be added
    std::vector<SliceGradient> slices;  ///< to be joined to more of these
  };
  /// Weights as the device's ops want them, where that is not as parameters are kept, and their
  /// gradients likewise. Weights change at every step, so each task converts all that it needs in
  /// one launch before its first op, and all gradients in one launch behind its last.
  struct ConvertedWeights {
    std::vector<int> buckets;
    int weights = -1, gradients = -1;               ///< buffers
    std::size_t bytes = 0;                          ///< of each
    std::map<int, codelets::Reorders::Part> parts;  ///< of the parameters; from their buckets
    codelets::Reorders given;                       ///< gradients, to their buckets
  };

  void emit_operations();
  void emit_forward(Node& node);
  void emit_backward(const Node& node);
  void forward_convolution(Node& node);
  void backward_convolution(const Node& node);
  void forward_batch_norm(Node& node);
  void forward_group_norm(Node& node);
  void forward_layer_norm(Node& node);
  void backward_layer_norm(const Node& node);
  template <class Backward, class Norm>
  void backward_norm(const Node& node, const Norm& norm);
  void forward_relu(const Node& node);
  void backward_relu(const Node& node);
  void forward_activation(const Node& node);
  void backward_activation(const Node& node);
  void forward_add(const Node& node);
  void backward_add(const Node& node);
  void forward_pool(Node& node);
  void backward_pool(const Node& node);
  void forward_fully_connected(Node& node);
  void backward_fully_connected(const Node& node);
  void forward_concat(Node& node);
  void backward_concat(const Node& node);
  void forward_slice(Node& node);
  void backward_slice(const Node& node);
  void forward_channel_shuffle(const Node& node);
  void backward_channel_shuffle(const Node& node);
  void forward_dropout(Node& node);
  void backward_dropout(const Node& node);
  void forward_multiply(Node& node);
  void backward_multiply(const Node& node);
  /// Whether it is with a number for each channel.
  [[nodiscard]] bool multiplies_channels(const Node& node);
  void forward_affine(const Node& node);
  void backward_affine(const Node& node);
  [[nodiscard]] codelets::Pad2d pad_of(const Node& node);
  void forward_pad(const Node& node);
  void backward_pad(const Node& node);
  /// The logits as the loss takes them.
  [[nodiscard]] TensorSpec loss_spec();
  void emit_loss();
  void emit_loss_backward();

  int new_buffer(std::size_t bytes);
  [[nodiscard]] Value& value(ActivationId id) { return values_[static_cast<std::size_t>(id)]; }
  /// The activation that the node's layer reads, or reads first.
  [[nodiscard]] Value& input(const Node& node) { return value(node.layer->inputs[0]); }
  [[nodiscard]] Value& output(const Node& node) { return value(node.output); }
  /// The output as the network has it; the layout is for the op to choose.
  [[nodiscard]] TensorSpec output_spec(const Node& node) const;
  /// Gives the activation its spec and memory.
  Value& define(ActivationId id, const TensorSpec& spec);
  /// The images as the ops want them: on GPUs in their data type and layout.
  void emit_input();
  /// Of these; more than the network's where only convolutions read them, which want more.
  [[nodiscard]] std::int64_t image_channels() const;
  /// The activation as `spec` has it, if it is not so in memory already.
  Argument as(ActivationId id, const TensorSpec& spec);
  /// The same in another layout.
  Argument in_layout(ActivationId id, Layout layout);
  /// A buffer that forward fills for backward; null where there are no bytes or no backward.
  Argument keep(int& buffer, std::size_t bytes);
  /// Some parameter is in front of it: the images, and what layers without any make of them, need
  /// none.
  [[nodiscard]] bool needs_gradient(ActivationId id) const {
    return needs_gradient_[static_cast<std::size_t>(id)];
  }
  /// A buffer for another part of the activation's gradient.
  int new_gradient(ActivationId id);
  /// Another part, which `gradient` has in the layout of `spec`.
  void reorder_gradient(int gradient, const TensorSpec& spec, ActivationId id);
  /// Makes gradients of the slices, as few as may be: what lies between them is zeros.
  void join_slices(ActivationId id);
  /// One gradient from all parts; `writable` if it may be overwritten.
  Gradient total_gradient(ActivationId id, bool writable);
  /// The same for the node's output, with the ReLU's part done in place if one is merged into it.
  Gradient pre_activation_gradient(const Node& node);
  [[nodiscard]] Shape batched(const Shape& shape) const;

  [[nodiscard]] Argument parameter(int index) const;
  /// The layer's weights, and where to put their gradient, as its ops want them.
  [[nodiscard]] TensorSpec weights_spec(const Layer& layer) const;
  Argument weights(const Layer& layer);
  Argument gradient_of_weights(const Layer& layer);
  /// Numbers what is converted together.
  [[nodiscard]] int conversion_of(const Layer& layer) const;
  ConvertedWeights& converted_weights(int conversion);
  /// Brings the gradients to where the optimizer looks for them.
  void emit_converted_gradients(int conversion);
  [[nodiscard]] Argument gradient_of(int parameter);
  [[nodiscard]] Argument gradient_bucket(int bucket);
  /// Whether a bucket has room that belongs to no parameter.
  [[nodiscard]] bool has_padding(int bucket) const;
  [[nodiscard]] bool on_gpu() const { return codelets::on_gpu(request_.options.device); }
  /// ask(Cpu{}) or ask(Cuda{}).
  template <class Ask>
  auto of_device(Ask ask) const {
    return std::visit(ask, request_.options.device);
  }
  [[nodiscard]] Argument running(int offset, Access access) const;
  [[nodiscard]] static Argument read(Argument argument);
  [[nodiscard]] static Argument read(int buffer);
  [[nodiscard]] static Argument write(int buffer);
  [[nodiscard]] static Argument update(int buffer);

  template <class Op>
  void emit(const Op& op, const std::string& name, std::vector<Argument> arguments);

  const LoweringRequest& request_;
  const Network& network_;
  Mode mode_;
  std::vector<Node> nodes_;
  std::vector<Value> values_;
  std::vector<bool> needs_gradient_;  ///< of each activation
  std::vector<Segmentation::Buffer> buffers_;
  std::vector<Segmentation::Op> ops_;
  int block_ = 0;
  bool backward_ = false;
  int logits_gradient_ = -1;  ///< buffer
  std::set<int> begun_;       ///< buckets of gradients that an op writes to
  std::set<int> given_;       ///< parameters whose gradient an op gives
  std::map<int, ConvertedWeights> converted_;
};

Lowering::Lowering(const LoweringRequest& request)
    : request_(request),
      network_(request.network),
      mode_(request.mode),
      values_(network_.activations.size()),
      needs_gradient_(network_.activations.size()) {
  for (const Layer& layer : network_.layers) {
    needs_gradient_[static_cast<std::size_t>(layer.output)] =
        layer.weight >= 0 ||
        std::ranges::any_of(layer.inputs, [this](ActivationId id) { return needs_gradient(id); });
  }
}

Lowered Lowering::run() {
  emit_operations();
  return Segmentation(request_, std::move(ops_), buffers_).cut();
}

Shape Lowering::batched(const Shape& shape) const {
  return {request_.batch, shape.c, shape.h, shape.w};
}

int Lowering::new_buffer(std::size_t bytes) {
  buffers_.push_back({bytes, -1, -1});
  return static_cast<int>(buffers_.size()) - 1;
}

Lowering::Value& Lowering::define(ActivationId id, const TensorSpec& spec) {
  Value& defined = value(id);
  defined.spec = spec;
  defined.location = write(new_buffer(spec.bytes()));
  return defined;
}

Lowering::Argument Lowering::parameter(int index) const {
  const Parameter& parameter = network_.parameter(index);
  return {Resource::parameters, parameter.bucket, parameter.offset * sizeof(float), Access::read};
}

bool Lowering::has_padding(int bucket) const {
  std::size_t used = 0;
  for (const Parameter& parameter : network_.parameters) {
    if (parameter.bucket == bucket) used += static_cast<std::size_t>(parameter.shape.elements());
  }
  return used < network_.buckets[static_cast<std::size_t>(bucket)];
}

Lowering::Argument Lowering::gradient_bucket(int bucket) {
  // read_write keeps what other ops put into the bucket, and the zeros between parameters.
  Argument whole{Resource::gradients, bucket, 0, Access::read_write};
  if (!on_gpu() || !begun_.insert(bucket).second) return whole;
  // Written first, so that what the last step left, perhaps on another GPU, is not brought here.
  whole.access = Access::write;
  if (!has_padding(bucket)) return whole;
  const std::size_t elements = network_.buckets[static_cast<std::size_t>(bucket)];
  emit(codelets::Clear{elements * sizeof(float)}, "clear gradient", {whole});
  whole.access = Access::read_write;
  return whole;
}

Lowering::Argument Lowering::gradient_of(int index) {
  const Parameter& parameter = network_.parameter(index);
  Argument argument = gradient_bucket(parameter.bucket);
  argument.offset = parameter.offset * sizeof(float);
  given_.insert(index);
  return argument;
}

std::int64_t Lowering::image_channels() const {
  const std::int64_t channels = network_.input().c;
  const bool convolved = std::ranges::all_of(network_.layers, [](const Layer& layer) {
    return (layer.kind == LayerKind::convolution && layer.groups == 1) ||
           std::ranges::find(layer.inputs, 0) == layer.inputs.end();
  });
  if (!convolved) return channels;
  return of_device(
      [&](auto device) { return codelets::conv2d_channels(channels, network_.data_type, device); });
}

TensorSpec Lowering::weights_spec(const Layer& layer) const {
  Shape shape = network_.parameter(layer.weight).shape;
  if (layer.kind == LayerKind::convolution && layer.inputs[0] == 0 && layer.groups == 1)
    shape.c = image_channels();
  return of_device([&](auto device) {
    return layer.kind == LayerKind::convolution
               ? codelets::conv2d_weights(shape, network_.data_type, device)
               : codelets::fully_connected_weights(shape, network_.data_type, device);
  });
}

int Lowering::conversion_of(const Layer& layer) const {
  return request_.options.grain == Grain::step ? 0 : layer.block;
}

Lowering::ConvertedWeights& Lowering::converted_weights(int conversion) {
  const auto [found, fresh] = converted_.try_emplace(conversion);
  ConvertedWeights& converted = found->second;
  if (!fresh) return converted;
  codelets::Reorders reorders;
  std::vector<Argument> arguments;
  for (const Layer& layer : network_.layers) {
    if (layer.kind != LayerKind::convolution && layer.kind != LayerKind::fully_connected) continue;
    const Parameter& weight = network_.parameter(layer.weight);
    const TensorSpec kept{weight.shape, runtime::DataType::float32, Layout::nchw};
    const TensorSpec wanted = weights_spec(layer);
    if (conversion_of(layer) != conversion || runtime::same_memory(kept, wanted)) continue;
    if (converted.buckets.empty() || converted.buckets.back() != weight.bucket) {
      converted.buckets.push_back(weight.bucket);
      arguments.push_back({Resource::parameters, weight.bucket, 0, Access::read});
    }
    const codelets::Reorders::Part part{
        {kept, wanted},
        {converted.buckets.size() - 1, weight.offset * sizeof(float)},
        {0, converted.bytes}};
    converted.parts.emplace(layer.weight, part);
    converted.bytes += runtime::align_up(wanted.bytes());
    reorders.parts.push_back(part);
  }
  if (reorders.parts.empty()) return converted;
  reorders.sources = converted.given.destinations = converted.buckets.size();
  converted.weights = new_buffer(converted.bytes);
  arguments.push_back(write(converted.weights));
  emit(reorders, "convert weights", std::move(arguments));
  return converted;
}

Lowering::Argument Lowering::weights(const Layer& layer) {
  const ConvertedWeights& converted = converted_weights(conversion_of(layer));
  const auto part = converted.parts.find(layer.weight);
  if (part == converted.parts.end()) return parameter(layer.weight);
  Argument argument = read(converted.weights);
  argument.offset = part->second.dst.offset;
  return argument;
}

Lowering::Argument Lowering::gradient_of_weights(const Layer& layer) {
  ConvertedWeights& converted = converted_weights(conversion_of(layer));
  const auto part = converted.parts.find(layer.weight);
  if (part == converted.parts.end()) return gradient_of(layer.weight);
  if (converted.gradients < 0) converted.gradients = new_buffer(converted.bytes);
  const auto& [reorder, kept, place] = part->second;
  converted.given.parts.push_back({{reorder.dst, reorder.src}, place, kept});
  given_.insert(layer.weight);
  Argument argument = write(converted.gradients);
  argument.offset = place.offset;
  return argument;
}

void Lowering::emit_converted_gradients(int conversion) {
  const ConvertedWeights& converted = converted_weights(conversion);
  if (converted.given.parts.empty()) return;
  std::vector<Argument> arguments{read(converted.gradients)};
  for (const int bucket : converted.buckets) arguments.push_back(gradient_bucket(bucket));
  emit(converted.given, "convert gradients", std::move(arguments));
}

Lowering::Argument Lowering::running(int offset, Access access) const {
  return {Resource::running, 0, static_cast<std::size_t>(offset) * sizeof(float), access};
}

Lowering::Argument Lowering::read(Argument argument) {
  argument.access = Access::read;
  return argument;
}
Lowering::Argument Lowering::read(int buffer) {
  return {Resource::activations, buffer, 0, Access::read};
}
Lowering::Argument Lowering::write(int buffer) {
  return {Resource::activations, buffer, 0, Access::write};
}
Lowering::Argument Lowering::update(int buffer) {
  return {Resource::activations, buffer, 0, Access::read_write};
}

template <class Op>
void Lowering::emit(const Op& op, const std::string& name, std::vector<Argument> arguments) {
  const int index = static_cast<int>(ops_.size());
  for (const Argument& argument : arguments) {
    if (argument.resource != Resource::activations) continue;
    Segmentation::Buffer& buffer = buffers_[static_cast<std::size_t>(argument.index)];
    if (buffer.first < 0) buffer.first = index;
    buffer.last = index;
  }
  ops_.push_back(
      {name, block_, backward_, codelets::plan(op, request_.options.device), std::move(arguments)});
}

Lowering::Argument Lowering::as(ActivationId id, const TensorSpec& spec) {
  const Value& source = value(id);
  if (runtime::same_memory(source.spec, spec)) return read(source.location);
  const int buffer = new_buffer(spec.bytes());
  emit(codelets::Reorder{source.spec, spec}, "reorder", {read(source.location), write(buffer)});
  return read(buffer);
}

Lowering::Argument Lowering::in_layout(ActivationId id, Layout layout) {
  TensorSpec spec = value(id).spec;
  spec.layout = layout;
  return as(id, spec);
}

void Lowering::emit_input() {
  const int parts = request_.image_parts;
  Value& images = value(0);
  images.spec = {batched(network_.input()), runtime::DataType::float32, Layout::nchw};
  images.location = {Resource::images, 0, 0, Access::read};
  if (!on_gpu()) {
    if (parts != 1) throw std::logic_error("Program: cores take a batch in one part");
    return;
  }
  if (request_.batch % parts != 0)
    throw std::logic_error("Program: the parts of a batch must be of equal size");
  TensorSpec part = images.spec, converted = images.spec;
  part.shape.n /= parts;
  converted.type = network_.data_type;
  converted.shape.c = image_channels();
  converted.layout = Layout::nhwc;
  const Argument whole = define(0, converted).location;
  TensorSpec converted_part = converted;
  converted_part.shape.n = part.shape.n;
  for (int number = 0; number < parts; ++number) {
    Argument destination = whole;
    destination.offset = static_cast<std::size_t>(number) * converted_part.bytes();
    emit(codelets::Reorder{part, converted_part}, "input",
         {{Resource::images, number, 0, Access::read}, destination});
  }
}

void Lowering::emit_operations() {
  if (network_.data_type != runtime::DataType::float32 && !on_gpu()) {
    throw std::invalid_argument(std::string("model.data_type: CPUs compute in float32 only, not ") +
                                runtime::to_string(network_.data_type));
  }
  if (request_.batch < 1) {
    throw std::invalid_argument(network_.name + ": a batch of " + std::to_string(request_.batch) +
                                " images; at least 1 is needed");
  }
  for (const FusedLayer& layer : fuse_layers(network_)) nodes_.push_back({layer, {}});
  emit_input();
  for (Node& node : nodes_) emit_forward(node);
  if (mode_ == Mode::calibration) return;
  emit_loss();
  if (mode_ != Mode::train) return;
  backward_ = true;
  emit_loss_backward();
  std::map<int, int> convolutions;  // of each conversion, whose backward is still to come
  for (const Node& node : nodes_)
    if (node.layer->kind == LayerKind::convolution) ++convolutions[conversion_of(*node.layer)];
  for (const Node& node : std::views::reverse(nodes_)) {
    emit_backward(node);
    const Layer& layer = *node.layer;
    if (layer.kind != LayerKind::convolution) continue;
    const int conversion = conversion_of(layer);
    if (--convolutions[conversion] == 0) emit_converted_gradients(conversion);
  }
  // Else the optimizer would read what nobody wrote.
  if (given_.size() != network_.parameters.size())
    throw std::logic_error("Lowering: a parameter without a gradient");
}

void Lowering::emit_forward(Node& node) {
  block_ = node.layer->block;
  switch (node.layer->kind) {
    case LayerKind::convolution:
      return forward_convolution(node);
    case LayerKind::batch_norm:
      return forward_batch_norm(node);
    case LayerKind::group_norm:
      return forward_group_norm(node);
    case LayerKind::layer_norm:
      return forward_layer_norm(node);
    case LayerKind::relu:
      return forward_relu(node);
    case LayerKind::activation:
      return forward_activation(node);
    case LayerKind::add:
      return forward_add(node);
    case LayerKind::max_pool:
    case LayerKind::average_pool:
      return forward_pool(node);
    case LayerKind::fully_connected:
      return forward_fully_connected(node);
    case LayerKind::concat:
      return forward_concat(node);
    case LayerKind::slice:
      return forward_slice(node);
    case LayerKind::channel_shuffle:
      return forward_channel_shuffle(node);
    case LayerKind::dropout:
      return forward_dropout(node);
    case LayerKind::multiply:
      return forward_multiply(node);
    case LayerKind::affine:
      return forward_affine(node);
    case LayerKind::pad:
      return forward_pad(node);
  }
}

void Lowering::emit_backward(const Node& node) {
  block_ = node.layer->block;
  join_slices(node.output);
  if (!needs_gradient(node.output)) return;
  switch (node.layer->kind) {
    case LayerKind::convolution:
      return backward_convolution(node);
    case LayerKind::batch_norm:
      return backward_norm<codelets::BatchNormBackward>(node, node.kept.batch_norm);
    case LayerKind::group_norm:
      return backward_norm<codelets::GroupNormBackward>(node, node.kept.group_norm);
    case LayerKind::layer_norm:
      return backward_layer_norm(node);
    case LayerKind::relu:
      return backward_relu(node);
    case LayerKind::activation:
      return backward_activation(node);
    case LayerKind::add:
      return backward_add(node);
    case LayerKind::max_pool:
    case LayerKind::average_pool:
      return backward_pool(node);
    case LayerKind::fully_connected:
      return backward_fully_connected(node);
    case LayerKind::concat:
      return backward_concat(node);
    case LayerKind::slice:
      return backward_slice(node);
    case LayerKind::channel_shuffle:
      return backward_channel_shuffle(node);
    case LayerKind::dropout:
      return backward_dropout(node);
    case LayerKind::multiply:
      return backward_multiply(node);
    case LayerKind::affine:
      return backward_affine(node);
    case LayerKind::pad:
      return backward_pad(node);
  }
}

TensorSpec Lowering::loss_spec() {
  return {value(network_.logits).spec.shape, runtime::DataType::float32, Layout::nchw};
}

void Lowering::emit_loss() {
  const TensorSpec spec = loss_spec();
  const Argument logits = as(network_.logits, spec);
  Argument d_logits;
  if (mode_ == Mode::train) {
    logits_gradient_ = new_buffer(spec.bytes());
    d_logits = write(logits_gradient_);
  }
  codelets::SoftmaxCrossEntropy loss{spec, mode_ == Mode::train, request_.options.loss_scale};
  if (mode_ == Mode::train) loss.label_smoothing = request_.options.label_smoothing;
  emit(loss, "loss",
       {logits,
        {Resource::labels, 0, 0, Access::read},
        {Resource::scores, 0, 0, Access::write},
        d_logits});
}

void Lowering::emit_loss_backward() {
  Value& logits = value(network_.logits);
  const TensorSpec spec = loss_spec();
  if (runtime::same_memory(spec, logits.spec)) {
    logits.gradients.push_back({logits_gradient_, false});
  } else {
    reorder_gradient(logits_gradient_, spec, network_.logits);
  }
}

int Lowering::new_gradient(ActivationId id) {
  const int buffer = new_buffer(value(id).spec.bytes());
  value(id).gradients.push_back({buffer, false});
  return buffer;
}

void Lowering::reorder_gradient(int gradient, const TensorSpec& spec, ActivationId id) {
  emit(codelets::Reorder{spec, value(id).spec}, "reorder backward",
       {read(gradient), write(new_gradient(id))});
}

void Lowering::join_slices(ActivationId id) {
  const TensorSpec whole = value(id).spec;
  std::vector<SliceGradient> slices = std::exchange(value(id).slices, {});
  std::ranges::stable_sort(slices, {}, &SliceGradient::first);
  while (!slices.empty()) {
    codelets::Concat concat;
    std::vector<std::optional<SliceGradient>> parts;
    std::vector<SliceGradient> overlapping;
    std::int64_t end = 0;
    const auto add_part = [&](std::int64_t channels, std::optional<SliceGradient> slice) {
      if (channels == 0) return;
      TensorSpec part = whole;
      part.shape.c = channels;
      concat.parts.push_back(part);
      parts.push_back(std::move(slice));
      end += channels;
    };
    for (SliceGradient& slice : slices) {
      if (slice.first < end) {
        overlapping.push_back(slice);
        continue;
      }
      add_part(slice.first - end, std::nullopt);
      add_part(slice.spec.shape.c, slice);
    }
    add_part(whole.shape.c - end, std::nullopt);
    concat.whole = whole;
    of_device([&concat](auto device) { codelets::choose_layout(concat, device); });
    std::vector<Argument> arguments;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (!parts[i]) {
        arguments.emplace_back();
        continue;
      }
      int buffer = parts[i]->buffer;
      if (!runtime::same_memory(parts[i]->spec, concat.parts[i])) {
        buffer = new_buffer(concat.parts[i].bytes());
        emit(codelets::Reorder{parts[i]->spec, concat.parts[i]}, "reorder backward",
             {read(parts[i]->buffer), write(buffer)});
      }
      arguments.push_back(read(buffer));
    }
    const bool reorder = !runtime::same_memory(concat.whole, whole);
    const int joined = reorder ? new_buffer(concat.whole.bytes()) : new_gradient(id);
    arguments.push_back(write(joined));
    emit(codelets::ConcatForward{concat}, "join of gradients", std::move(arguments));
    if (reorder) reorder_gradient(joined, concat.whole, id);
    slices = std::move(overlapping);
  }
}

Lowering::Gradient Lowering::total_gradient(ActivationId id, bool writable) {
  const TensorSpec spec = value(id).spec;
  auto& parts = value(id).gradients;
  while (parts.size() > 1) {
    const Gradient last = parts.back();
    parts.pop_back();
    Gradient& sum = parts.back();
    const int target = sum.shared ? new_buffer(spec.bytes()) : sum.buffer;
    emit(codelets::Add{spec, false}, "sum of gradients",
         {read(sum.buffer), read(last.buffer),
          target == sum.buffer ? update(target) : write(target)});
    sum = {target, false};
  }
  if (writable && parts.front().shared) {
    const int copy = new_buffer(spec.bytes());
    emit(codelets::Reorder{spec, spec}, "copy of gradient",
         {read(parts.front().buffer), write(copy)});
    parts.front() = {copy, false};
  }
  return parts.front();
}

Lowering::Gradient Lowering::pre_activation_gradient(const Node& node) {
  const Gradient gradient = total_gradient(node.output, node.relu);
  if (node.relu) {
    emit(codelets::ReluBackward{output(node).spec}, "relu backward",
         {read(output(node).location), read(gradient.buffer), update(gradient.buffer)});
  }
  return gradient;
}

// ---- Each kind of layer, forward and backward ------------------------------------------------

TensorSpec Lowering::output_spec(const Node& node) const {
  return {batched(network_.shape(node.output)), network_.data_type, Layout::any};
}

Lowering::Argument Lowering::keep(int& buffer, std::size_t bytes) {
  if (mode_ != Mode::train || bytes == 0) return {};
  buffer = new_buffer(bytes);
  return write(buffer);
}

void Lowering::forward_convolution(Node& node) {
  const Layer& layer = *node.layer;
  auto& conv = node.kept.conv;
  conv = {input(node).spec, output_spec(node), layer.window, layer.bias >= 0, layer.groups};
  of_device([&conv](auto device) { codelets::choose_layout(conv, device); });
  std::vector<Argument> arguments{read(input(node).location), weights(layer)};
  if (conv.bias) arguments.push_back(parameter(layer.bias));
  arguments.push_back(define(node.output, conv.dst).location);
  emit(codelets::Conv2dForward{conv, node.relu}, layer.name, std::move(arguments));
}

void Lowering::backward_convolution(const Node& node) {
  const Layer& layer = *node.layer;
  const ActivationId x = layer.inputs[0];
  const Gradient gradient = pre_activation_gradient(node);
  std::vector<Argument> arguments{read(input(node).location), read(gradient.buffer),
                                  gradient_of_weights(layer)};
  if (node.kept.conv.bias) arguments.push_back(gradient_of(layer.bias));
  emit(codelets::Conv2dBackwardWeights{node.kept.conv}, layer.name + " backward weights",
       std::move(arguments));
  if (needs_gradient(x)) {
    emit(codelets::Conv2dBackwardData{node.kept.conv}, layer.name + " backward data",
         {weights(layer), read(gradient.buffer), write(new_gradient(x))});
  }
}

void Lowering::forward_batch_norm(Node& node) {
  const Layer& layer = *node.layer;
  const codelets::BatchNormMode mode = batch_norm_mode(mode_);
  auto& norm = node.kept.batch_norm;
  norm = norm_of<codelets::BatchNorm>(input(node).spec, node);
  norm.momentum = mode_ == Mode::calibration ? 1.0f : layer.momentum;

  std::vector<Argument> arguments{read(input(node).location)};
  if (node.residual) arguments.push_back(in_layout(*node.residual, norm.x.layout));
  arguments.push_back(parameter(layer.weight));
  arguments.push_back(parameter(layer.bias));
  if (mode == codelets::BatchNormMode::batch_statistics) {
    arguments.insert(arguments.end(), 2, Argument{});
  } else {
    const Access access =
        mode == codelets::BatchNormMode::inference ? Access::read : Access::read_write;
    arguments.push_back(running(layer.running_mean, access));
    arguments.push_back(running(layer.running_variance, access));
  }
  arguments.push_back(define(node.output, norm.x).location);
  if (mode == codelets::BatchNormMode::training) {
    const std::size_t bytes = static_cast<std::size_t>(norm.x.shape.c) * sizeof(float);
    node.kept.mean = new_buffer(bytes);
    node.kept.inverse_stddev = new_buffer(bytes);
    arguments.push_back(write(node.kept.mean));
    arguments.push_back(write(node.kept.inverse_stddev));
  } else {
    arguments.insert(arguments.end(), 2, Argument{});
  }
  const std::size_t mask_bytes =
      of_device([&norm](auto device) { return codelets::batch_norm_mask_bytes(norm, device); });
  arguments.push_back(keep(node.kept.mask, mask_bytes));
  emit(codelets::BatchNormForward{norm, mode}, layer.name, std::move(arguments));
}

void Lowering::forward_group_norm(Node& node) {
  const Layer& layer = *node.layer;
  auto& norm = node.kept.group_norm;
  norm = norm_of<codelets::GroupNorm>(input(node).spec, node);
  norm.groups = layer.groups;
  std::vector<Argument> arguments{read(input(node).location)};
  if (node.residual) arguments.push_back(in_layout(*node.residual, norm.x.layout));
  arguments.push_back(parameter(layer.weight));
  arguments.push_back(parameter(layer.bias));
  arguments.push_back(define(node.output, norm.x).location);
  const std::size_t bytes =
      static_cast<std::size_t>(norm.x.shape.n * norm.x.shape.c) * sizeof(float);
  for (int* const statistics : {&node.kept.mean, &node.kept.inverse_stddev}) {
    *statistics = new_buffer(bytes);
    arguments.push_back(write(*statistics));
  }
  const std::size_t mask_bytes =
      of_device([&norm](auto device) { return codelets::group_norm_mask_bytes(norm, device); });
  arguments.push_back(keep(node.kept.mask, mask_bytes));
  emit(codelets::GroupNormForward{norm}, layer.name, std::move(arguments));
}

template <class Backward, class Norm>
void Lowering::backward_norm(const Node& node, const Norm& norm) {
  const Layer& layer = *node.layer;
  // The op adds two parts on the fly, and does the ReLU's part.
  auto& parts = output(node).gradients;
  if (parts.size() > 2) total_gradient(node.output, false);
  const bool two = parts.size() == 2;
  Argument mask;
  if (norm.relu && norm.residual)
    mask = node.kept.mask >= 0 ? read(node.kept.mask) : read(output(node).location);
  std::vector<Argument> arguments{read(input(node).location), mask,
                                  parameter(layer.weight),    parameter(layer.bias),
                                  read(node.kept.mean),       read(node.kept.inverse_stddev),
                                  read(parts[0].buffer)};
  if (two) arguments.push_back(read(parts[1].buffer));
  arguments.push_back(write(new_gradient(layer.inputs[0])));
  // The residual's gradient has the layout of this op; its producer wants its own.
  const bool reorder = node.residual && value(*node.residual).spec.layout != norm.x.layout;
  int d_residual = -1;
  if (node.residual) {
    d_residual = reorder ? new_buffer(norm.x.bytes()) : new_gradient(*node.residual);
    arguments.push_back(write(d_residual));
  }
  arguments.push_back(gradient_of(layer.weight));
  arguments.push_back(gradient_of(layer.bias));
  emit(Backward{norm, two}, layer.name + " backward", std::move(arguments));
  if (reorder) reorder_gradient(d_residual, norm.x, *node.residual);
}

void Lowering::forward_layer_norm(Node& node) {
  const Layer& layer = *node.layer;
  auto& norm = node.kept.layer_norm;
  norm = {input(node).spec, layer.epsilon};
  of_device([&norm](auto device) { codelets::choose_layout(norm, device); });
  node.kept.adapted = in_layout(layer.inputs[0], norm.x.layout);
  std::vector<Argument> arguments{node.kept.adapted, parameter(layer.weight), parameter(layer.bias),
                                  define(node.output, norm.x).location};
  const std::size_t bytes =
      static_cast<std::size_t>(norm.x.shape.n * norm.x.shape.spatial()) * sizeof(float);
  for (int* const statistics : {&node.kept.mean, &node.kept.inverse_stddev}) {
    *statistics = new_buffer(bytes);
    arguments.push_back(write(*statistics));
  }
  emit(codelets::LayerNormForward{norm}, layer.name, std::move(arguments));
}

void Lowering::backward_layer_norm(const Node& node) {
  const Layer& layer = *node.layer;
  const codelets::LayerNorm& norm = node.kept.layer_norm;
  const ActivationId x = layer.inputs[0];
  const Gradient gradient = total_gradient(node.output, false);
  const bool reorder = !runtime::same_memory(value(x).spec, norm.x);
  const int d_x = reorder ? new_buffer(norm.x.bytes()) : new_gradient(x);
  emit(codelets::LayerNormBackward{norm}, layer.name + " backward",
       {node.kept.adapted, parameter(layer.weight), read(node.kept.mean),
        read(node.kept.inverse_stddev), read(gradient.buffer), write(d_x),
        gradient_of(layer.weight), gradient_of(layer.bias)});
  if (reorder) reorder_gradient(d_x, norm.x, x);
}

void Lowering::forward_relu(const Node& node) {
  const TensorSpec spec = input(node).spec;
  emit(codelets::ReluForward{spec}, node.layer->name,
       {read(input(node).location), define(node.output, spec).location});
}

void Lowering::backward_relu(const Node& node) {
  const ActivationId x = node.layer->inputs[0];
  const Gradient gradient = total_gradient(node.output, false);
  emit(codelets::ReluBackward{value(x).spec}, node.layer->name + " backward",
       {read(output(node).location), read(gradient.buffer), write(new_gradient(x))});
}

void Lowering::forward_activation(const Node& node) {
  const Layer& layer = *node.layer;
  const TensorSpec spec = input(node).spec;
  emit(codelets::ActivationForward{spec, layer.function, layer.slope}, layer.name,
       {read(input(node).location), define(node.output, spec).location});
}

void Lowering::backward_activation(const Node& node) {
  const Layer& layer = *node.layer;
  const ActivationId x = layer.inputs[0];
  const Gradient gradient = total_gradient(node.output, false);
  emit(codelets::ActivationBackward{value(x).spec, layer.function, layer.slope},
       layer.name + " backward",
       {read(value(x).location), read(gradient.buffer), write(new_gradient(x))});
}

void Lowering::forward_add(const Node& node) {
  const TensorSpec spec = input(node).spec;
  const Argument other = in_layout(node.layer->inputs[1], spec.layout);
  emit(codelets::Add{spec, node.relu}, node.layer->name,
       {read(input(node).location), other, define(node.output, spec).location});
}

void Lowering::backward_add(const Node& node) {
  const TensorSpec spec = output(node).spec;
  const Gradient gradient = pre_activation_gradient(node);
  for (const ActivationId summand : node.layer->inputs) {
    if (!needs_gradient(summand)) continue;
    if (value(summand).spec.layout == spec.layout) {
      value(summand).gradients.push_back({gradient.buffer, true});
    } else {
      reorder_gradient(gradient.buffer, spec, summand);
    }
  }
}

void Lowering::forward_pool(Node& node) {
  const Layer& layer = *node.layer;
  auto& pool = node.kept.pool;
  pool.kind =
      layer.kind == LayerKind::max_pool ? codelets::PoolKind::max : codelets::PoolKind::average;
  pool.src = input(node).spec;
  pool.dst = output_spec(node);
  pool.dst.layout = pool.src.layout;
  pool.window = layer.window;
  pool.count_padding = layer.count_padding;
  pool.ceil_mode = layer.ceil_mode;
  const std::size_t indices_bytes =
      of_device([&pool](auto device) { return codelets::pool2d_indices_bytes(pool, device); });
  const Argument indices = keep(node.kept.indices, indices_bytes);
  emit(codelets::Pool2dForward{pool, mode_ == Mode::train}, layer.name,
       {read(input(node).location), define(node.output, pool.dst).location, indices});
}

void Lowering::backward_pool(const Node& node) {
  const ActivationId x = node.layer->inputs[0];
  const Gradient gradient = total_gradient(node.output, false);
  emit(codelets::Pool2dBackward{node.kept.pool}, node.layer->name + " backward",
       {read(gradient.buffer), node.kept.indices >= 0 ? read(node.kept.indices) : Argument{},
        write(new_gradient(x))});
}

void Lowering::forward_fully_connected(Node& node) {
  const Layer& layer = *node.layer;
  auto& fc = node.kept.fc;
  fc.src = input(node).spec;
  fc.dst = output_spec(node);
  fc.dst.layout = Layout::nchw;
  fc.bias = layer.bias >= 0;
  // The loss is computed in float32.
  if (node.output == network_.logits) fc.dst.type = runtime::DataType::float32;
  TensorSpec stored = fc.dst;
  if (on_gpu()) stored.layout = Layout::nhwc;  // the same in memory
  std::vector<Argument> arguments{read(input(node).location), weights(layer)};
  if (fc.bias) arguments.push_back(parameter(layer.bias));
  arguments.push_back(define(node.output, stored).location);
  emit(codelets::FullyConnectedForward{fc, node.relu}, layer.name, std::move(arguments));
}

void Lowering::backward_fully_connected(const Node& node) {
  const Layer& layer = *node.layer;
  const ActivationId x = layer.inputs[0];
  const Gradient gradient = pre_activation_gradient(node);
  std::vector<Argument> arguments{read(input(node).location), read(gradient.buffer),
                                  gradient_of(layer.weight)};
  if (node.kept.fc.bias) arguments.push_back(gradient_of(layer.bias));
  emit(codelets::FullyConnectedBackwardWeights{node.kept.fc}, layer.name + " backward weights",
       std::move(arguments));
  if (needs_gradient(x)) {
    emit(codelets::FullyConnectedBackwardData{node.kept.fc}, layer.name + " backward data",
         {weights(layer), read(gradient.buffer), write(new_gradient(x))});
  }
}

void Lowering::forward_concat(Node& node) {
  auto& concat = node.kept.concat;
  concat.whole = output_spec(node);
  for (const ActivationId part : node.layer->inputs) concat.parts.push_back(value(part).spec);
  of_device([&concat](auto device) { codelets::choose_layout(concat, device); });
  std::vector<Argument> arguments;
  for (const ActivationId part : node.layer->inputs)
    arguments.push_back(in_layout(part, concat.whole.layout));
  arguments.push_back(define(node.output, concat.whole).location);
  emit(codelets::ConcatForward{concat}, node.layer->name, std::move(arguments));
}

void Lowering::backward_concat(const Node& node) {
  const Gradient gradient = total_gradient(node.output, false);
  std::vector<Argument> arguments{read(gradient.buffer)};
  std::vector<std::pair<int, std::size_t>> reorders;  // of a buffer, for this part
  for (std::size_t i = 0; i < node.kept.concat.parts.size(); ++i) {
    const ActivationId part = node.layer->inputs[i];
    if (!needs_gradient(part)) {
      arguments.push_back({});
    } else if (value(part).spec.layout == node.kept.concat.parts[i].layout) {
      arguments.push_back(write(new_gradient(part)));
    } else {
      reorders.emplace_back(new_buffer(node.kept.concat.parts[i].bytes()), i);
      arguments.push_back(write(reorders.back().first));
    }
  }
  emit(codelets::ConcatBackward{node.kept.concat}, node.layer->name + " backward",
       std::move(arguments));
  for (const auto& [buffer, i] : reorders)
    reorder_gradient(buffer, node.kept.concat.parts[i], node.layer->inputs[i]);
}

void Lowering::forward_slice(Node& node) {
  const std::int64_t first = node.layer->first_channel;
  const Value& x = input(node);
  const Shape out = batched(network_.shape(node.output));
  codelets::Concat concat;
  std::vector<Argument> arguments{{}};
  for (const std::int64_t channels : {first, out.c, x.spec.shape.c - first - out.c}) {
    if (channels == 0) continue;
    TensorSpec part = x.spec;
    part.shape.c = channels;
    concat.parts.push_back(part);
  }
  concat.whole = x.spec;
  of_device([&concat](auto device) { codelets::choose_layout(concat, device); });
  const std::size_t own = first == 0 ? 0 : 1;
  arguments[0] = in_layout(node.layer->inputs[0], concat.whole.layout);
  arguments.resize(1 + concat.parts.size());
  arguments[1 + own] = define(node.output, concat.parts[own]).location;
  emit(codelets::ConcatBackward{concat}, node.layer->name, std::move(arguments));
}

void Lowering::backward_slice(const Node& node) {
  const ActivationId x = node.layer->inputs[0];
  const Gradient gradient = total_gradient(node.output, false);
  value(x).slices.push_back({node.layer->first_channel, output(node).spec, gradient.buffer});
}

void Lowering::forward_channel_shuffle(const Node& node) {
  const codelets::ChannelShuffle shuffle{input(node).spec, node.layer->groups};
  emit(shuffle, node.layer->name,
       {read(input(node).location), define(node.output, shuffle.x).location});
}

void Lowering::backward_channel_shuffle(const Node& node) {
  const ActivationId x = node.layer->inputs[0];
  const Gradient gradient = total_gradient(node.output, false);
  const codelets::ChannelShuffle shuffle{value(x).spec, node.layer->groups};
  emit(inverse(shuffle), node.layer->name + " backward",
       {read(gradient.buffer), write(new_gradient(x))});
}

void Lowering::forward_dropout(Node& node) {
  if (mode_ != Mode::train) {
    output(node) = input(node);
    return;
  }
  auto& dropout = node.kept.dropout;
  dropout = {input(node).spec, node.layer->rate, static_cast<std::uint32_t>(node.output),
             node.layer->dropped};
  emit(dropout, node.layer->name,
       {read(input(node).location), keys, define(node.output, dropout.x).location});
}

void Lowering::backward_dropout(const Node& node) {
  const ActivationId x = node.layer->inputs[0];
  const Gradient gradient = total_gradient(node.output, true);
  emit(node.kept.dropout, node.layer->name + " backward",
       {read(gradient.buffer), keys, update(gradient.buffer)});
  value(x).gradients.push_back(gradient);
}

void Lowering::forward_multiply(Node& node) {
  const TensorSpec spec = input(node).spec;
  node.kept.adapted = in_layout(node.layer->inputs[1], spec.layout);
  std::vector<Argument> arguments{read(input(node).location), node.kept.adapted,
                                  define(node.output, spec).location};
  if (multiplies_channels(node)) {
    emit(codelets::MultiplyForward{spec}, node.layer->name, std::move(arguments));
  } else {
    emit(codelets::Product{spec}, node.layer->name, std::move(arguments));
  }
}

bool Lowering::multiplies_channels(const Node& node) {
  return input(node).spec.shape != value(node.layer->inputs[1]).spec.shape;
}

void Lowering::backward_multiply(const Node& node) {
  const TensorSpec spec = input(node).spec;
  const bool of_channels = multiplies_channels(node);
  const TensorSpec factors_spec = of_channels ? codelets::multiply_factors(spec) : spec;
  const ActivationId x = node.layer->inputs[0], factors = node.layer->inputs[1];
  const Gradient gradient = total_gradient(node.output, false);
  const Argument d_x = needs_gradient(x) ? write(new_gradient(x)) : Argument{};
  const bool reorder = !runtime::same_memory(value(factors).spec, factors_spec);
  const int d_factors = reorder ? new_buffer(factors_spec.bytes()) : new_gradient(factors);
  const std::string name = node.layer->name + " backward";
  if (of_channels) {
    emit(codelets::MultiplyBackward{spec}, name,
         {read(input(node).location), node.kept.adapted, read(gradient.buffer), d_x,
          write(d_factors)});
  } else {
    const codelets::Product product{spec};
    if (needs_gradient(x)) emit(product, name, {read(gradient.buffer), node.kept.adapted, d_x});
    emit(product, name, {read(gradient.buffer), read(input(node).location), write(d_factors)});
  }
  if (reorder) reorder_gradient(d_factors, factors_spec, factors);
}

void Lowering::forward_affine(const Node& node) {
  const Layer& layer = *node.layer;
  const TensorSpec spec = input(node).spec;
  emit(codelets::AffineMap{spec, layer.factor, layer.offset}, layer.name,
       {read(input(node).location), define(node.output, spec).location});
}

void Lowering::backward_affine(const Node& node) {
  const Layer& layer = *node.layer;
  const ActivationId x = layer.inputs[0];
  const Gradient gradient = total_gradient(node.output, false);
  emit(codelets::AffineMap{value(x).spec, layer.factor}, layer.name + " backward",
       {read(gradient.buffer), write(new_gradient(x))});
}

codelets::Pad2d Lowering::pad_of(const Node& node) {
  const TensorSpec spec = input(node).spec;
  return {spec, {batched(network_.shape(node.output)), spec.type, spec.layout}, node.layer->before};
}

void Lowering::forward_pad(const Node& node) {
  const codelets::Pad2d pad = pad_of(node);
  emit(codelets::Pad2dForward{pad}, node.layer->name,
       {read(input(node).location), define(node.output, pad.dst).location});
}

void Lowering::backward_pad(const Node& node) {
  const ActivationId x = node.layer->inputs[0];
  const Gradient gradient = total_gradient(node.output, false);
  emit(codelets::Pad2dBackward{pad_of(node)}, node.layer->name + " backward",
       {read(gradient.buffer), write(new_gradient(x))});
}

}  // namespace

Lowered lower(const LoweringRequest& request) { return Lowering(request).run(); }

}  // namespace stpt::models
