// The end of lowering: cuts the list of ops into segments and gives what they work on a place in
// the memory of the segments' tasks. Used by lowering.cpp alone.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "models/lowering.hpp"

namespace stpt::models {

class Segmentation {
 public:
  /// Memory of the program's own: an activation, a gradient or what forward keeps for backward.
  struct Buffer {
    std::size_t bytes;
    int first = -1, last = -1;  ///< operations that touch it
  };
  /// What an op works on.
  struct Argument {
    Resource resource = Resource::none;
    int index = 0;  ///< bucket; for activations: buffer
    std::size_t offset = 0;
    runtime::Access access = runtime::Access::read;
  };
  struct Op {
    std::string name;
    int block;
    bool backward;
    codelets::KernelPtr kernel;
    std::vector<Argument> arguments;
  };

  /// The request and the buffers are to outlive this.
  Segmentation(const LoweringRequest& request, std::vector<Op> ops,
               const std::vector<Buffer>& buffers);

  /// To be called once.
  [[nodiscard]] Lowered cut();

 private:
  /// Where a buffer lies.
  struct Home {
    Resource resource = Resource::none;
    int index = 0;
    std::size_t offset = 0;
    int first_segment = 0;  ///< of those that use the memory
  };

  void cut_segments();
  [[nodiscard]] bool starts_segment(std::size_t op) const;
  [[nodiscard]] std::string segment_name(const Op& op) const;
  /// Packs the buffers into the segments' scratch memory and into groups; one home per buffer.
  [[nodiscard]] std::vector<Home> place_buffers();
  /// The buffers by the segments that use them.
  [[nodiscard]] std::map<std::set<int>, std::vector<std::size_t>> groups() const;
  /// Gives the segment's ops their operands and its task their handles.
  void bind(std::size_t number, const std::vector<Home>& homes);
  [[nodiscard]] Lowered::Operand operand(std::size_t segment, const Argument& argument,
                                         const std::vector<Home>& homes);
  /// The number of the segment's handle for the resource.
  static int binding(Lowered::Segment& segment, Resource resource, int index,
                     runtime::Access access);

  const LoweringRequest& request_;
  std::vector<Op> ops_;
  const std::vector<Buffer>& buffers_;
  Lowered result_;
};

}  // namespace stpt::models
