#include "models/averages.hpp"

#include <algorithm>

#include "codelets/buffers.hpp"
#include "models/transfer.hpp"
#include "runtime/cluster.hpp"
#include "runtime/runtime.hpp"
#include "runtime/task.hpp"

namespace stpt::models {
namespace {

using runtime::Access;
using runtime::Codelet;
using runtime::Tensor;
using runtime::WorkerKind;

/// Sums in the order given.
void average(std::span<const float* const> addends, std::span<float> mean) {
  std::copy_n(addends.front(), mean.size(), mean.begin());
  for (const float* addend : addends.subspan(1)) {
    codelets::accumulate(mean.size(), mean.data(), addend, codelets::Cpu{}, nullptr);
  }
  const float share = 1.0f / static_cast<float>(addends.size());
  for (float& value : mean) value *= share;
}

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

std::vector<float> average_running(const ModelValues& values) {
  if (values.running.empty()) return {};
  std::vector<float> mean(values.running.front().size());
  std::vector<const float*> statistics;
  for (const std::vector<float>& of_worker : values.running) statistics.push_back(of_worker.data());
  average(statistics, mean);
  return mean;
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

}  // namespace stpt::models
