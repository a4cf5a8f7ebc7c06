// A CUDA kernel made of others.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::cuda {

/// Kernels that run one after the other over the program's arguments and temporaries in its
/// workspace. What they need of a workspace themselves, they share.
class Program final : public Kernel {
 public:
  explicit Program(std::size_t arguments) : arguments_(arguments) {}

  /// Where an operand lies: in an argument or in the workspace.
  struct Place {
    bool in_workspace = false;
    std::size_t at = 0;  ///< index of the argument, or offset in the workspace
  };

  [[nodiscard]] static Place argument(std::size_t index) { return {false, index}; }
  [[nodiscard]] Place temporary(std::size_t bytes);

  /// Appends a kernel with its arguments.
  void add(KernelPtr kernel, std::vector<Place> operands);

  /// Where the values of `place` can be read as `wanted`: appends a reorder unless they already
  /// are.
  [[nodiscard]] Place read_as(Place place, const runtime::TensorSpec& stored,
                              const runtime::TensorSpec& wanted);

  /// Where to write values as `computed` so that write_back() can bring them to `place`.
  [[nodiscard]] Place write_as(Place place, const runtime::TensorSpec& stored,
                               const runtime::TensorSpec& computed);
  void write_back(Place from, const runtime::TensorSpec& computed, Place place,
                  const runtime::TensorSpec& stored);

  void run(std::span<void* const> args, void* workspace, Stream stream) const override;

 private:
  struct Step {
    KernelPtr kernel;
    std::vector<Place> operands;
  };

  void grow_workspace();

  std::size_t arguments_;
  std::size_t temporaries_ = 0, shared_ = 0;  ///< bytes of the workspace's two parts
  std::vector<Step> steps_;
};

}  // namespace stpt::codelets::cuda
