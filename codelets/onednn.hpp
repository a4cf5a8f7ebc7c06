// What the oneDNN implementations share. Only for the .cpp files of codelets/: the headers of the
// ops do not show that oneDNN is behind them.
//
// One worker is one core, so oneDNN runs single-threaded: every thread that plans or runs a kernel
// sets its own OpenMP thread count to 1, once, before oneDNN looks at it. The same sums in the same
// order are then done whichever thread runs the kernel.
#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <oneapi/dnnl/dnnl.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::onednn {

using runtime::DataType;
using runtime::Layout;
using runtime::Shape;
using runtime::TensorSpec;
using MemoryDesc = dnnl::memory::desc;

/// The CPU engine of the process. Makes the calling thread single-threaded for OpenMP.
[[nodiscard]] const dnnl::engine& engine();

/// Attributes whose scratchpad is part of the kernel's workspace, so that one primitive can run in
/// several threads at once.
[[nodiscard]] dnnl::primitive_attr user_scratchpad();

/// x = max(x, 0), where NaN stays NaN. oneDNN's own ReLU, fused or not, makes 0 of NaN, which would
/// hide that a run diverges.
void rectify(std::span<float> x);

/// A 4-D float32 tensor; Layout::any leaves the choice to the primitive.
[[nodiscard]] MemoryDesc describe(const Shape& shape, Layout layout);
[[nodiscard]] MemoryDesc describe(const TensorSpec& spec);

/// The layout that `desc` stands for, Layout::any if it is none of ours.
[[nodiscard]] Layout layout_of(const MemoryDesc& desc);

/// Layouts a primitive may be asked to compute in.
inline constexpr std::initializer_list<Layout> layouts = {Layout::nchw16c, Layout::nchw8c,
                                                          Layout::nchw, Layout::nhwc};

[[noreturn]] void fail(std::string_view op, const std::string& reason);

/// A kernel made of oneDNN primitives that run one after the other over the kernel's arguments and
/// temporaries in its workspace.
class Program final : public Kernel {
 public:
  /// `name` is what error messages begin with.
  Program(std::string name, std::size_t arguments);

  /// Where an operand lies: in an argument or in the workspace.
  struct Place {
    bool in_workspace = false;
    std::size_t at = 0;  ///< index of the argument, or offset in the workspace
  };

  struct Operand {
    int role = 0;  ///< DNNL_ARG_...
    MemoryDesc desc;
    Place place;
  };

  [[nodiscard]] static Place argument(std::size_t index) { return {false, index}; }
  [[nodiscard]] Place temporary(const MemoryDesc& desc);

  /// Appends a primitive; its scratchpad goes to the workspace.
  template <typename PrimitiveDesc>
  void add(const PrimitiveDesc& pd, const dnnl::primitive& primitive,
           std::vector<Operand> operands) {
    append(primitive, pd.scratchpad_desc(), std::move(operands));
  }

  /// Appends a copy from one layout (or the same) to another.
  void copy(Place from, const MemoryDesc& from_desc, Place to, const MemoryDesc& to_desc);

  /// Where the values of `place` can be read as `wanted`: appends a reorder unless they already
  /// are.
  [[nodiscard]] Place read_as(Place place, const MemoryDesc& stored, const MemoryDesc& wanted);

  /// Where to write values as `computed` so that write_back() can bring them to `place`.
  [[nodiscard]] Place write_as(Place place, const MemoryDesc& stored, const MemoryDesc& computed);
  void write_back(Place from, const MemoryDesc& computed, Place place, const MemoryDesc& stored);

  /// What to do with the arguments and the workspace before the primitives.
  void prepare_with(std::function<void(std::span<void* const>, std::byte*)> prepare) {
    prepare_ = std::move(prepare);
  }

  /// What to do with the arguments after the primitives.
  void finish_with(std::function<void(std::span<void* const>)> finish) {
    finish_ = std::move(finish);
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override;

 private:
  struct Step {
    dnnl::primitive primitive;
    std::vector<Operand> operands;
  };

  void append(const dnnl::primitive& primitive, const MemoryDesc& scratchpad,
              std::vector<Operand> operands);

  [[nodiscard]] Place reserve(std::size_t bytes);

  std::string name_;
  std::size_t arguments_;
  std::vector<Step> steps_;
  std::function<void(std::span<void* const>, std::byte*)> prepare_;
  std::function<void(std::span<void* const>)> finish_;
};

/// How good an implementation is, and what it costs to bring `reorders` tensors into its layouts.
/// The unit is a reorder: one pass over a tensor is cheaper than giving up a blocked convolution
/// for one by matrix multiplication, and anything is cheaper than the reference loops.
[[nodiscard]] int cost(std::string_view implementation, int reorders);

/// Runs `build`, turning oneDNN's errors into std::runtime_error with the op's name in front.
template <std::invocable Build>
auto explained(const std::string& name, Build build) {
  try {
    return build();
  } catch (const dnnl::error& error) {
    throw std::runtime_error(name + ": oneDNN: " + error.what());
  }
}

}  // namespace stpt::codelets::onednn
