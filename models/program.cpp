#include "models/program.hpp"

#include <map>
#include <set>
#include <stdexcept>
#include <utility>

#include "codelets/cuda_graph.hpp"

namespace stpt::models {

using runtime::Access;
using runtime::Tensor;
using runtime::WorkerKind;

Program::Program(const Network& network, int batch, Mode mode, const LoweringOptions& options,
                 int image_parts)
    : batch_(batch),
      mode_(mode),
      options_(options),
      image_parts_(image_parts),
      lowered_(lower({network, batch, mode, options, image_parts})) {
  if (scratch_bytes() > 0)
    scratch_ = Tensor(runtime::bytes_spec(scratch_bytes()), network.name + ".scratch");
  if constexpr (codelets::has_cuda) {
    if (on_gpu()) graphs_ = std::make_shared<codelets::cuda::GraphCache>();
  }
}

Lane Program::make_lane() const {
  Lane lane;
  for (const std::size_t bytes : lowered_.group_bytes) {
    lane.emplace_back(runtime::bytes_spec(bytes), "activations." + std::to_string(lane.size()));
  }
  return lane;
}

const Tensor& Program::resolve(const Lowered::Binding& binding, const ProgramInputs& inputs) const {
  const auto index = static_cast<std::size_t>(binding.index);
  switch (binding.resource) {
    case Resource::images:
      return inputs.images[index];
    case Resource::labels:
      return *inputs.labels;
    case Resource::keys:
      return *inputs.keys;
    case Resource::scores:
      return *inputs.scores;
    case Resource::parameters:
      return inputs.parameters->at(index);
    case Resource::gradients:
      return inputs.gradients->at(index);
    case Resource::running:
      return *inputs.running;
    case Resource::activations:
      return inputs.lane->at(index);
    case Resource::scratch:
      return scratch_;
    case Resource::none:
      break;
  }
  throw std::logic_error("Program: unbound resource");
}

void Program::run_segment(const Lowered::Segment& segment, std::span<void* const> buffers,
                          codelets::Stream stream) const {
  std::vector<void*> pointers;
  std::byte* workspace = nullptr;
  if (segment.scratch_binding >= 0) {
    workspace =
        static_cast<std::byte*>(buffers[static_cast<std::size_t>(segment.scratch_binding)]) +
        segment.workspace_offset;
  }
  for (std::size_t op = segment.first; op < segment.last; ++op) {
    const Lowered::Operation& operation = lowered_.operations[op];
    pointers.clear();
    for (const Lowered::Operand& operand : operation.operands) {
      pointers.push_back(
          operand.binding < 0
              ? nullptr
              : static_cast<std::byte*>(buffers[static_cast<std::size_t>(operand.binding)]) +
                    operand.offset);
    }
    operation.kernel->run(pointers, workspace, stream);
  }
}

void Program::run_task(const Lowered::Segment& segment, const runtime::TaskContext& task) const {
  const auto run = [&] { run_segment(segment, task.buffers, task.stream); };
  if constexpr (codelets::has_cuda) {
    // A graph of one op would cost more than it saves.
    if (graphs_ && segment.last - segment.first > 1)
      return graphs_->run(task.worker, segment.first, task.buffers, task.stream, run);
  }
  run();
}

std::vector<codelets::UpdatedBucket> Program::updated_buckets(
    const Lowered::Segment& segment, const Optimizer& optimizer,
    std::span<void* const> buffers) const {
  struct Pair {
    float *weights, *gradient;
  };
  std::map<int, Pair> buckets;
  for (std::size_t i = 0; i < segment.bindings.size(); ++i) {
    const auto [resource, index, access] = segment.bindings[i];
    auto* const memory = static_cast<float*>(buffers[i]);
    if (resource == Resource::parameters) buckets[index].weights = memory;
    if (resource == Resource::gradients) buckets[index].gradient = memory;
  }
  std::vector<codelets::UpdatedBucket> result;
  for (const auto& [index, bucket] : buckets) {
    auto* const moments = static_cast<float*>(buffers[segment.bindings.size() + result.size()]);
    result.push_back(optimizer.updated(static_cast<std::size_t>(index), bucket.weights, moments,
                                       bucket.gradient));
  }
  return result;
}

void Program::submit(const ProgramInputs& inputs, int worker, int priority,
                     const UpdateInStep* update) const {
  static const runtime::Codelet train("train", {WorkerKind::cpu});
  static const runtime::Codelet score("score", {WorkerKind::cpu});
  static const runtime::Codelet train_on_gpu("train on GPU", {WorkerKind::cuda});
  static const runtime::Codelet score_on_gpu("score on GPU", {WorkerKind::cuda});
  const bool trains = mode_ == Mode::train;
  if (update != nullptr && (!trains || segments() != 1))
    throw std::logic_error("Program: no single task that could update the parameters");
  const runtime::Codelet& codelet =
      on_gpu() ? (trains ? train_on_gpu : score_on_gpu) : (trains ? train : score);
  std::vector<runtime::Use> uses;
  for (const Lowered::Segment& segment : lowered_.segments) {
    uses.clear();
    std::set<int> buckets;
    for (const auto& [resource, index, access] : segment.bindings) {
      const bool updated = update != nullptr && resource == Resource::parameters;
      if (updated) buckets.insert(index);
      uses.push_back({resolve({resource, index, access}, inputs),
                      updated ? runtime::Access::read_write : access});
    }
    for (const int bucket : buckets) {
      uses.push_back(
          {update->moments.at(static_cast<std::size_t>(bucket)), runtime::Access::read_write});
    }
    runtime::TaskBody body = [this, &segment](const runtime::TaskContext& task) {
      run_task(segment, task);
    };
    if (update != nullptr) {
      body = [this, &segment, &optimizer = update->optimizer, scale = update->gradient_scale,
              rate = update->learning_rate](const runtime::TaskContext& task) {
        runtime::TaskContext step = task;
        step.buffers = task.buffers.first(segment.bindings.size());
        run_task(segment, step);
        optimizer.step_here(updated_buckets(segment, optimizer, task.buffers), scale, rate, task);
      };
    }
    runtime::submit(codelet, uses, std::move(body),
                    {.worker = worker,
                     .priority = priority,
                     .footprint = segment.footprint,
                     .name = segment.name.c_str()});
  }
}

void Program::run_here(const ProgramInputs& inputs, std::span<std::byte> scratch) const {
  std::map<const Tensor*, runtime::HostView> views;
  const auto address = [&](Resource resource, int index) -> void* {
    const Tensor& tensor = resolve({resource, index, Access::read}, inputs);
    const bool fresh = resource == Resource::activations || resource == Resource::scores;
    const auto access = fresh ? Access::write : Access::read_write;
    return views.try_emplace(&tensor, tensor, access).first->second.as<std::byte>().data();
  };
  run_here(address, scratch.data(), nullptr);
}

void Program::run_here(const Memory& memory, void* scratch, codelets::Stream stream) const {
  std::vector<void*> pointers;
  for (const Lowered::Segment& segment : lowered_.segments) {
    pointers.clear();
    for (const Lowered::Binding& binding : segment.bindings) {
      pointers.push_back(binding.resource == Resource::scratch
                             ? scratch
                             : memory(binding.resource, binding.index));
    }
    run_segment(segment, pointers, stream);
  }
}

}  // namespace stpt::models
