#include "stpt/data_parallel.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "codelets/optimizer.hpp"
#include "codelets/softmax_cross_entropy.hpp"
#include "runtime/task.hpp"

namespace stpt {

using codelets::SampleScore;
using runtime::Access;
using runtime::Codelet;
using runtime::Home;
using runtime::Tensor;
using runtime::WorkerKind;

bool StepResult::finite() const { return std::isfinite(loss); }

TrainingLog::TrainingLog(const std::string& name)
    : order_(runtime::bytes_spec(1), name + ".log", Home::host) {}

std::size_t gradient_bytes(const models::Network& network, int workers, int in_flight) {
  std::size_t bytes = 0;
  for (const models::Block& block : network.blocks) bytes += block.parameters * sizeof(float);
  return bytes * static_cast<std::size_t>(workers) * static_cast<std::size_t>(in_flight);
}

DataParallel::DataParallel(const models::Network& network, int workers, int batch,
                           models::Grain grain, int in_flight, const models::Optimizer& optimizer)
    : program_(network, batch, models::Mode::train, grain),
      optimizer_(optimizer),
      in_flight_(in_flight) {
  for (int number = 0; number < in_flight; ++number) {
    Slot& slot = slots_.emplace_back();
    for (int worker = 0; worker < workers; ++worker) {
      const std::string name = std::to_string(number) + "." + std::to_string(worker);
      auto& buckets = slot.gradients.emplace_back();
      for (const models::Block& block : network.blocks) {
        buckets.emplace_back(runtime::vector_spec(std::max<std::size_t>(block.parameters, 1)),
                             "gradient." + name + "." + block.name, Home::host);
      }
      slot.scores.emplace_back(
          runtime::bytes_spec(static_cast<std::size_t>(batch) * sizeof(SampleScore)),
          "scores." + name);
    }
  }
  // Activations in flight: enough that every StarPU worker has a chain of segments and the next one
  // is ready.
  const auto enough = 2 * runtime::Runtime::current().workers().size();
  const std::size_t lanes = std::min<std::size_t>(static_cast<std::size_t>(workers), enough);
  for (std::size_t lane = 0; lane < lanes; ++lane) lanes_.push_back(program_.make_lane());
}

std::size_t DataParallel::tasks_per_step(std::size_t workers) const {
  const std::size_t buckets = slots_.front().gradients.front().size();
  return workers * program_.segments() + (workers - 1) * buckets + buckets + 1;
}

void DataParallel::reduce(std::vector<std::vector<Tensor>>& gradients, std::size_t workers,
                          std::size_t bucket) const {
  static const Codelet codelet("sum gradients", {WorkerKind::cpu});
  const std::size_t bytes = gradients[0][bucket].bytes();
  for (std::size_t distance = 1; distance < workers; distance *= 2) {
    for (std::size_t i = 0; i + distance < workers; i += 2 * distance) {
      runtime::submit(codelet,
                      {{gradients[i][bucket], Access::read_write},
                       {gradients[i + distance][bucket], Access::read}},
                      [count = bytes / sizeof(float)](const runtime::TaskContext& task) {
                        codelets::accumulate(count, task.buffer<float>(0), task.buffer<float>(1),
                                             codelets::Cpu{}, task.stream);
                      },
                      {.worker = -1,
                       .priority = 2,
                       .footprint = static_cast<std::uint32_t>(bytes),
                       .name = nullptr});
    }
  }
}

void DataParallel::report(const Slot& slot, std::size_t workers, TrainingLog& log) const {
  static const Codelet codelet("report step", {WorkerKind::cpu});
  std::vector<runtime::Use> uses{{log.order_, Access::read_write}};
  for (std::size_t worker = 0; worker < workers; ++worker)
    uses.push_back({slot.scores[worker], Access::read});
  runtime::submit(
      codelet, uses, [&log, batch = program_.batch()](const runtime::TaskContext& task) {
        StepResult result;
        std::int64_t correct = 0;
        for (std::size_t worker = 1; worker < task.buffers.size(); ++worker) {
          for (const SampleScore& score :
               std::span(task.buffer<SampleScore>(worker), static_cast<std::size_t>(batch))) {
            ++result.samples;
            result.loss += score.loss;
            correct += score.rank == 0 ? 1 : 0;
          }
        }
        result.loss /= static_cast<double>(result.samples);
        result.top1 = static_cast<double>(correct) / static_cast<double>(result.samples);
        if (log.on_step) log.on_step(result);
      });
}

void DataParallel::step(models::ModelState& state, std::span<const data::Batch> batches,
                        float learning_rate, TrainingLog& log) {
  Slot& slot = slots_[next_slot_];
  next_slot_ = (next_slot_ + 1) % slots_.size();
  const std::size_t workers = batches.size();
  for (std::size_t worker = 0; worker < workers; ++worker) {
    models::ProgramInputs inputs;
    inputs.images = &batches[worker].images;
    inputs.labels = &batches[worker].labels;
    inputs.scores = &slot.scores[worker];
    inputs.parameters = &state.parameters;
    inputs.gradients = &slot.gradients[worker];
    if (!state.running.empty()) inputs.running = &state.running[worker];
    inputs.lane = &lanes_[next_lane_];
    next_lane_ = (next_lane_ + 1) % lanes_.size();
    program_.submit(inputs);
  }
  const float mean = 1.0f / static_cast<float>(workers);
  for (std::size_t bucket = slot.gradients[0].size();
       bucket-- > 0;) {  // in the order in which backward ends
    reduce(slot.gradients, workers, bucket);
    optimizer_.step(state, bucket, slot.gradients[0][bucket], mean, learning_rate, -1, 2);
  }
  report(slot, workers, log);
  runtime::Runtime::current().wait_until_at_most(in_flight_ *
                                                 static_cast<int>(tasks_per_step(workers)));
}

}  // namespace stpt
