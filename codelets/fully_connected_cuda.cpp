#include <memory>
#include <stdexcept>
#include <string>

#include "codelets/bias_cuda.hpp"
#include "codelets/cublaslt_cuda.hpp"
#include "codelets/cuda.hpp"
#include "codelets/elementwise.hpp"
#include "codelets/fully_connected.hpp"
#include "codelets/program_cuda.hpp"

// The CUDA implementation, by cuBLASLt. A source in another order than nchw is reordered, which is
// cheaper than bringing the (mostly larger) weights into its order. All factors are of the source's
// type.

namespace stpt::codelets {
namespace {

using cuda::Program;
using runtime::DataType;
using runtime::Layout;
using runtime::Shape;

/// What the three ops share.
struct Problem {
  Problem(const char* op, const FullyConnected& fc)
      : what(describe_op(op, fc)),
        n(fc.src.shape.n),
        inputs(fc.src.shape.c * fc.src.shape.spatial()),
        outputs(fc.dst.shape.c),
        src{fc.src.shape, fc.src.type, Layout::nchw},
        dst{fc.dst.shape, fc.src.type, Layout::nchw} {
    const auto fail = [&](const std::string& reason) {
      throw std::invalid_argument(what + ": " + reason);
    };
    cuda::require_type(fc.src.type, what);
    if (fc.src.shape.elements() < 1 || outputs < 1) fail("every dimension must be at least 1");
    const Shape expected{n, outputs, 1, 1};
    if (fc.dst.shape != expected || fc.dst.layout != Layout::nchw)
      fail("dst must be " + expected.to_string() + " nchw");
    if (fc.dst.type != fc.src.type && fc.dst.type != DataType::float32)
      fail(std::string("dst must be float32 or ") + runtime::to_string(fc.src.type));
  }

  std::string what;
  std::int64_t n, inputs, outputs;
  TensorSpec src, dst;  ///< as factors
};

}  // namespace

TensorSpec fully_connected_weights(const Shape& weights, DataType type, Cuda) {
  return {weights, type, Layout::nchw};
}

KernelPtr plan(const FullyConnectedForward& op, Cuda cuda) {
  const FullyConnected& fc = op.fc;
  const Problem problem("fully connected forward", fc);
  auto program = std::make_unique<Program>(fc.bias ? 4 : 3);
  const auto bias = Program::argument(2), dst = Program::argument(fc.bias ? 3 : 2);
  const auto src = program->read_as(Program::argument(0), fc.src, problem.src);
  const cublaslt::Product product{.rows = problem.n,
                                  .columns = problem.outputs,
                                  .depth = problem.inputs,
                                  .b_transposed = true,
                                  .factors = fc.src.type,
                                  .result = fc.dst.type,
                                  .tf32 = cuda.tf32};
  program->add(cublaslt::plan(product, problem.what), {src, Program::argument(1), dst});
  if (fc.bias) {
    program->add(plan(AddBias{fc.dst, op.relu}, cuda), {bias, dst});
  } else if (op.relu) {
    program->add(plan(ReluForward{fc.dst}, cuda), {dst, dst});
  }
  return program;
}

KernelPtr plan(const FullyConnectedBackwardData& op, Cuda cuda) {
  const FullyConnected& fc = op.fc;
  const Problem problem("fully connected backward data", fc);
  auto program = std::make_unique<Program>(3);
  const auto d_dst = program->read_as(Program::argument(1), fc.dst, problem.dst);
  const auto d_src = program->write_as(Program::argument(2), fc.src, problem.src);
  const cublaslt::Product product{.rows = problem.n,
                                  .columns = problem.inputs,
                                  .depth = problem.outputs,
                                  .factors = fc.src.type,
                                  .result = fc.src.type,
                                  .tf32 = cuda.tf32};
  program->add(cublaslt::plan(product, problem.what), {d_dst, Program::argument(0), d_src});
  program->write_back(d_src, problem.src, Program::argument(2), fc.src);
  return program;
}

KernelPtr plan(const FullyConnectedBackwardWeights& op, Cuda cuda) {
  const FullyConnected& fc = op.fc;
  const Problem problem("fully connected backward weights", fc);
  auto program = std::make_unique<Program>(fc.bias ? 4 : 3);
  const auto d_weights = Program::argument(2), d_bias = Program::argument(3);
  const auto src = program->read_as(Program::argument(0), fc.src, problem.src);
  const auto d_dst = program->read_as(Program::argument(1), fc.dst, problem.dst);
  const cublaslt::Product product{.rows = problem.outputs,
                                  .columns = problem.inputs,
                                  .depth = problem.n,
                                  .a_transposed = true,
                                  .factors = fc.src.type,
                                  .tf32 = cuda.tf32};
  program->add(cublaslt::plan(product, problem.what), {d_dst, src, d_weights});
  if (fc.bias) program->add(plan(ChannelSums{fc.dst}, cuda), {Program::argument(1), d_bias});
  return program;
}

}  // namespace stpt::codelets
