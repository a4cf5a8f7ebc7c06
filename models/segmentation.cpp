#include "models/segmentation.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "models/packing.hpp"

namespace stpt::models {
using runtime::Access;

Segmentation::Segmentation(const Network& network, const std::vector<Op>& ops,
                           const std::vector<Buffer>& buffers, Program& program)
    : network_(network), ops_(ops), buffers_(buffers), program_(program) {}

void Segmentation::cut() {
  cut_segments(program_.options_.grain);
  const std::vector<Home> homes = place_buffers();
  for (std::size_t segment = 0; segment < program_.segments_.size(); ++segment) {
    bind(segment, homes);
  }
}

void Segmentation::cut_segments(Grain grain) {
  auto& segments = program_.segments_;
  for (std::size_t op = 0; op < ops_.size(); ++op) {
    if (starts_segment(op, grain)) {
      Program::Segment segment;
      segment.name = segment_name(ops_[op], grain);
      segment.first = op;
      segment.footprint = static_cast<std::uint32_t>(
          std::hash<std::string>{}(network_.name + segment.name + std::to_string(program_.batch_) +
                                   std::to_string(segments.size())));
      segments.push_back(std::move(segment));
    }
    segments.back().last = op + 1;
  }
}

bool Segmentation::starts_segment(std::size_t op, Grain grain) const {
  if (op == 0 || grain == Grain::op) return true;
  if (grain == Grain::step) return false;
  return ops_[op].block != ops_[op - 1].block || ops_[op].backward != ops_[op - 1].backward;
}

std::string Segmentation::segment_name(const Op& op, Grain grain) const {
  if (grain == Grain::op) return op.name;
  if (grain == Grain::step) return program_.mode_ == Mode::train ? "step" : "score";
  return network_.blocks[static_cast<std::size_t>(op.block)] +
         (op.backward ? " backward" : " forward");
}

std::map<std::set<int>, std::vector<std::size_t>> Segmentation::groups() const {
  std::vector<std::set<int>> used_by(buffers_.size());
  for (std::size_t number = 0; number < program_.segments_.size(); ++number) {
    const Program::Segment& segment = program_.segments_[number];
    for (std::size_t op = segment.first; op < segment.last; ++op) {
      for (const Argument& argument : ops_[op].arguments) {
        if (argument.resource == Resource::activations)
          used_by[static_cast<std::size_t>(argument.index)].insert(static_cast<int>(number));
      }
    }
  }
  std::map<std::set<int>, std::vector<std::size_t>> groups;
  for (std::size_t buffer = 0; buffer < buffers_.size(); ++buffer) {
    if (!used_by[buffer].empty()) groups[used_by[buffer]].push_back(buffer);
  }
  return groups;
}

std::vector<Segmentation::Home> Segmentation::place_buffers() {
  constexpr std::size_t workspace_alignment = 256;  // what cuDNN and cuBLAS like
  std::vector<Home> homes(buffers_.size());
  // Buffers of one segment alone lie in its scratch memory; others in the group of those with the
  // same segments.
  for (const auto& [used_by, members] : groups()) {
    std::vector<Lifetime> lifetimes;
    for (const std::size_t member : members) {
      lifetimes.push_back({buffers_[member].bytes, buffers_[member].first, buffers_[member].last});
    }
    const Packing packing = pack(lifetimes);
    Home home{Resource::scratch, 0, 0, *used_by.begin()};
    if (used_by.size() == 1) {
      program_.segments_[static_cast<std::size_t>(home.first_segment)].workspace_offset =
          runtime::align_up(packing.bytes, workspace_alignment);
    } else {
      home.resource = Resource::activations;
      home.index = static_cast<int>(program_.group_bytes_.size());
      program_.group_bytes_.push_back(packing.bytes);
    }
    for (std::size_t i = 0; i < members.size(); ++i) {
      home.offset = packing.offsets[i];
      homes[members[i]] = home;
    }
  }
  return homes;
}

int Segmentation::binding(Program::Segment& segment, Resource resource, int index, Access access) {
  auto& bindings = segment.bindings;
  const auto known = std::ranges::find_if(bindings, [&](const Program::Binding& binding) {
    return binding.resource == resource && binding.index == index;
  });
  const auto number = static_cast<int>(known - bindings.begin());
  if (known == bindings.end()) {
    bindings.push_back({resource, index, access});
  } else if (known->access == Access::read && access != Access::read) {
    // Access::write stays: written before it is read inside the segment, so that what was there
    // before does not matter.
    known->access = Access::read_write;
  }
  return number;
}

Program::Operand Segmentation::operand(std::size_t segment, const Argument& argument,
                                       const std::vector<Home>& homes) {
  Program::Segment& task = program_.segments_[segment];
  if (argument.resource == Resource::none) return {};
  if (argument.resource != Resource::activations)
    return {binding(task, argument.resource, argument.index, argument.access), argument.offset};
  const Home& home = homes[static_cast<std::size_t>(argument.index)];
  Access access = argument.access;
  if (home.resource == Resource::scratch) {
    access = Access::scratch;
  } else if (home.first_segment == static_cast<int>(segment)) {
    access = Access::write;
  } else if (access == Access::write) {
    access = Access::read_write;  // other members of the group keep their values
  }
  return {binding(task, home.resource, home.index, access), home.offset + argument.offset};
}

void Segmentation::bind(std::size_t number, const std::vector<Home>& homes) {
  Program::Segment& segment = program_.segments_[number];
  std::size_t workspace = 0;
  for (std::size_t op = segment.first; op < segment.last; ++op) {
    Program::Operation& operation = program_.operations_[op];
    workspace = std::max(workspace, operation.kernel->workspace_bytes());
    for (const Argument& argument : ops_[op].arguments) {
      operation.operands.push_back(operand(number, argument, homes));
    }
  }
  const std::size_t scratch = segment.workspace_offset + workspace;
  if (scratch == 0) return;
  segment.scratch_binding = binding(segment, Resource::scratch, 0, Access::scratch);
  program_.scratch_bytes_ = std::max(program_.scratch_bytes_, scratch);
}

}  // namespace stpt::models
