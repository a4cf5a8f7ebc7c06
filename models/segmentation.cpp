#include "models/segmentation.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "models/packing.hpp"

namespace stpt::models {
using runtime::Access;

Segmentation::Segmentation(const LoweringRequest& request, std::vector<Op> ops,
                           const std::vector<Buffer>& buffers)
    : request_(request), ops_(std::move(ops)), buffers_(buffers) {}

Lowered Segmentation::cut() {
  cut_segments();
  const std::vector<Home> homes = place_buffers();
  for (std::size_t segment = 0; segment < result_.segments.size(); ++segment) {
    bind(segment, homes);
  }
  return std::move(result_);
}

void Segmentation::cut_segments() {
  auto& segments = result_.segments;
  for (std::size_t op = 0; op < ops_.size(); ++op) {
    if (starts_segment(op)) {
      Lowered::Segment segment;
      segment.name = segment_name(ops_[op]);
      segment.first = op;
      segment.footprint = static_cast<std::uint32_t>(std::hash<std::string>{}(
          request_.network.name + segment.name + std::to_string(request_.batch) +
          std::to_string(segments.size())));
      segments.push_back(std::move(segment));
    }
    segments.back().last = op + 1;
  }
}

bool Segmentation::starts_segment(std::size_t op) const {
  const Grain grain = request_.options.grain;
  if (op == 0 || grain == Grain::op) return true;
  if (grain == Grain::step) return false;
  return ops_[op].block != ops_[op - 1].block || ops_[op].backward != ops_[op - 1].backward;
}

std::string Segmentation::segment_name(const Op& op) const {
  const Grain grain = request_.options.grain;
  if (grain == Grain::op) return op.name;
  if (grain == Grain::step) return request_.mode == Mode::train ? "step" : "score";
  return request_.network.blocks[static_cast<std::size_t>(op.block)] +
         (op.backward ? " backward" : " forward");
}

std::map<std::set<int>, std::vector<std::size_t>> Segmentation::groups() const {
  std::vector<std::set<int>> used_by(buffers_.size());
  for (std::size_t number = 0; number < result_.segments.size(); ++number) {
    const Lowered::Segment& segment = result_.segments[number];
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
      result_.segments[static_cast<std::size_t>(home.first_segment)].workspace_offset =
          runtime::align_up(packing.bytes, workspace_alignment);
    } else {
      home.resource = Resource::activations;
      home.index = static_cast<int>(result_.group_bytes.size());
      result_.group_bytes.push_back(packing.bytes);
    }
    for (std::size_t i = 0; i < members.size(); ++i) {
      home.offset = packing.offsets[i];
      homes[members[i]] = home;
    }
  }
  return homes;
}

int Segmentation::binding(Lowered::Segment& segment, Resource resource, int index, Access access) {
  auto& bindings = segment.bindings;
  const auto known = std::ranges::find_if(bindings, [&](const Lowered::Binding& binding) {
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

Lowered::Operand Segmentation::operand(std::size_t segment, const Argument& argument,
                                       const std::vector<Home>& homes) {
  Lowered::Segment& task = result_.segments[segment];
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
  Lowered::Segment& segment = result_.segments[number];
  std::size_t workspace = 0;
  for (std::size_t op = segment.first; op < segment.last; ++op) {
    Lowered::Operation& operation = result_.operations.emplace_back(
        std::move(ops_[op].kernel), std::vector<Lowered::Operand>());
    workspace = std::max(workspace, operation.kernel->workspace_bytes());
    for (const Argument& argument : ops_[op].arguments) {
      operation.operands.push_back(operand(number, argument, homes));
    }
  }
  const std::size_t scratch = segment.workspace_offset + workspace;
  if (scratch == 0) return;
  segment.scratch_binding = binding(segment, Resource::scratch, 0, Access::scratch);
  result_.scratch_bytes = std::max(result_.scratch_bytes, scratch);
}

}  // namespace stpt::models
