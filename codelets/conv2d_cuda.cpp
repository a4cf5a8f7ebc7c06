#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "codelets/bias_cuda.hpp"
#include "codelets/conv2d.hpp"
#include "codelets/cuda.hpp"
#include "codelets/cudnn_cuda.hpp"
#include "codelets/depthwise_cuda.hpp"
#include "codelets/elementwise.hpp"
#include "codelets/program_cuda.hpp"

// The CUDA implementation, in nhwc: by cuDNN, which gives no float32 weight gradients of
// half-precision tensors, but for depthwise convolutions.

namespace stpt::codelets {
namespace {

using cuda::Program;
using cudnn::Pass;
using runtime::Layout;
using runtime::Shape;

void require_consistent(const std::string& what, const Conv2d& conv) {
  const auto fail = [&](const std::string& reason) {
    throw std::invalid_argument(what + ": " + reason);
  };
  cuda::require_type(conv.src.type, what);
  if (conv.src.shape.elements() < 1) fail("every dimension must be at least 1");
  const Shape expected = conv2d_output(conv.src.shape, conv.dst.shape.c, conv.window, conv.groups);
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
  Problem(const char* op, const Conv2d& conv, Pass pass, bool tf32) : what(describe_op(op, conv)) {
    require_consistent(what, conv);
    require_nhwc(what, "src", conv.src);
    require_nhwc(what, "dst", conv.dst);
    convolution = {pass,        conv.src.type, conv.src.shape, conv.weights(), conv.dst.shape,
                   conv.window, tf32};
  }

  [[nodiscard]] KernelPtr plan() const { return cudnn::plan(convolution, what); }

  std::string what;
  cudnn::Convolution convolution;
};

}  // namespace

void choose_layout(Conv2d& conv, Cuda) { conv.dst.layout = Layout::nhwc; }

std::int64_t conv2d_channels(std::int64_t channels, runtime::DataType type, Cuda) {
  constexpr std::int64_t multiple = 8;
  if (type == runtime::DataType::float32) return channels;
  return (channels + multiple - 1) / multiple * multiple;
}

TensorSpec conv2d_weights(const Shape& weights, runtime::DataType type, Cuda) {
  return {weights, type, Layout::nhwc};
}

KernelPtr plan(const Conv2dForward& op, Cuda cuda) {
  const Conv2d& conv = op.conv;
  const Problem problem("conv2d forward", conv, Pass::forward, cuda.tf32);
  if (depthwise::is_depthwise(conv)) return depthwise::plan_forward(conv, op.relu, problem.what);
  if (!conv.bias && !op.relu) return problem.plan();
  auto program = std::make_unique<Program>(conv.bias ? 4 : 3);
  const auto src = Program::argument(0), weights = Program::argument(1);
  const auto bias = Program::argument(2), dst = Program::argument(conv.bias ? 3 : 2);
  program->add(problem.plan(), {src, weights, dst});
  if (conv.bias) {
    program->add(plan(AddBias{conv.dst, op.relu}, cuda), {bias, dst});
  } else {
    program->add(plan(ReluForward{conv.dst}, cuda), {dst, dst});
  }
  return program;
}

KernelPtr plan(const Conv2dBackwardData& op, Cuda cuda) {
  const Problem problem("conv2d backward data", op.conv, Pass::backward_data, cuda.tf32);
  if (depthwise::is_depthwise(op.conv)) return depthwise::plan_backward_data(op.conv, problem.what);
  return problem.plan();
}

KernelPtr plan(const Conv2dBackwardWeights& op, Cuda cuda) {
  const Conv2d& conv = op.conv;
  const Problem problem("conv2d backward weights", conv, Pass::backward_weights, cuda.tf32);
  KernelPtr gradient = depthwise::is_depthwise(conv)
                           ? depthwise::plan_backward_weights(conv, problem.what)
                           : problem.plan();
  if (!conv.bias) return gradient;
  auto program = std::make_unique<Program>(4);
  const auto src = Program::argument(0), d_dst = Program::argument(1);
  program->add(std::move(gradient), {src, d_dst, Program::argument(2)});
  program->add(plan(ChannelSums{conv.dst}, cuda), {d_dst, Program::argument(3)});
  return program;
}

}  // namespace stpt::codelets
