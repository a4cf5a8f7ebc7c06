#include "stpt/data_parallel.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "codelets/buffers.hpp"
#include "codelets/softmax_cross_entropy.hpp"
#include "models/transfer.hpp"
#include "runtime/cluster.hpp"
#include "runtime/message.hpp"
#include "runtime/task.hpp"

namespace stpt {

using codelets::SampleScore;
using runtime::Access;
using runtime::Codelet;
using runtime::Home;
using runtime::Tensor;
using runtime::WorkerKind;

using models::MessageKind;

namespace {

int here() { return runtime::Cluster::current().rank(); }

std::size_t local_workers(const models::Team& team) {
  return static_cast<std::size_t>(team.workers_on(here()));
}

/// What the next forward pass reads first travels first.
int message_priority(std::size_t buckets, std::size_t bucket) {
  return static_cast<int>(buckets - bucket);
}

}  // namespace

bool StepResult::finite() const { return std::isfinite(loss); }

StepResult step_result(std::span<const WorkerResult> workers) {
  StepResult result;
  std::int64_t correct = 0;
  for (const WorkerResult& worker : workers) {
    result.samples += worker.samples;
    result.loss += worker.loss;
    correct += worker.correct;
  }
  result.loss /= static_cast<double>(result.samples);
  result.top1 = static_cast<double>(correct) / static_cast<double>(result.samples);
  return result;
}

std::vector<StepResult> join_steps(std::span<const std::span<const WorkerResult>> ranks,
                                   const models::Team& team) {
  const auto workers_on = [&team](std::size_t rank) {
    return static_cast<std::size_t>(team.workers_on(team.first_rank + static_cast<int>(rank)));
  };
  // Any rank that has workers knows how many steps there were.
  const auto counting = static_cast<std::size_t>(team.rank_of(0) - team.first_rank);
  std::vector<StepResult> steps(ranks[counting].size() / workers_on(counting));
  std::vector<WorkerResult> step;
  for (std::size_t number = 0; number < steps.size(); ++number) {
    step.clear();
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      const std::size_t workers = workers_on(rank);
      const auto part = ranks[rank].subspan(number * workers, workers);
      step.insert(step.end(), part.begin(), part.end());
    }
    steps[number] = step_result(step);
  }
  return steps;
}

TrainingLog::TrainingLog(const std::string& name)
    : order_(runtime::bytes_spec(1), name + ".log", Home::host) {}

DataParallel::DataParallel(const models::Network& network, int workers, int batch, int image_parts,
                           const models::LoweringOptions& options, int in_flight,
                           const models::Optimizer& optimizer, GradientReduction reduction)
    : batch_(batch),
      program_(network, batch, models::Mode::train, options, image_parts),
      optimizer_(optimizer),
      in_flight_(in_flight),
      reduction_(reduction),
      buckets_(network.buckets) {
  reserve(1, static_cast<std::size_t>(workers));
  if (reduction == GradientReduction::redux && runtime::Cluster::current().size() > 1) {
    const std::vector<int> owners =
        models::bucket_owners(buckets_, 0, runtime::Cluster::current().size());
    for (std::size_t bucket = 0; bucket < owners.size(); ++bucket) {
      runtime::make_reducible(buffers_.front().gradients.front()[bucket],
                              models::message_tag(MessageKind::redux, 0, bucket, 0),
                              owners[bucket]);
    }
  }
  const bool on_gpu = codelets::on_gpu(options.device);
  std::size_t lanes =
      models::lanes_in_flight(runtime::Runtime::current().computing_workers(), on_gpu);
  if (!on_gpu) lanes = std::min(lanes, static_cast<std::size_t>(workers));
  for (std::size_t lane = 0; lane < lanes; ++lane) lanes_.push_back(program_.make_lane());
}

void DataParallel::reserve(std::size_t models, std::size_t workers) {
  if (buffers_.size() < models) buffers_.resize(models);
  for (std::size_t number = 0; number < models; ++number) {
    Buffers& buffers = buffers_[number];
    buffers.received.resize(buckets_.size());
    for (std::size_t worker = buffers.gradients.size(); worker < workers; ++worker) {
      const std::string name = std::to_string(number) + "." + std::to_string(worker);
      auto& buckets = buffers.gradients.emplace_back();
      for (const std::size_t elements : buckets_) {
        buckets.emplace_back(runtime::vector_spec(elements),
                             "gradient." + name + "." + std::to_string(buckets.size()), Home::host);
      }
    }
  }
}

bool DataParallel::uses_redux(const models::Team& team) const {
  const int ranks = runtime::Cluster::current().size();
  return reduction_ == GradientReduction::redux && ranks > 1 && team.ranks == ranks;
}

StepCost step_cost(std::span<const std::size_t> buckets, const models::Placement& placement,
                   int rank) {
  StepCost cost;
  cost.tasks = 1;  // the report
  for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket) {
    const std::size_t bytes = runtime::align_up(buckets[bucket] * sizeof(float));
    const int owner = placement.owners[bucket];
    for (const ReductionStep& step : reduction_steps(placement.team, owner, rank)) {
      switch (step.kind) {
        case ReductionStep::Kind::add:
          ++cost.tasks;
          break;
        case ReductionStep::Kind::send:
          ++cost.sent;
          cost.bytes_sent += bytes;
          break;
        case ReductionStep::Kind::receive:
          ++cost.received;
          break;
      }
    }
    if (owner == rank) {
      const auto others = static_cast<std::size_t>(placement.team.ranks - 1);
      ++cost.tasks;  // the update
      cost.sent += others;
      cost.bytes_sent += others * bytes;
    } else {
      ++cost.received;
    }
  }
  return cost;
}

const DataParallel::Plan& DataParallel::plan(const models::Placement& placement) {
  for (const auto& [known, plan] : plans_) {
    if (known == placement) return plan;
  }
  const models::Team& team = placement.team;
  const std::size_t workers = local_workers(team);
  Plan plan;
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    // Where StarPU-MPI sums over ranks, the tree is over the workers of this one.
    plan.reduction.push_back(
        uses_redux(team) ? reduction_steps({here(), 1, static_cast<int>(workers)}, here(), here())
                         : reduction_steps(team, placement.owners[bucket], here()));
  }
  StepCost cost = step_cost(buckets_, placement, here());
  // A GPU that has all gradients need not wait for the host to see that they are there.
  plan.updates_in_step =
      program_.on_gpu() && program_.segments() == 1 && team.ranks == 1 && workers == 1;
  if (plan.updates_in_step) cost.tasks = 1;
  // StarPU counts a task before and one after each message.
  plan.unfinished = static_cast<int>(workers * program_.segments() + cost.tasks +
                                     2 * (cost.sent + cost.received));
  return plans_.emplace_back(placement, std::move(plan)).second;
}

const Tensor* DataParallel::reduce(Buffers& buffers, const models::Placement& placement,
                                   std::size_t bucket, const std::vector<ReductionStep>& steps,
                                   int channel, int worker) {
  static const Codelet codelet("sum gradients", {WorkerKind::cpu, WorkerKind::cuda});
  const std::size_t bytes = buffers.gradients[0][bucket].bytes();
  const int priority = message_priority(buckets_.size(), bucket);
  // The steps of a reduction on this rank alone count its workers from 0.
  const int first = uses_redux(placement.team) ? 0 : placement.team.first_worker(here());
  // Where the partial sums of this rank are, by the number of their first worker.
  const auto own = [&](int position) -> const Tensor* {
    const auto local = static_cast<std::size_t>(position - first);
    return position >= first && local < local_workers(placement.team)
               ? &buffers.gradients[local][bucket]
               : nullptr;
  };
  std::vector<std::pair<int, const Tensor*>> moved;  // what is elsewhere than in own()
  const auto find = [&](int position) {
    for (const auto& [known, tensor] : moved) {
      if (known == position) return tensor;
    }
    return own(position);
  };
  std::size_t arrivals = 0;
  for (const ReductionStep& step : steps) {
    // A step's partial sums exist only after the last step's have all arrived, so one tag will do.
    const auto tag = models::message_tag(MessageKind::gradient, static_cast<std::size_t>(channel),
                                         bucket, static_cast<std::size_t>(step.left));
    switch (step.kind) {
      case ReductionStep::Kind::send:
        runtime::send(*find(step.left), step.peer, tag, priority);
        break;
      case ReductionStep::Kind::receive: {
        auto& received = buffers.received[bucket];
        if (arrivals == received.size()) {
          received.push_back(std::make_unique<Tensor>(
              buffers.gradients[0][bucket].spec(), "gradient.received." + std::to_string(bucket)));
        }
        const Tensor* arrival = received[arrivals++].get();
        runtime::receive(*arrival, step.peer, tag, priority);
        moved.emplace_back(step.left, arrival);
        break;
      }
      case ReductionStep::Kind::add:
        runtime::submit(codelet,
                        {{*find(step.left), Access::read_write}, {*find(step.right), Access::read}},
                        [count = bytes / sizeof(float)](const runtime::TaskContext& task) {
                          codelets::on_device(task.kind, [&](auto device) {
                            codelets::accumulate(count, task.buffer<float>(0),
                                                 task.buffer<float>(1), device, task.stream);
                          });
                        },
                        {.worker = worker,
                         .priority = 2,
                         .footprint = static_cast<std::uint32_t>(bytes),
                         .name = nullptr});
        break;
    }
  }
  return find(0);
}

void DataParallel::spread(const models::ModelState& state, std::size_t bucket, int channel) const {
  const models::Placement& placement = state.placement;
  const int owner = placement.owners[bucket];
  const int priority = message_priority(buckets_.size(), bucket);
  const auto tag = models::message_tag(MessageKind::parameters, static_cast<std::size_t>(channel),
                                       bucket, 1U << 20);
  if (owner != here()) {
    runtime::receive(state.parameters[bucket], owner, tag, priority);
    return;
  }
  for (int rank = placement.team.first_rank;
       rank < placement.team.first_rank + placement.team.ranks; ++rank) {
    if (rank != owner) runtime::send(state.parameters[bucket], rank, tag, priority);
  }
}

std::span<const Tensor> DataParallel::scores_of(Buffers& buffers,
                                                std::span<const data::Batch> batches) {
  std::vector<Tensor>& scores = buffers.scores[batches.data()];
  while (scores.size() < batches.size()) {
    scores.emplace_back(runtime::bytes_spec(static_cast<std::size_t>(batch_) * sizeof(SampleScore)),
                        "scores." + std::to_string(scores.size()));
  }
  return std::span(scores).first(batches.size());
}

void DataParallel::report(std::span<const Tensor> scores, TrainingLog& log) const {
  static const Codelet codelet("report step", {WorkerKind::cpu});
  std::vector<runtime::Use> uses{{log.order_, Access::read_write}};
  for (const Tensor& score : scores) uses.push_back({score, Access::read});
  runtime::submit(
      codelet, uses, [&log, batch = program_.batch()](const runtime::TaskContext& task) {
        std::vector<WorkerResult> results(task.buffers.size() - 1);
        for (std::size_t worker = 0; worker < results.size(); ++worker) {
          WorkerResult& result = results[worker];
          for (const SampleScore& score :
               std::span(task.buffer<SampleScore>(worker + 1), static_cast<std::size_t>(batch))) {
            ++result.samples;
            result.loss += score.loss;
            result.correct += score.rank == 0 ? 1 : 0;
          }
        }
        if (log.on_step) log.on_step(results);
      });
}

void DataParallel::step(models::ModelState& state, std::span<const data::Batch> batches,
                        float learning_rate, TrainingLog& log, const StepPlace& place) {
  const auto& [channel, first_piece, slot, models] = place;
  const runtime::Runtime& runtime = runtime::Runtime::current();
  const models::Placement& placement = state.placement;
  const Plan& to_do = plan(placement);
  // Where StarPU-MPI sums, it knows the first gradients.
  Buffers& buffers = buffers_.at(uses_redux(placement.team) ? 0 : slot);
  const std::span<const Tensor> scores = scores_of(buffers, batches);
  const auto first = static_cast<std::size_t>(placement.team.first_worker(here()));
  const float mean = 1.0f / (static_cast<float>(placement.team.workers) * program_.loss_scale());
  const models::UpdateInStep update{optimizer_, state.moments, mean, learning_rate};
  for (std::size_t worker = 0; worker < batches.size(); ++worker) {
    models::ProgramInputs inputs;
    inputs.images = batches[worker].images;
    inputs.labels = &batches[worker].labels;
    inputs.keys = &batches[worker].keys;
    inputs.scores = &scores[worker];
    inputs.parameters = &state.parameters;
    inputs.gradients = &buffers.gradients[worker];
    if (!state.running.empty()) inputs.running = &state.running[first + worker];
    const std::size_t piece = first_piece + worker;
    const int pinned = runtime.worker_for(piece);
    if (pinned >= 0) next_lane_ = piece % lanes_.size();  // each GPU worker has its own
    inputs.lane = &lanes_[next_lane_];
    next_lane_ = (next_lane_ + 1) % lanes_.size();
    program_.submit(inputs, pinned, 0, to_do.updates_in_step ? &update : nullptr);
  }
  for (std::size_t bucket = to_do.updates_in_step ? 0 : buckets_.size();
       bucket-- > 0;) {  // in the order in which backward ends
    // Buckets are spread over the GPUs, so that each moves about as many bytes.
    const int owner =
        runtime.worker_for(first_piece + bucket % std::max<std::size_t>(batches.size(), 1));
    const Tensor* sum = reduce(buffers, placement, bucket, to_do.reduction[bucket], channel, owner);
    if (uses_redux(placement.team))
      runtime::reduce_to_owner(*sum, message_priority(buckets_.size(), bucket));
    if (placement.owners[bucket] == here())
      optimizer_.step(state, bucket, *sum, mean, learning_rate, owner, 2);
    if (placement.team.ranks > 1) spread(state, bucket, channel);
  }
  report(scores, log);
  runtime::Runtime::current().wait_until_at_most(in_flight_ * static_cast<int>(models) *
                                                 to_do.unfinished);
}

}  // namespace stpt
