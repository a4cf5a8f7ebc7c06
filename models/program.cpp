#include "models/program.hpp"

#include <map>
#include <stdexcept>

#include "codelets/cuda_graph.hpp"
#include "models/lowering.hpp"

namespace stpt::models {

using runtime::Access;
using runtime::Tensor;
using runtime::WorkerKind;

Program::Program(const Network& network, int batch, Mode mode, const LoweringOptions& options,
                 int image_parts)
    : batch_(batch), mode_(mode), options_(options), image_parts_(image_parts) {
  Lowering lowering(network, mode, *this);
  lowering.emit_operations();
  lowering.cut(options.grain);
  if (scratch_bytes_ > 0)
    scratch_ = Tensor(runtime::bytes_spec(scratch_bytes_), network.name + ".scratch");
#ifdef STPT_HAS_CUDA
  if (on_gpu()) graphs_ = std::make_shared<codelets::cuda::GraphCache>();
#endif
}

std::size_t Program::lane_bytes() const {
  std::size_t bytes = 0;
  for (const std::size_t group : group_bytes_) bytes += group;
  return bytes;
}

Lane Program::make_lane() const {
  Lane lane;
  for (const std::size_t bytes : group_bytes_) {
    lane.emplace_back(runtime::bytes_spec(bytes), "activations." + std::to_string(lane.size()));
  }
  return lane;
}

const Tensor& Program::resolve(const Binding& binding, const ProgramInputs& inputs) const {
  const auto index = static_cast<std::size_t>(binding.index);
  switch (binding.resource) {
    case Resource::images:
      return inputs.images[index];
    case Resource::labels:
      return *inputs.labels;
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

void Program::run_segment(const Segment& segment, std::span<void* const> buffers,
                          codelets::Stream stream) const {
  std::vector<void*> pointers;
  std::byte* workspace = nullptr;
  if (segment.scratch_binding >= 0) {
    workspace =
        static_cast<std::byte*>(buffers[static_cast<std::size_t>(segment.scratch_binding)]) +
        segment.workspace_offset;
  }
  for (std::size_t op = segment.first; op < segment.last; ++op) {
    const Operation& operation = operations_[op];
    pointers.clear();
    for (const Operand& operand : operation.operands) {
      pointers.push_back(
          operand.binding < 0
              ? nullptr
              : static_cast<std::byte*>(buffers[static_cast<std::size_t>(operand.binding)]) +
                    operand.offset);
    }
    operation.kernel->run(pointers, workspace, stream);
  }
}

void Program::run_task(const Segment& segment, const runtime::TaskContext& task) const {
#ifdef STPT_HAS_CUDA
  // A graph of one op would cost more than it saves.
  if (graphs_ && segment.last - segment.first > 1) {
    graphs_->run(task.worker, segment.first, task.buffers, task.stream,
                 [&] { run_segment(segment, task.buffers, task.stream); });
    return;
  }
#endif
  run_segment(segment, task.buffers, task.stream);
}

void Program::submit(const ProgramInputs& inputs, int worker, int priority) const {
  static const runtime::Codelet train("train", {WorkerKind::cpu});
  static const runtime::Codelet score("score", {WorkerKind::cpu});
  static const runtime::Codelet train_on_gpu("train on GPU", {WorkerKind::cuda});
  static const runtime::Codelet score_on_gpu("score on GPU", {WorkerKind::cuda});
  const bool trains = mode_ == Mode::train;
  const runtime::Codelet& codelet =
      on_gpu() ? (trains ? train_on_gpu : score_on_gpu) : (trains ? train : score);
  std::vector<runtime::Use> uses;
  for (const Segment& segment : segments_) {
    uses.clear();
    for (const Binding& binding : segment.bindings)
      uses.push_back({resolve(binding, inputs), binding.access});
    runtime::submit(codelet, uses,
                    [this, &segment](const runtime::TaskContext& task) { run_task(segment, task); },
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
  for (const Segment& segment : segments_) {
    pointers.clear();
    for (const Binding& binding : segment.bindings) {
      pointers.push_back(binding.resource == Resource::scratch
                             ? scratch
                             : memory(binding.resource, binding.index));
    }
    run_segment(segment, pointers, stream);
  }
}

}  // namespace stpt::models
