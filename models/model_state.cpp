#include "models/model_state.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "runtime/task.hpp"

namespace stpt::models {
namespace {

using runtime::Access;
using runtime::Codelet;
using runtime::Home;
using runtime::HostView;
using runtime::Tensor;
using runtime::vector_spec;
using runtime::WorkerKind;

void copy(const Tensor& source, const Tensor& destination) {
  static const Codelet codelet("copy", {WorkerKind::cpu});
  const std::size_t bytes = source.bytes();
  runtime::submit(codelet, {{source, Access::read}, {destination, Access::write}},
                  [bytes](const runtime::TaskContext& task) {
                    std::memcpy(task.buffer<void>(1), task.buffer<void>(0), bytes);
                  });
}

std::size_t total_bytes(const std::vector<Tensor>& tensors) {
  std::size_t bytes = 0;
  for (const Tensor& tensor : tensors) bytes += tensor.bytes();
  return bytes;
}

std::vector<std::vector<float>> read_all(const std::vector<Tensor>& tensors) {
  std::vector<std::vector<float>> values;
  for (const Tensor& tensor : tensors) {
    const HostView view(tensor, Access::read);
    const auto floats = view.as<float>();
    values.emplace_back(floats.begin(), floats.end());
  }
  return values;
}

void check_sizes(const std::vector<Tensor>& tensors,
                 const std::vector<std::vector<float>>& values) {
  bool fits = tensors.size() == values.size();
  for (std::size_t i = 0; fits && i < tensors.size(); ++i) {
    fits = tensors[i].bytes() == values[i].size() * sizeof(float);
  }
  if (!fits) throw std::invalid_argument("ModelState: the values are those of another network");
}

void write_all(const std::vector<Tensor>& tensors, const std::vector<std::vector<float>>& values) {
  check_sizes(tensors, values);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const HostView view(tensors[i], Access::write);
    std::copy(values[i].begin(), values[i].end(), view.as<float>().begin());
  }
}

}  // namespace

ModelState::ModelState(const Network& network, int workers, const std::string& name) {
  for (const Block& block : network.blocks) {
    // A block without parameters keeps its place, so that bucket numbers are block numbers.
    const auto spec = vector_spec(std::max<std::size_t>(block.parameters, 1));
    parameters.emplace_back(spec, name + ".parameters." + block.name, Home::host);
    velocity.emplace_back(spec, name + ".velocity." + block.name, Home::host);
  }
  if (!network.has_batch_norm()) return;
  for (int worker = 0; worker < workers; ++worker) {
    running.emplace_back(vector_spec(network.running_statistics),
                         name + ".running." + std::to_string(worker), Home::host);
  }
}

void ModelState::copy_from(const ModelState& other) {
  if (this == &other) return;
  if (parameters.size() != other.parameters.size() || running.size() != other.running.size()) {
    throw std::logic_error("ModelState: cannot copy between different networks or worker counts");
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) copy(other.parameters[i], parameters[i]);
  for (std::size_t i = 0; i < velocity.size(); ++i) copy(other.velocity[i], velocity[i]);
  for (std::size_t i = 0; i < running.size(); ++i) copy(other.running[i], running[i]);
}

void ModelState::spread_running_statistics(std::size_t trained) {
  for (std::size_t i = trained; i < running.size(); ++i) copy(running[i % trained], running[i]);
}

void ModelState::reset_velocity() {
  static const Codelet codelet("clear", {WorkerKind::cpu});
  for (const Tensor& tensor : velocity) {
    const std::size_t bytes = tensor.bytes();
    runtime::submit(codelet, {{tensor, Access::write}}, [bytes](const runtime::TaskContext& task) {
      std::memset(task.buffer<void>(0), 0, bytes);
    });
  }
}

std::size_t ModelState::bytes() const {
  return total_bytes(parameters) + total_bytes(velocity) + total_bytes(running);
}

ModelValues ModelValues::initial(const Network& network, int workers, std::uint64_t seed) {
  ModelValues values;
  values.parameters = network.initial_parameters(seed);
  for (auto& bucket : values.parameters) {
    bucket.resize(std::max<std::size_t>(bucket.size(), 1));
    values.velocity.emplace_back(bucket.size(), 0.0f);
  }
  if (network.has_batch_norm()) {
    values.running.assign(static_cast<std::size_t>(workers), network.initial_running_statistics());
  }
  return values;
}

ModelValues read(const ModelState& state) {
  return {read_all(state.parameters), read_all(state.velocity), read_all(state.running)};
}

void write(ModelState& state, const ModelValues& values) {
  write_all(state.parameters, values.parameters);
  write_all(state.velocity, values.velocity);
  write_all(state.running, values.running);
}

void average_running_statistics(std::span<const Tensor> running, const Tensor& destination) {
  static const Codelet codelet("average running statistics", {WorkerKind::cpu});
  std::vector<runtime::Use> uses;
  for (const Tensor& tensor : running) uses.push_back({tensor, Access::read});
  uses.push_back({destination, Access::write});
  const std::size_t count = destination.bytes() / sizeof(float);
  runtime::submit(codelet, uses, [count](const runtime::TaskContext& task) {
    const std::size_t workers = task.buffers.size() - 1;
    float* mean = task.buffer<float>(workers);
    std::memcpy(mean, task.buffer<float>(0), count * sizeof(float));
    for (std::size_t worker = 1; worker < workers; ++worker) {
      codelets::accumulate(count, mean, task.buffer<float>(worker), codelets::Cpu{}, task.stream);
    }
    codelets::scale(count, mean, 1.0f / static_cast<float>(workers), codelets::Cpu{}, task.stream);
  });
}

Optimizer::Optimizer(const Network& network, const codelets::SgdSettings& settings, bool decay_all)
    : settings_(settings), ranges_(network.blocks.size()) {
  for (const Parameter& parameter : network.parameters) {
    auto& ranges = ranges_[static_cast<std::size_t>(parameter.bucket)];
    const auto count = static_cast<std::size_t>(parameter.shape.elements());
    const bool decay = parameter.decay || decay_all;
    // Neighbours of one kind are updated in one go; the padding between them stays zero.
    if (!ranges.empty() && ranges.back().decay == decay) {
      ranges.back().count = parameter.offset + count - ranges.back().offset;
    } else {
      ranges.push_back({parameter.offset, count, decay});
    }
  }
}

void Optimizer::step(ModelState& state, std::size_t bucket, const Tensor& gradient,
                     float gradient_scale, float learning_rate, int worker, int priority) const {
  static const Codelet codelet("update", {WorkerKind::cpu});
  const auto& ranges = ranges_[bucket];
  if (ranges.empty()) return;
  runtime::submit(codelet,
                  {{state.parameters[bucket], Access::read_write},
                   {state.velocity[bucket], Access::read_write},
                   {gradient, Access::read}},
                  [&ranges, settings = settings_, gradient_scale,
                   learning_rate](const runtime::TaskContext& task) {
                    for (const Range& range : ranges) {
                      codelets::SgdSettings effective = settings;
                      if (!range.decay) effective.weight_decay = 0;
                      codelets::sgd_step(range.count, task.buffer<float>(0) + range.offset,
                                         task.buffer<float>(1) + range.offset,
                                         task.buffer<float>(2) + range.offset, gradient_scale,
                                         learning_rate, effective, codelets::Cpu{}, task.stream);
                    }
                  },
                  {.worker = worker,
                   .priority = priority,
                   .footprint = static_cast<std::uint32_t>(gradient.bytes()),
                   .name = nullptr});
}

}  // namespace stpt::models
