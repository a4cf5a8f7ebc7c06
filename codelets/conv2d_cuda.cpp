#include <memory>
#include <stdexcept>
#include <string>

#include "codelets/bias_cuda.hpp"
#include "codelets/conv2d.hpp"
#include "codelets/cuda.hpp"
#include "codelets/cudnn_cuda.hpp"
#include "codelets/elementwise.hpp"
#include "codelets/program_cuda.hpp"

// The CUDA implementation, in nhwc, by cuDNN. The weights are brought into its order and type at
// each run: they change at each step, and are small beside the images. cuDNN gives no float32
// weight gradients of half-precision tensors, so they are rounded once before they are float32.

namespace stpt::codelets {
namespace {

using cuda::Program;
using cudnn::Pass;
using runtime::DataType;
using runtime::Layout;
using runtime::Shape;

std::string describe(const char* op, const Conv2d& conv) {
  return std::string(op) + " " + conv.src.to_string() + ", " + std::to_string(conv.dst.shape.c) +
         " filters " + std::to_string(conv.kernel_h) + "x" + std::to_string(conv.kernel_w) + "/" +
         std::to_string(conv.stride) + "+" + std::to_string(conv.padding);
}

void require_consistent(const std::string& what, const Conv2d& conv) {
  const auto fail = [&](const std::string& reason) {
    throw std::invalid_argument(what + ": " + reason);
  };
  cuda::require_type(conv.src.type, what);
  if (conv.src.shape.elements() < 1) fail("every dimension must be at least 1");
  const Shape expected = conv2d_output(conv.src.shape, conv.dst.shape.c, conv.kernel_h,
                                       conv.kernel_w, conv.stride, conv.padding);
  if (conv.dst.shape != expected) fail("dst must be " + expected.to_string());
  if (conv.dst.type != conv.src.type)
    fail(std::string("dst must be ") + runtime::to_string(conv.src.type) + ", too");
}

void require_nhwc(const std::string& what, const char* name, const TensorSpec& spec) {
  const TensorSpec wanted{spec.shape, spec.type, Layout::nhwc};
  if (runtime::same_memory(spec, wanted)) return;
  throw std::invalid_argument(what + ": " + name + " is in " + runtime::to_string(spec.layout) +
                              "; CUDA's convolutions take nhwc: reorder it before");
}

/// What the three ops share.
struct Problem {
  Problem(const char* op, const Conv2d& conv, Pass pass, bool tf32) : what(describe(op, conv)) {
    require_consistent(what, conv);
    require_nhwc(what, "src", conv.src);
    require_nhwc(what, "dst", conv.dst);
    const Shape shape{conv.dst.shape.c, conv.src.shape.c, conv.kernel_h, conv.kernel_w};
    canonical_weights = {shape, DataType::float32, Layout::nchw};
    weights = {shape, conv.src.type, Layout::nhwc};
    convolution = {pass,           conv.src.type, conv.src.shape, shape,
                   conv.dst.shape, conv.stride,   conv.padding,   tf32};
  }

  std::string what;
  TensorSpec canonical_weights, weights;
  cudnn::Convolution convolution;
};

}  // namespace

void choose_layout(Conv2d& conv, Cuda) {
  require_consistent(describe("conv2d", conv), conv);
  conv.dst.layout = Layout::nhwc;
}

KernelPtr plan(const Conv2dForward& op, Cuda cuda) {
  const Conv2d& conv = op.conv;
  const Problem problem("conv2d forward", conv, Pass::forward, cuda.tf32);
  auto program = std::make_unique<Program>(conv.bias ? 4 : 3);
  const auto src = Program::argument(0), bias = Program::argument(2);
  const auto dst = Program::argument(conv.bias ? 3 : 2);
  const auto weights =
      program->read_as(Program::argument(1), problem.canonical_weights, problem.weights);
  program->add(cudnn::plan(problem.convolution, problem.what), {src, weights, dst});
  if (conv.bias) {
    program->add(plan(AddBias{conv.dst, op.relu}, cuda), {bias, dst});
  } else if (op.relu) {
    program->add(plan(ReluForward{conv.dst}, cuda), {dst, dst});
  }
  return program;
}

KernelPtr plan(const Conv2dBackwardData& op, Cuda cuda) {
  const Problem problem("conv2d backward data", op.conv, Pass::backward_data, cuda.tf32);
  auto program = std::make_unique<Program>(3);
  const auto weights =
      program->read_as(Program::argument(0), problem.canonical_weights, problem.weights);
  program->add(cudnn::plan(problem.convolution, problem.what),
               {weights, Program::argument(1), Program::argument(2)});
  return program;
}

KernelPtr plan(const Conv2dBackwardWeights& op, Cuda cuda) {
  const Conv2d& conv = op.conv;
  const Problem problem("conv2d backward weights", conv, Pass::backward_weights, cuda.tf32);
  auto program = std::make_unique<Program>(conv.bias ? 4 : 3);
  const auto src = Program::argument(0), d_dst = Program::argument(1);
  const auto d_weights = Program::argument(2);
  const auto result = program->write_as(d_weights, problem.canonical_weights, problem.weights);
  program->add(cudnn::plan(problem.convolution, problem.what), {src, d_dst, result});
  program->write_back(result, problem.weights, d_weights, problem.canonical_weights);
  if (conv.bias) program->add(plan(ChannelSums{conv.dst}, cuda), {d_dst, Program::argument(3)});
  return program;
}

}  // namespace stpt::codelets
