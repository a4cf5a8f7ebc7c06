#include "models/model_state.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "codelets/buffers.hpp"
#include "runtime/cluster.hpp"
#include "runtime/runtime.hpp"
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

/// The same for the moments of `parameters`, each of which may have two and the number of steps.
bool cut_moments_anew(std::vector<std::vector<float>>& moments,
                      const std::vector<std::vector<float>>& parameters,
                      std::span<const std::size_t> sizes, codelets::UpdateRule rule) {
  if (rule != codelets::UpdateRule::adamw) return cut_anew(moments, sizes);
  std::vector<std::vector<float>> first, second;
  if (moments.size() != parameters.size() || moments.empty()) return false;
  for (std::size_t i = 0; i < moments.size(); ++i) {
    const std::size_t elements = parameters[i].size();
    if (moments[i].size() != codelets::moment_elements(rule, elements)) return false;
    const auto middle = moments[i].begin() + static_cast<std::ptrdiff_t>(elements);
    first.emplace_back(moments[i].begin(), middle);
    second.emplace_back(middle, moments[i].end() - 1);
  }
  const float steps = moments.front().back();  // all buckets have made equally many
  if (!cut_anew(first, sizes) || !cut_anew(second, sizes)) return false;
  moments = std::move(first);
  for (std::size_t i = 0; i < moments.size(); ++i) {
    moments[i].insert(moments[i].end(), second[i].begin(), second[i].end());
    moments[i].push_back(steps);
  }
  return true;
}

}  // namespace

ModelState::ModelState(const Network& network, const Team& team, const std::string& name,
                       codelets::UpdateRule rule)
    : placement(network, team),
      parameters(network.buckets.size()),
      moments(network.buckets.size()) {
  const int here = runtime::Cluster::current().rank();
  if (network.has_batch_norm()) running.resize(static_cast<std::size_t>(team.workers));
  if (!team.has(here)) return;
  for (std::size_t bucket = 0; bucket < network.buckets.size(); ++bucket) {
    const std::size_t elements = network.buckets[bucket];
    const std::string number = std::to_string(bucket);
    parameters[bucket] = Tensor(vector_spec(elements), name + ".parameters." + number, Home::host);
    if (placement.owners[bucket] != here) continue;
    moments[bucket] = Tensor(vector_spec(codelets::moment_elements(rule, elements)),
                             name + ".moments." + number, Home::host);
  }
  if (!network.has_batch_norm()) return;
  for (int worker = team.first_worker(here); worker < team.first_worker(here + 1); ++worker) {
    running[static_cast<std::size_t>(worker)] =
        Tensor(vector_spec(network.running_statistics), name + ".running." + std::to_string(worker),
               Home::host);
  }
}

ModelState::ModelState(const Network& network, int workers, const std::string& name,
                       codelets::UpdateRule rule)
    : ModelState(network, Team{runtime::Cluster::current().rank(), 1, workers}, name, rule) {}

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
  copy_all(other.moments, moments);
  copy_all(other.running, running);
}

void ModelState::reset_moments() {
  static const Codelet codelet("clear", {WorkerKind::cpu, WorkerKind::cuda});
  for (const Tensor& tensor : moments) {
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

ModelValues ModelValues::initial(const Network& network, int workers, std::uint64_t seed,
                                 codelets::UpdateRule rule) {
  ModelValues values;
  values.parameters = network.initial_parameters(seed);
  for (const auto& bucket : values.parameters)
    values.moments.emplace_back(codelets::moment_elements(rule, bucket.size()), 0.0f);
  if (network.has_batch_norm()) {
    values.running.assign(static_cast<std::size_t>(workers), network.initial_running_statistics());
  }
  return values;
}

bool ModelValues::arrange_for(const Network& network, int workers, codelets::UpdateRule rule) {
  const auto statistics_fit = [&](const std::vector<float>& values) {
    return values.size() == network.running_statistics;
  };
  return cut_moments_anew(moments, parameters, network.buckets, rule) &&
         cut_anew(parameters, network.buckets) &&
         running.size() == (network.has_batch_norm() ? static_cast<std::size_t>(workers) : 0) &&
         std::ranges::all_of(running, statistics_fit);
}

ModelValues read(const ModelState& state) {
  return {read_all(state.parameters), read_all(state.moments), read_all(state.running)};
}

void write(ModelState& state, const ModelValues& values) {
  write_all(state.parameters, values.parameters);
  write_all(state.moments, values.moments);
  write_all(state.running, values.running);
}

}  // namespace stpt::models
