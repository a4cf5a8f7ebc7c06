#include "models/program.hpp"

#include <array>
#include <map>
#include <stdexcept>

#include "models/lowering.hpp"

namespace stpt::models {

using runtime::Access;
using runtime::Tensor;

Program::Program(const Network& network, int batch, Mode mode, Grain grain)
    : batch_(batch), mode_(mode) {
  Lowering lowering(network, mode, *this);
  lowering.emit_operations();
  lowering.cut(grain);
  if (scratch_bytes_ > 0)
    scratch_ = Tensor(runtime::bytes_spec(scratch_bytes_), network.name + ".scratch");
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
      return *inputs.images;
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
  constexpr std::size_t most_operands = 16;
  std::array<void*, most_operands> pointers;
  std::byte* workspace = nullptr;
  if (segment.scratch_binding >= 0) {
    workspace =
        static_cast<std::byte*>(buffers[static_cast<std::size_t>(segment.scratch_binding)]) +
        segment.workspace_offset;
  }
  for (std::size_t op = segment.first; op < segment.last; ++op) {
    const Operation& operation = operations_[op];
    const std::size_t count = operation.operands.size();
    for (std::size_t i = 0; i < count; ++i) {
      const Operand& operand = operation.operands[i];
      pointers[i] =
          operand.binding < 0
              ? nullptr
              : static_cast<std::byte*>(buffers[static_cast<std::size_t>(operand.binding)]) +
                    operand.offset;
    }
    operation.kernel->run({pointers.data(), count}, workspace, stream);
  }
}

void Program::submit(const ProgramInputs& inputs, int worker, int priority) const {
  static const runtime::Codelet train("train", {runtime::WorkerKind::cpu});
  static const runtime::Codelet score("score", {runtime::WorkerKind::cpu});
  const runtime::Codelet& codelet = mode_ == Mode::train ? train : score;
  std::vector<runtime::Use> uses;
  for (const Segment& segment : segments_) {
    uses.clear();
    for (const Binding& binding : segment.bindings)
      uses.push_back({resolve(binding, inputs), binding.access});
    runtime::submit(codelet, uses,
                    [this, &segment](const runtime::TaskContext& task) {
                      run_segment(segment, task.buffers, task.stream);
                    },
                    {.worker = worker,
                     .priority = priority,
                     .footprint = segment.footprint,
                     .name = segment.name.c_str()});
  }
}

void Program::run_here(const ProgramInputs& inputs, std::span<std::byte> scratch) const {
  std::map<const Tensor*, std::unique_ptr<runtime::HostView>> views;
  std::vector<void*> pointers;
  for (const Segment& segment : segments_) {
    pointers.clear();
    for (const Binding& binding : segment.bindings) {
      if (binding.resource == Resource::scratch) {
        pointers.push_back(scratch.data());
        continue;
      }
      const Tensor& tensor = resolve(binding, inputs);
      auto& view = views[&tensor];
      if (!view) {
        const bool fresh =
            binding.resource == Resource::activations || binding.resource == Resource::scores;
        view =
            std::make_unique<runtime::HostView>(tensor, fresh ? Access::write : Access::read_write);
      }
      pointers.push_back(view->as<std::byte>().data());
    }
    run_segment(segment, pointers, nullptr);
  }
}

}  // namespace stpt::models
