#include "models/model_state.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "codelets/buffers.hpp"
#include "runtime/cluster.hpp"
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

void copy(const Tensor& source, const Tensor& destination, std::size_t piece) {
  static const Codelet codelet("copy", {WorkerKind::cpu, WorkerKind::cuda});
  const std::size_t bytes = source.bytes();
  runtime::submit(codelet, {{source, Access::read}, {destination, Access::write}},
                  [bytes](const runtime::TaskContext& task) {
                    codelets::on_device(task.kind, [&](auto device) {
                      codelets::copy(bytes, task.buffer<void>(1), task.buffer<void>(0), device,
                                     task.stream);
                    });
                  },
                  {.worker = runtime::Runtime::current().worker_for(piece)});
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
    fits = !tensors[i] || tensors[i].bytes() == values[i].size() * sizeof(float);
  }
  if (!fits) throw std::invalid_argument("ModelState: the values are those of another network");
}

void write_all(const std::vector<Tensor>& tensors, const std::vector<std::vector<float>>& values) {
  check_sizes(tensors, values);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i]) continue;
    const HostView view(tensors[i], Access::write);
    std::copy(values[i].begin(), values[i].end(), view.as<float>().begin());
  }
}

/// Sums in the order given.
void average(std::span<const float* const> addends, std::span<float> mean) {
  std::copy_n(addends.front(), mean.size(), mean.begin());
  for (const float* addend : addends.subspan(1)) {
    codelets::accumulate(mean.size(), mean.data(), addend, codelets::Cpu{}, nullptr);
  }
  codelets::scale(mean.size(), mean.data(), 1.0f / static_cast<float>(addends.size()),
                  codelets::Cpu{}, nullptr);
}

/// The same elements in arrays of these sizes; false if they are not as many.
bool cut_anew(std::vector<std::vector<float>>& arrays, std::span<const std::size_t> sizes) {
  std::vector<float> all;
  for (const std::vector<float>& array : arrays) all.insert(all.end(), array.begin(), array.end());
  if (std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}) != all.size()) return false;
  arrays.clear();
  for (auto next = all.begin(); const std::size_t size : sizes) {
    const auto end = next + static_cast<std::ptrdiff_t>(size);
    arrays.emplace_back(next, end);
    next = end;
  }
  return true;
}

}  // namespace

ModelState::ModelState(const Network& network, const Team& team, const std::string& name)
    : placement(network, team),
      parameters(network.buckets.size()),
      velocity(network.buckets.size()) {
  const int here = runtime::Cluster::current().rank();
  if (network.has_batch_norm()) running.resize(static_cast<std::size_t>(team.workers));
  if (!team.has(here)) return;
  for (std::size_t bucket = 0; bucket < network.buckets.size(); ++bucket) {
    const auto spec = vector_spec(network.buckets[bucket]);
    const std::string number = std::to_string(bucket);
    parameters[bucket] = Tensor(spec, name + ".parameters." + number, Home::host);
    if (placement.owners[bucket] == here)
      velocity[bucket] = Tensor(spec, name + ".velocity." + number, Home::host);
  }
  if (!network.has_batch_norm()) return;
  for (int worker = team.first_worker(here); worker < team.first_worker(here + 1); ++worker) {
    running[static_cast<std::size_t>(worker)] =
        Tensor(vector_spec(network.running_statistics), name + ".running." + std::to_string(worker),
               Home::host);
  }
}

ModelState::ModelState(const Network& network, int workers, const std::string& name)
    : ModelState(network, Team{runtime::Cluster::current().rank(), 1, workers}, name) {}

void ModelState::copy_from(const ModelState& other, std::size_t piece) {
  if (this == &other) return;
  if (placement != other.placement || running.size() != other.running.size())
    throw std::logic_error("ModelState: cannot copy between different networks or placements");
  const auto copy_all = [piece](const std::vector<Tensor>& from, const std::vector<Tensor>& to) {
    for (std::size_t i = 0; i < to.size(); ++i) {
      if (to[i]) copy(from[i], to[i], piece);
    }
  };
  copy_all(other.parameters, parameters);
  copy_all(other.velocity, velocity);
  copy_all(other.running, running);
}

void ModelState::reset_velocity() {
  static const Codelet codelet("clear", {WorkerKind::cpu, WorkerKind::cuda});
  for (const Tensor& tensor : velocity) {
    if (!tensor) continue;
    const std::size_t bytes = tensor.bytes();
    runtime::submit(codelet, {{tensor, Access::write}},
                    [bytes](const runtime::TaskContext& task) {
                      codelets::on_device(task.kind, [&](auto device) {
                        codelets::clear(bytes, task.buffer<void>(0), device, task.stream);
                      });
                    },
                    {.worker = runtime::Runtime::current().worker_for(0)});
  }
}

runtime::MessageTag message_tag(MessageKind kind, std::size_t a, std::size_t b, std::size_t c) {
  if (a >= (1U << 16) || b >= (1U << 16) || c >= (1U << 24))
    throw std::length_error("message_tag: more parts than a tag can tell apart");
  // 3 + 16 + 16 + 24 bits leave the sign alone.
  return (static_cast<runtime::MessageTag>(kind) << 56) |
         (static_cast<runtime::MessageTag>(a) << 40) | (static_cast<runtime::MessageTag>(b) << 24) |
         static_cast<runtime::MessageTag>(c);
}

void transfer(const ModelState* source, const Placement& from, ModelState* destination,
              const Placement& to, int channel, std::size_t piece) {
  const int here = runtime::Cluster::current().rank();
  const auto number = static_cast<std::size_t>(channel);
  const auto move = [&](MessageKind kind, std::size_t index, const Tensor* source_tensor,
                        int sender, const Tensor* destination_tensor, int receiver) {
    if (sender == receiver) {
      if (sender == here) copy(*source_tensor, *destination_tensor, piece);
      return;
    }
    const auto tag = message_tag(kind, number, 0, index);
    if (sender == here) runtime::send(*source_tensor, receiver, tag);
    if (receiver == here) runtime::receive(*destination_tensor, sender, tag);
  };
  const auto at = [](auto* state, auto member, std::size_t index) -> const Tensor* {
    return state == nullptr ? nullptr : &(state->*member)[index];
  };
  for (std::size_t bucket = 0; bucket < from.owners.size(); ++bucket) {
    for (int rank = to.team.first_rank; rank < to.team.first_rank + to.team.ranks; ++rank) {
      const int sender = from.team.has(rank) ? rank : from.owners[bucket];
      move(MessageKind::parameters, bucket, at(source, &ModelState::parameters, bucket), sender,
           at(destination, &ModelState::parameters, bucket), rank);
    }
    move(MessageKind::velocity, bucket, at(source, &ModelState::velocity, bucket),
         from.owners[bucket], at(destination, &ModelState::velocity, bucket), to.owners[bucket]);
  }
  const ModelState* any = source != nullptr ? source : destination;
  if (any == nullptr || any->running.empty()) return;
  for (int worker = 0; worker < to.team.workers; ++worker) {
    const int origin = worker % from.team.workers;
    move(MessageKind::running, static_cast<std::size_t>(worker),
         at(source, &ModelState::running, static_cast<std::size_t>(origin)),
         from.team.rank_of(origin),
         at(destination, &ModelState::running, static_cast<std::size_t>(worker)),
         to.team.rank_of(worker));
  }
}

ModelValues ModelValues::initial(const Network& network, int workers, std::uint64_t seed) {
  ModelValues values;
  values.parameters = network.initial_parameters(seed);
  for (const auto& bucket : values.parameters) values.velocity.emplace_back(bucket.size(), 0.0f);
  if (network.has_batch_norm()) {
    values.running.assign(static_cast<std::size_t>(workers), network.initial_running_statistics());
  }
  return values;
}

bool ModelValues::arrange_for(const Network& network, int workers) {
  const auto statistics_fit = [&](const std::vector<float>& values) {
    return values.size() == network.running_statistics;
  };
  return cut_anew(parameters, network.buckets) && cut_anew(velocity, network.buckets) &&
         running.size() == (network.has_batch_norm() ? static_cast<std::size_t>(workers) : 0) &&
         std::ranges::all_of(running, statistics_fit);
}

std::vector<float> ModelValues::average_running() const {
  if (running.empty()) return {};
  std::vector<float> mean(running.front().size());
  std::vector<const float*> statistics;
  for (const std::vector<float>& values : running) statistics.push_back(values.data());
  average(statistics, mean);
  return mean;
}

ModelValues read(const ModelState& state) {
  return {read_all(state.parameters), read_all(state.velocity), read_all(state.running)};
}

void write(ModelState& state, const ModelValues& values) {
  write_all(state.parameters, values.parameters);
  write_all(state.velocity, values.velocity);
  write_all(state.running, values.running);
}

namespace {

void average(std::span<const Tensor* const> parts, const Tensor& destination) {
  static const Codelet codelet("average running statistics", {WorkerKind::cpu});
  std::vector<runtime::Use> uses;
  for (const Tensor* part : parts) uses.push_back({*part, Access::read});
  uses.push_back({destination, Access::write});
  const std::size_t count = destination.bytes() / sizeof(float);
  runtime::submit(codelet, uses, [count](const runtime::TaskContext& task) {
    std::vector<const float*> addends;
    for (std::size_t i = 0; i + 1 < task.buffers.size(); ++i) {
      addends.push_back(task.buffer<float>(i));
    }
    average(addends, {task.buffer<float>(addends.size()), count});
  });
}

}  // namespace

void average_running_statistics(std::span<const RunningStatisticsPart> parts,
                                const Tensor& destination, const Team& team, int channel) {
  const int here = runtime::Cluster::current().rank();
  const int leader = team.first_rank;
  std::vector<Tensor> received;  // their destructors wait for the average
  received.reserve(parts.size());
  std::vector<const Tensor*> addends;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto tag = message_tag(MessageKind::average, static_cast<std::size_t>(channel), 0, i + 1);
    if (here != leader) {
      if (parts[i].rank == here) runtime::send(*parts[i].tensor, leader, tag);
    } else if (parts[i].rank == here) {
      addends.push_back(parts[i].tensor);
    } else {
      const Tensor& part = received.emplace_back(destination.spec(), "running.received");
      runtime::receive(part, parts[i].rank, tag);
      addends.push_back(&part);
    }
  }
  if (here == leader) average(addends, destination);
  const auto tag = message_tag(MessageKind::average, static_cast<std::size_t>(channel), 0, 0);
  for (int rank = leader + 1; rank < leader + team.ranks; ++rank) {
    if (here == leader) runtime::send(destination, rank, tag);
    if (here == rank) runtime::receive(destination, leader, tag);
  }
}

ParameterMean::ParameterMean(const ModelState& state, const std::string& name) {
  for (std::size_t bucket = 0; bucket < state.parameters.size(); ++bucket) {
    mean_.emplace_back(state.parameters[bucket].spec(), name + "." + std::to_string(bucket));
  }
}

void ParameterMean::add(const ModelState& state, int number, std::size_t piece) {
  static const Codelet codelet("average parameters", {WorkerKind::cpu, WorkerKind::cuda});
  std::vector<runtime::Use> uses;
  std::vector<std::size_t> sizes;
  for (std::size_t bucket = 0; bucket < mean_.size(); ++bucket) {
    uses.push_back({mean_[bucket], number == 1 ? Access::write : Access::read_write});
    uses.push_back({state.parameters[bucket], Access::read});
    sizes.push_back(mean_[bucket].bytes() / sizeof(float));
  }
  runtime::submit(codelet, uses,
                  [number, sizes = std::move(sizes)](const runtime::TaskContext& task) {
                    std::vector<codelets::MeanBuffer> buffers;
                    for (std::size_t bucket = 0; bucket < sizes.size(); ++bucket) {
                      buffers.push_back({sizes[bucket], task.buffer<float>(2 * bucket),
                                         task.buffer<const float>(2 * bucket + 1)});
                    }
                    codelets::on_device(task.kind, [&](auto device) {
                      codelets::update_mean(buffers, 1.0f / static_cast<float>(number), device,
                                            task.stream);
                    });
                  },
                  {.worker = runtime::Runtime::current().worker_for(piece)});
}

Optimizer::Optimizer(const Network& network, const codelets::SgdSettings& settings, bool decay_all)
    : settings_(settings), ranges_(network.buckets.size()) {
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
  static const Codelet codelet("update", {WorkerKind::cpu, WorkerKind::cuda});
  if (ranges_[bucket].empty()) return;
  runtime::submit(codelet,
                  {{state.parameters[bucket], Access::read_write},
                   {state.velocity[bucket], Access::read_write},
                   {gradient, Access::read}},
                  [this, bucket, gradient_scale, learning_rate](const runtime::TaskContext& task) {
                    const codelets::SgdBucket memory{ranges_[bucket], task.buffer<float>(0),
                                                     task.buffer<float>(1), task.buffer<float>(2)};
                    step_here({&memory, 1}, gradient_scale, learning_rate, task);
                  },
                  {.worker = worker,
                   .priority = priority,
                   .footprint = static_cast<std::uint32_t>(gradient.bytes()),
                   .name = nullptr});
}

void Optimizer::step_here(std::span<const codelets::SgdBucket> buckets, float gradient_scale,
                          float learning_rate, const runtime::TaskContext& task) const {
  codelets::on_device(task.kind, [&](auto device) {
    codelets::sgd_step(buckets, gradient_scale, learning_rate, settings_, device, task.stream);
  });
}

}  // namespace stpt::models
