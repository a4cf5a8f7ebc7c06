#include "codelets/fully_connected.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "codelets/cpu.hpp"
#include "codelets/onednn.hpp"

namespace stpt::codelets {

namespace {

using dnnl::inner_product_backward_data;
using dnnl::inner_product_backward_weights;
using dnnl::inner_product_forward;
using onednn::MemoryDesc;
using onednn::Program;
using runtime::Layout;
using runtime::Shape;

void require_consistent(const char* op, const FullyConnected& fc) {
  cpu::require_plain(std::string(op) + ": src", fc.src);
  cpu::require_plain(std::string(op) + ": dst", fc.dst);
  const Shape expected{fc.src.shape.n, fc.dst.shape.c, 1, 1};
  if (fc.dst.shape != expected || fc.dst.layout != Layout::nchw)
    onednn::fail(describe_op(op, fc), "dst must be " + expected.to_string() + " nchw");
}

/// True if the source's c, h, w already lie in row-major order without padding.
bool is_plain(const runtime::TensorSpec& spec) {
  if (spec.layout == Layout::nchw) return true;
  return spec.shape.spatial() == 1 && spec.stored_elements() == spec.shape.elements();
}

/// A matrix product: the source is seen as n rows of c*h*w. A source in another layout than nchw is
/// reordered, which is cheaper than bringing the (mostly larger) weights into its order. The
/// weights are used where they are: at every step they change, so packing them would not pay.
struct Problem {
  explicit Problem(const FullyConnected& fc)
      : plain_src(onednn::describe(fc.src.shape, Layout::nchw)),
        stored_src(is_plain(fc.src) ? plain_src : onednn::describe(fc.src)) {
    const auto type = dnnl::memory::data_type::f32;
    const auto rows = dnnl::memory::format_tag::ab;
    const std::int64_t n = fc.src.shape.n, inputs = fc.src.shape.c * fc.src.shape.spatial();
    const std::int64_t outputs = fc.dst.shape.c;
    src = {{n, inputs}, type, rows};
    weights = {{outputs, inputs}, type, rows};
    if (fc.bias) bias = {{outputs}, type, dnnl::memory::format_tag::a};
    dst = {{n, outputs}, type, rows};
  }

  [[nodiscard]] inner_product_forward::primitive_desc forward() const {
    return {{dnnl::prop_kind::forward_training, src, weights, bias, dst},
            onednn::user_scratchpad(),
            onednn::engine()};
  }

  MemoryDesc plain_src, stored_src;    ///< 4-D
  MemoryDesc src, weights, bias, dst;  ///< 2-D
};

}  // namespace

std::string describe_op(const char* op, const FullyConnected& fc) {
  return std::string(op) + " " + fc.src.to_string() + " -> " + fc.dst.to_string();
}

TensorSpec fully_connected_weights(const Shape& weights, runtime::DataType, Cpu) {
  return {weights, runtime::DataType::float32, Layout::nchw};
}

KernelPtr plan(const FullyConnectedForward& op, Cpu) {
  require_consistent("fully connected forward", op.fc);
  const std::string name = describe_op("fully connected forward", op.fc);
  return onednn::explained(name, [&]() -> KernelPtr {
    const Problem problem(op.fc);
    const auto pd = problem.forward();
    auto program = std::make_unique<Program>(name, op.fc.bias ? 4 : 3);
    const auto src = program->read_as(Program::argument(0), problem.stored_src, problem.plain_src);
    std::vector<Program::Operand> operands = {
        {DNNL_ARG_SRC, problem.src, src},
        {DNNL_ARG_WEIGHTS, problem.weights, Program::argument(1)},
        {DNNL_ARG_DST, problem.dst, Program::argument(op.fc.bias ? 3 : 2)}};
    if (op.fc.bias) operands.push_back({DNNL_ARG_BIAS, problem.bias, Program::argument(2)});
    program->add(pd, inner_product_forward(pd), operands);
    if (op.relu) {
      const auto count = static_cast<std::size_t>(op.fc.dst.shape.elements());
      program->finish_with([count](std::span<void* const> args) {
        onednn::rectify({static_cast<float*>(args.back()), count});
      });
    }
    return program;
  });
}

KernelPtr plan(const FullyConnectedBackwardData& op, Cpu) {
  require_consistent("fully connected backward data", op.fc);
  const std::string name = describe_op("fully connected backward data", op.fc);
  return onednn::explained(name, [&]() -> KernelPtr {
    const Problem problem(op.fc);
    const inner_product_backward_data::primitive_desc pd(
        {problem.src, problem.weights, problem.dst}, onednn::user_scratchpad(), onednn::engine(),
        problem.forward());
    auto program = std::make_unique<Program>(name, 3);
    const auto d_src_at = Program::argument(2);
    const auto d_src = program->write_as(d_src_at, problem.stored_src, problem.plain_src);
    program->add(pd, inner_product_backward_data(pd),
                 {{DNNL_ARG_WEIGHTS, problem.weights, Program::argument(0)},
                  {DNNL_ARG_DIFF_DST, problem.dst, Program::argument(1)},
                  {DNNL_ARG_DIFF_SRC, problem.src, d_src}});
    program->write_back(d_src, problem.plain_src, d_src_at, problem.stored_src);
    return program;
  });
}

KernelPtr plan(const FullyConnectedBackwardWeights& op, Cpu) {
  require_consistent("fully connected backward weights", op.fc);
  const std::string name = describe_op("fully connected backward weights", op.fc);
  return onednn::explained(name, [&]() -> KernelPtr {
    const Problem problem(op.fc);
    const inner_product_backward_weights::primitive_desc pd(
        {problem.src, problem.weights, problem.bias, problem.dst}, onednn::user_scratchpad(),
        onednn::engine(), problem.forward());
    auto program = std::make_unique<Program>(name, op.fc.bias ? 4 : 3);
    const auto src = program->read_as(Program::argument(0), problem.stored_src, problem.plain_src);
    std::vector<Program::Operand> operands = {
        {DNNL_ARG_SRC, problem.src, src},
        {DNNL_ARG_DIFF_DST, problem.dst, Program::argument(1)},
        {DNNL_ARG_DIFF_WEIGHTS, problem.weights, Program::argument(2)}};
    if (op.fc.bias) operands.push_back({DNNL_ARG_DIFF_BIAS, problem.bias, Program::argument(3)});
    program->add(pd, inner_product_backward_weights(pd), operands);
    return program;
  });
}

}  // namespace stpt::codelets
