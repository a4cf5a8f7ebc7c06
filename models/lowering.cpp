#include "models/lowering.hpp"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "codelets/softmax_cross_entropy.hpp"
#include "models/packing.hpp"

namespace stpt::models {
using runtime::Access;
using runtime::Layout;
using runtime::Shape;
using runtime::TensorSpec;

Lowering::Lowering(const Network& network, Mode mode, Program& program)
    : network_(network), mode_(mode), program_(program), values_(network.activations.size()) {}

void Lowering::merge_layers() {
  std::vector<int> readers(network_.activations.size(), 0);
  for (const Layer& layer : network_.layers) {
    for (const ActivationId input : layer.inputs) ++readers[static_cast<std::size_t>(input)];
  }
  ++readers[static_cast<std::size_t>(network_.logits)];

  std::map<ActivationId, std::size_t> producer;
  const auto sole_producer = [&](ActivationId id) -> Node* {
    const auto found = producer.find(id);
    if (found == producer.end() || readers[static_cast<std::size_t>(id)] != 1) return nullptr;
    return &nodes_[found->second];
  };

  for (const Layer& layer : network_.layers) {
    if (layer.kind == LayerKind::relu) {
      Node* node = sole_producer(layer.inputs[0]);
      if (node != nullptr && !node->relu &&
          (node->layer->kind == LayerKind::convolution ||
           node->layer->kind == LayerKind::batch_norm ||
           node->layer->kind == LayerKind::fully_connected ||
           node->layer->kind == LayerKind::add)) {
        node->relu = true;
        node->output = layer.output;
        producer[layer.output] = static_cast<std::size_t>(node - nodes_.data());
        continue;
      }
    }
    Node fresh{&layer, false, std::nullopt, layer.output};
    if (layer.kind == LayerKind::add) {
      for (std::size_t i = 0; i < 2; ++i) {
        Node* norm = sole_producer(layer.inputs[i]);
        if (norm == nullptr || norm->layer->kind != LayerKind::batch_norm || norm->relu ||
            norm->residual)
          continue;
        // Batch norm moves to where the other summand is known as well.
        norm->live = false;
        fresh.layer = norm->layer;
        fresh.residual = layer.inputs[1 - i];
        break;
      }
    }
    producer[layer.output] = nodes_.size();
    nodes_.push_back(fresh);
  }
  std::erase_if(nodes_, [](const Node& node) { return !node.live; });
}

Shape Lowering::batched(const Shape& shape) const {
  return {program_.batch(), shape.c, shape.h, shape.w};
}

int Lowering::new_buffer(std::size_t bytes) {
  buffers_.push_back({bytes, -1, -1, {}});
  return static_cast<int>(buffers_.size()) - 1;
}

Lowering::Value& Lowering::define(ActivationId id, const TensorSpec& spec) {
  Value& defined = value(id);
  defined.spec = spec;
  defined.location = write(new_buffer(spec.bytes()));
  return defined;
}

Lowering::Argument Lowering::parameter(int index) const {
  const Parameter& parameter = network_.parameters[static_cast<std::size_t>(index)];
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
  const Parameter& parameter = network_.parameters[static_cast<std::size_t>(index)];
  Argument argument = gradient_bucket(parameter.bucket);
  argument.offset = parameter.offset * sizeof(float);
  given_.insert(index);
  return argument;
}

const Parameter& Lowering::weight_of(const Layer& layer) const {
  return network_.parameters[static_cast<std::size_t>(layer.weight)];
}

std::int64_t Lowering::image_channels() const {
  const std::int64_t channels = network_.input().c;
  const bool convolved = std::ranges::all_of(network_.layers, [](const Layer& layer) {
    return layer.kind == LayerKind::convolution ||
           std::ranges::find(layer.inputs, 0) == layer.inputs.end();
  });
  if (!convolved) return channels;
  return std::visit(
      [&](auto device) { return codelets::conv2d_channels(channels, network_.data_type, device); },
      program_.options_.device);
}

TensorSpec Lowering::weights_spec(const Layer& layer) const {
  Shape shape = weight_of(layer).shape;
  if (layer.kind == LayerKind::convolution && layer.inputs[0] == 0) shape.c = image_channels();
  return std::visit(
      [&](auto device) {
        return layer.kind == LayerKind::convolution
                   ? codelets::conv2d_weights(shape, network_.data_type, device)
                   : codelets::fully_connected_weights(shape, network_.data_type, device);
      },
      program_.options_.device);
}

int Lowering::conversion_of(const Layer& layer) const {
  return program_.options_.grain == Grain::step ? 0 : layer.block;
}

Lowering::ConvertedWeights& Lowering::converted_weights(int conversion) {
  const auto [found, fresh] = converted_.try_emplace(conversion);
  ConvertedWeights& converted = found->second;
  if (!fresh) return converted;
  codelets::Reorders reorders;
  std::vector<Argument> arguments;
  for (const Layer& layer : network_.layers) {
    if (layer.kind != LayerKind::convolution && layer.kind != LayerKind::fully_connected) continue;
    const Parameter& weight = weight_of(layer);
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
  const int index = static_cast<int>(emitted_.size());
  for (const Argument& argument : arguments) {
    if (argument.resource != Resource::activations) continue;
    Buffer& buffer = buffers_[static_cast<std::size_t>(argument.index)];
    if (buffer.first < 0) buffer.first = index;
    buffer.last = index;
  }
  emitted_.push_back({name, block_, backward_, std::move(arguments)});
  program_.operations_.push_back({codelets::plan(op, program_.options_.device), {}});
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
  const int parts = program_.image_parts();
  Value& images = value(0);
  images.spec = {batched(network_.input()), runtime::DataType::float32, Layout::nchw};
  images.location = {Resource::images, 0, 0, Access::read};
  if (!on_gpu()) {
    if (parts != 1) throw std::logic_error("Program: cores take a batch in one part");
    return;
  }
  if (program_.batch() % parts != 0)
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
  if (program_.batch() < 1) {
    throw std::invalid_argument(network_.name + ": a batch of " + std::to_string(program_.batch()) +
                                " images; at least 1 is needed");
  }
  merge_layers();
  kept_.resize(nodes_.size());
  emit_input();
  for (std::size_t node = 0; node < nodes_.size(); ++node) emit_forward(node);
  if (mode_ == Mode::calibration) return;
  emit_loss();
  if (mode_ != Mode::train) return;
  backward_ = true;
  emit_loss_backward();
  std::map<int, int> convolutions;  // of each conversion, whose backward is still to come
  for (const Node& node : nodes_)
    if (node.layer->kind == LayerKind::convolution) ++convolutions[conversion_of(*node.layer)];
  for (std::size_t index = nodes_.size(); index-- > 0;) {
    emit_backward(index);
    const Layer& layer = *nodes_[index].layer;
    if (layer.kind != LayerKind::convolution) continue;
    const int conversion = conversion_of(layer);
    if (--convolutions[conversion] == 0) emit_converted_gradients(conversion);
  }
  // Else the optimizer would read what nobody wrote.
  if (given_.size() != network_.parameters.size())
    throw std::logic_error("Lowering: a parameter without a gradient");
}

void Lowering::emit_forward(std::size_t index) {
  const Node& node = nodes_[index];
  const Layer& layer = *node.layer;
  Kept& kept = kept_[index];
  const ActivationId x = layer.inputs[0];
  const bool keeps = mode_ == Mode::train;
  const TensorSpec out{batched(network_.activations[static_cast<std::size_t>(node.output)]),
                       network_.data_type, Layout::any};
  block_ = layer.block;
  switch (layer.kind) {
    case LayerKind::convolution: {
      auto& conv = kept.conv;
      conv = {value(x).spec, out,           layer.kernel_h, layer.kernel_w,
              layer.stride,  layer.padding, layer.bias >= 0};
      std::visit([&conv](auto device) { codelets::choose_layout(conv, device); },
                 program_.options_.device);
      std::vector<Argument> arguments{read(value(x).location), weights(layer)};
      if (conv.bias) arguments.push_back(parameter(layer.bias));
      arguments.push_back(define(node.output, conv.dst).location);
      emit(codelets::Conv2dForward{conv, node.relu}, layer.name, std::move(arguments));
      break;
    }
    case LayerKind::batch_norm: {
      auto& norm = kept.norm;
      norm.x = value(x).spec;
      norm.relu = node.relu;
      norm.residual = node.residual.has_value();
      std::vector<Argument> arguments{read(value(x).location)};
      if (node.residual) arguments.push_back(in_layout(*node.residual, norm.x.layout));
      arguments.push_back(parameter(layer.weight));
      arguments.push_back(parameter(layer.bias));
      auto mode = codelets::BatchNormMode::training;
      if (mode_ == Mode::batch_statistics) mode = codelets::BatchNormMode::batch_statistics;
      if (mode_ == Mode::inference) mode = codelets::BatchNormMode::inference;
      if (mode_ == Mode::calibration) norm.momentum = 1.0f;
      if (mode == codelets::BatchNormMode::batch_statistics) {
        arguments.insert(arguments.end(), 2, Argument{});
      } else {
        const Access access = mode_ == Mode::inference ? Access::read : Access::read_write;
        arguments.push_back(running(layer.running_mean, access));
        arguments.push_back(running(layer.running_variance, access));
      }
      arguments.push_back(define(node.output, norm.x).location);
      if (mode == codelets::BatchNormMode::training) {
        const std::size_t bytes = static_cast<std::size_t>(norm.x.shape.c) * sizeof(float);
        kept.mean = new_buffer(bytes);
        kept.inverse_stddev = new_buffer(bytes);
        arguments.push_back(write(kept.mean));
        arguments.push_back(write(kept.inverse_stddev));
      } else {
        arguments.insert(arguments.end(), 2, Argument{});
      }
      Argument mask;
      const std::size_t mask_bytes =
          std::visit([&norm](auto device) { return codelets::batch_norm_mask_bytes(norm, device); },
                     program_.options_.device);
      if (keeps && mask_bytes > 0) {
        kept.mask = new_buffer(mask_bytes);
        mask = write(kept.mask);
      }
      arguments.push_back(mask);
      emit(codelets::BatchNormForward{norm, mode}, layer.name, std::move(arguments));
      break;
    }
    case LayerKind::relu:
      emit(codelets::ReluForward{value(x).spec}, layer.name,
           {read(value(x).location), define(node.output, value(x).spec).location});
      break;
    case LayerKind::add: {
      const TensorSpec spec = value(x).spec;
      const Argument other = in_layout(layer.inputs[1], spec.layout);
      emit(codelets::Add{spec, node.relu}, layer.name,
           {read(value(x).location), other, define(node.output, spec).location});
      break;
    }
    case LayerKind::max_pool:
    case LayerKind::average_pool: {
      auto& pool = kept.pool;
      pool.kind =
          layer.kind == LayerKind::max_pool ? codelets::PoolKind::max : codelets::PoolKind::average;
      pool.src = value(x).spec;
      pool.dst = out;
      pool.dst.layout = pool.src.layout;
      pool.kernel_h = layer.kernel_h;
      pool.kernel_w = layer.kernel_w;
      pool.stride = layer.stride;
      pool.padding = layer.padding;
      Argument indices;
      const std::size_t bytes =
          std::visit([&pool](auto device) { return codelets::pool2d_indices_bytes(pool, device); },
                     program_.options_.device);
      if (keeps && bytes > 0) {
        kept.indices = new_buffer(bytes);
        indices = write(kept.indices);
      }
      emit(codelets::Pool2dForward{pool, keeps}, layer.name,
           {read(value(x).location), define(node.output, pool.dst).location, indices});
      break;
    }
    case LayerKind::fully_connected: {
      auto& fc = kept.fc;
      fc.src = value(x).spec;
      fc.dst = out;
      fc.dst.layout = Layout::nchw;
      // The loss is computed in float32.
      if (node.output == network_.logits) fc.dst.type = runtime::DataType::float32;
      TensorSpec stored = fc.dst;
      if (on_gpu()) stored.layout = Layout::nhwc;  // the same in memory
      emit(codelets::FullyConnectedForward{fc, node.relu}, layer.name,
           {read(value(x).location), weights(layer), parameter(layer.bias),
            define(node.output, stored).location});
      break;
    }
  }
}

void Lowering::emit_loss() {
  TensorSpec spec = value(network_.logits).spec;
  spec.layout = Layout::nchw;
  spec.type = runtime::DataType::float32;
  const Argument logits = as(network_.logits, spec);
  Argument d_logits;
  if (mode_ == Mode::train) {
    logits_gradient_ = new_buffer(spec.bytes());
    d_logits = write(logits_gradient_);
  }
  codelets::SoftmaxCrossEntropy loss{spec, mode_ == Mode::train, program_.loss_scale()};
  if (mode_ == Mode::train) loss.label_smoothing = program_.options_.label_smoothing;
  emit(loss, "loss",
       {logits,
        {Resource::labels, 0, 0, Access::read},
        {Resource::scores, 0, 0, Access::write},
        d_logits});
}

void Lowering::emit_loss_backward() {
  Value& logits = value(network_.logits);
  TensorSpec spec = logits.spec;
  spec.layout = Layout::nchw;
  spec.type = runtime::DataType::float32;
  if (!runtime::same_memory(spec, logits.spec)) {
    const int reordered = new_buffer(logits.spec.bytes());
    emit(codelets::Reorder{spec, logits.spec}, "reorder backward",
         {read(logits_gradient_), write(reordered)});
    logits_gradient_ = reordered;
  }
  logits.gradients.push_back({logits_gradient_, false});
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

void Lowering::emit_backward(std::size_t index) {
  const Node& node = nodes_[index];
  const Layer& layer = *node.layer;
  const Kept& kept = kept_[index];
  if (value(node.output).gradients.empty()) return;  // nothing that the loss depends on
  block_ = layer.block;
  const std::string name = layer.name + " backward";
  const ActivationId x = layer.inputs[0];
  const Argument input = read(value(x).location);
  const Argument output = read(value(node.output).location);
  const bool input_needs_gradient = x != 0;

  // Everything but batch norm takes one gradient, with the ReLU's part done in place.
  const auto after_relu = [&]() -> Gradient {
    Gradient gradient = total_gradient(node.output, node.relu);
    if (node.relu) {
      emit(codelets::ReluBackward{value(node.output).spec}, "relu backward",
           {output, read(gradient.buffer), update(gradient.buffer)});
    }
    return gradient;
  };
  const auto contribute = [&](ActivationId id) -> int {
    const int buffer = new_buffer(value(id).spec.bytes());
    value(id).gradients.push_back({buffer, false});
    return buffer;
  };

  switch (layer.kind) {
    case LayerKind::convolution: {
      const Gradient gradient = after_relu();
      std::vector<Argument> arguments{input, read(gradient.buffer), gradient_of_weights(layer)};
      if (kept.conv.bias) arguments.push_back(gradient_of(layer.bias));
      emit(codelets::Conv2dBackwardWeights{kept.conv}, name + " weights", std::move(arguments));
      if (input_needs_gradient) {
        emit(codelets::Conv2dBackwardData{kept.conv}, name + " data",
             {weights(layer), read(gradient.buffer), write(contribute(x))});
      }
      break;
    }
    case LayerKind::batch_norm: {
      auto& parts = value(node.output).gradients;
      if (parts.size() > 2) total_gradient(node.output, false);
      const bool two = parts.size() == 2;
      Argument mask;
      if (kept.norm.relu && kept.norm.residual) mask = kept.mask >= 0 ? read(kept.mask) : output;
      std::vector<Argument> arguments{input,
                                      mask,
                                      parameter(layer.weight),
                                      parameter(layer.bias),
                                      read(kept.mean),
                                      read(kept.inverse_stddev),
                                      read(parts[0].buffer)};
      if (two) arguments.push_back(read(parts[1].buffer));
      arguments.push_back(write(contribute(x)));
      if (node.residual) {
        // The residual's gradient has the layout of this op; its producer wants its own.
        const TensorSpec spec = value(*node.residual).spec;
        if (spec.layout == kept.norm.x.layout) {
          arguments.push_back(write(contribute(*node.residual)));
        } else {
          arguments.push_back(write(new_buffer(kept.norm.x.bytes())));
        }
      }
      const Argument d_residual = node.residual ? arguments.back() : Argument{};
      arguments.push_back(gradient_of(layer.weight));
      arguments.push_back(gradient_of(layer.bias));
      emit(codelets::BatchNormBackward{kept.norm, two}, name, std::move(arguments));
      if (node.residual && value(*node.residual).spec.layout != kept.norm.x.layout) {
        emit(codelets::Reorder{kept.norm.x, value(*node.residual).spec}, "reorder backward",
             {read(d_residual), write(contribute(*node.residual))});
      }
      break;
    }
    case LayerKind::relu: {
      if (!input_needs_gradient) break;
      const Gradient gradient = total_gradient(node.output, false);
      emit(codelets::ReluBackward{value(x).spec}, name,
           {output, read(gradient.buffer), write(contribute(x))});
      break;
    }
    case LayerKind::add: {
      const Gradient gradient = after_relu();
      for (const ActivationId summand : layer.inputs) {
        if (value(summand).spec.layout == value(node.output).spec.layout) {
          value(summand).gradients.push_back({gradient.buffer, true});
        } else {
          emit(codelets::Reorder{value(node.output).spec, value(summand).spec}, "reorder backward",
               {read(gradient.buffer), write(contribute(summand))});
        }
      }
      break;
    }
    case LayerKind::max_pool:
    case LayerKind::average_pool: {
      if (!input_needs_gradient) break;
      const Gradient gradient = total_gradient(node.output, false);
      emit(codelets::Pool2dBackward{kept.pool}, name,
           {read(gradient.buffer), kept.indices >= 0 ? read(kept.indices) : Argument{},
            write(contribute(x))});
      break;
    }
    case LayerKind::fully_connected: {
      const Gradient gradient = after_relu();
      emit(codelets::FullyConnectedBackwardWeights{kept.fc}, name + " weights",
           {input, read(gradient.buffer), gradient_of(layer.weight), gradient_of(layer.bias)});
      if (input_needs_gradient) {
        emit(codelets::FullyConnectedBackwardData{kept.fc}, name + " data",
             {weights(layer), read(gradient.buffer), write(contribute(x))});
      }
      break;
    }
  }
}

void Lowering::cut(Grain grain) {
  auto& segments = program_.segments_;
  std::vector<int> segment_of(emitted_.size());
  for (std::size_t op = 0; op < emitted_.size(); ++op) {
    const Emitted& emitted = emitted_[op];
    const bool starts = op == 0 || grain == Grain::op ||
                        (grain == Grain::block && (emitted.block != emitted_[op - 1].block ||
                                                   emitted.backward != emitted_[op - 1].backward));
    if (starts) {
      Program::Segment segment;
      segment.first = op;
      if (grain == Grain::step) {
        segment.name = mode_ == Mode::train ? "step" : "score";
      } else if (grain == Grain::block) {
        segment.name = network_.blocks[static_cast<std::size_t>(emitted.block)] +
                       (emitted.backward ? " backward" : " forward");
      } else {
        segment.name = emitted.name;
      }
      segments.push_back(std::move(segment));
    }
    segments.back().last = op + 1;
    segment_of[op] = static_cast<int>(segments.size()) - 1;
    for (const Argument& argument : emitted.arguments) {
      if (argument.resource == Resource::activations) {
        buffers_[static_cast<std::size_t>(argument.index)].segments.insert(segment_of[op]);
      }
    }
  }

  // Buffers of one segment alone lie in its scratch memory; others in the group of those with the
  // same segments.
  struct Home {
    Resource resource = Resource::none;
    int index = 0;
    std::size_t offset = 0;
  };
  std::vector<Home> homes(buffers_.size());
  std::map<std::set<int>, std::vector<std::size_t>> groups;
  for (std::size_t buffer = 0; buffer < buffers_.size(); ++buffer) {
    if (!buffers_[buffer].segments.empty()) groups[buffers_[buffer].segments].push_back(buffer);
  }
  std::vector<std::size_t> local_bytes(segments.size(), 0);
  std::vector<int> first_segment_of_group;
  for (const auto& [used_by, members] : groups) {
    std::vector<Lifetime> lifetimes;
    for (const std::size_t member : members) {
      lifetimes.push_back({buffers_[member].bytes, buffers_[member].first, buffers_[member].last});
    }
    const Packing packing = pack(lifetimes);
    const bool local = used_by.size() == 1;
    for (std::size_t i = 0; i < members.size(); ++i) {
      homes[members[i]] = {local ? Resource::scratch : Resource::activations,
                           local ? 0 : static_cast<int>(program_.group_bytes_.size()),
                           packing.offsets[i]};
    }
    if (local) {
      local_bytes[static_cast<std::size_t>(*used_by.begin())] = packing.bytes;
    } else {
      program_.group_bytes_.push_back(packing.bytes);
      first_segment_of_group.push_back(*used_by.begin());
    }
  }

  for (std::size_t number = 0; number < segments.size(); ++number) {
    Program::Segment& segment = segments[number];
    std::map<std::pair<Resource, int>, int> binding_of;
    const auto bind = [&](Resource resource, int index, Access access) -> int {
      const auto [found, fresh] =
          binding_of.try_emplace({resource, index}, static_cast<int>(segment.bindings.size()));
      if (fresh) {
        segment.bindings.push_back({resource, index, access});
      } else if (Access& known = segment.bindings[static_cast<std::size_t>(found->second)].access;
                 known != access && known != Access::scratch) {
        // Written before it is read inside the segment: what was there before does not matter.
        if (known == Access::read) known = Access::read_write;
      }
      return found->second;
    };
    std::size_t workspace = 0;
    for (std::size_t op = segment.first; op < segment.last; ++op) {
      auto& operation = program_.operations_[op];
      workspace = std::max(workspace, operation.kernel->workspace_bytes());
      for (const Argument& argument : emitted_[op].arguments) {
        Program::Operand operand;
        if (argument.resource == Resource::activations) {
          const Home& home = homes[static_cast<std::size_t>(argument.index)];
          Access access = argument.access;
          if (home.resource == Resource::scratch) {
            access = Access::scratch;
          } else if (first_segment_of_group[static_cast<std::size_t>(home.index)] ==
                     static_cast<int>(number)) {
            access = Access::write;
          } else if (access == Access::write) {
            access = Access::read_write;  // other members of the group keep their values
          }
          operand = {bind(home.resource, home.index, access), home.offset + argument.offset};
        } else if (argument.resource != Resource::none) {
          operand = {bind(argument.resource, argument.index, argument.access), argument.offset};
        }
        operation.operands.push_back(operand);
      }
    }
    constexpr std::size_t workspace_alignment = 256;  // what cuDNN and cuBLAS like
    segment.workspace_offset =
        (local_bytes[number] + workspace_alignment - 1) / workspace_alignment * workspace_alignment;
    if (local_bytes[number] + workspace > 0) {
      segment.scratch_binding = bind(Resource::scratch, 0, Access::scratch);
      program_.scratch_bytes_ =
          std::max(program_.scratch_bytes_, segment.workspace_offset + workspace);
    }
    segment.footprint = static_cast<std::uint32_t>(std::hash<std::string>{}(
        network_.name + segment.name + std::to_string(program_.batch_) + std::to_string(number)));
  }
}

}  // namespace stpt::models
