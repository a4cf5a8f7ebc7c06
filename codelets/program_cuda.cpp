#include "codelets/program_cuda.hpp"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>

#include "codelets/cuda.hpp"
#include "codelets/reorder.hpp"
#include "runtime/tensor.hpp"

namespace stpt::codelets::cuda {
namespace {

using runtime::TensorSpec;

/// A workspace itself begins at a multiple of a tensor's alignment only.
constexpr std::size_t most_lost_to_alignment = workspace_alignment - runtime::tensor_alignment;

std::byte* aligned(void* workspace) {
  const auto address = reinterpret_cast<std::uintptr_t>(workspace);
  return reinterpret_cast<std::byte*>(runtime::align_up(address, workspace_alignment));
}

}  // namespace

Program::Place Program::temporary(std::size_t bytes) {
  const Place place{true, temporaries_};
  temporaries_ += runtime::align_up(bytes, workspace_alignment);
  grow_workspace();
  return place;
}

void Program::add(KernelPtr kernel, std::vector<Place> operands) {
  for (const Place& place : operands) {
    if (!place.in_workspace && place.at >= arguments_)
      throw std::logic_error("a program has no argument " + std::to_string(place.at));
  }
  shared_ = std::max(shared_, kernel->workspace_bytes());
  grow_workspace();
  steps_.push_back({std::move(kernel), std::move(operands)});
}

void Program::grow_workspace() {
  const std::size_t bytes = temporaries_ + shared_;
  workspace_bytes_ = bytes == 0 ? 0 : bytes + most_lost_to_alignment;
}

Program::Place Program::read_as(Place place, const TensorSpec& stored, const TensorSpec& wanted) {
  if (runtime::same_memory(stored, wanted)) return place;
  const Place copy = temporary(wanted.bytes());
  add(plan(Reorder{stored, wanted}, Cuda{}), {place, copy});
  return copy;
}

Program::Place Program::write_as(Place place, const TensorSpec& stored,
                                 const TensorSpec& computed) {
  return runtime::same_memory(stored, computed) ? place : temporary(computed.bytes());
}

void Program::write_back(Place from, const TensorSpec& computed, Place place,
                         const TensorSpec& stored) {
  if (runtime::same_memory(stored, computed)) return;
  add(plan(Reorder{computed, stored}, Cuda{}), {from, place});
}

void Program::run(std::span<void* const> args, void* workspace, Stream stream) const {
  if (args.size() != arguments_) {
    throw std::logic_error("a program has " + std::to_string(arguments_) + " arguments, not " +
                           std::to_string(args.size()));
  }
  std::byte* const begin = aligned(workspace);
  std::vector<void*> operands;
  for (const Step& step : steps_) {
    operands.clear();
    for (const Place& place : step.operands)
      operands.push_back(place.in_workspace ? begin + place.at : args[place.at]);
    step.kernel->run(operands, begin + temporaries_, stream);
  }
}

}  // namespace stpt::codelets::cuda
