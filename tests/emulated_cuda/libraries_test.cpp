// What only emulated libraries show of convolutions and products: the workspace that they are
// given, the rounding that they are allowed, and what is said where they can do nothing.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "codelets/conv2d.hpp"
#include "codelets/cublaslt_cuda.hpp"
#include "codelets/cudnn_cuda.hpp"
#include "codelets/fully_connected.hpp"
#include "tests/codelets/cuda_testing.hpp"
#include "tests/emulated_cuda/emulation.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::cublaslt::Product;
using codelets::cudnn::Convolution;
using codelets::cudnn::Pass;

namespace {

constexpr std::uint64_t gibibyte = std::uint64_t{1} << 30;

/// What the libraries want on a device, for as long as it lives.
class WantedWorkspace {
 public:
  WantedWorkspace(int device, std::uint64_t bytes) : device_(device) {
    emulated_cuda_want_workspace(device, bytes);
  }
  ~WantedWorkspace() { emulated_cuda_want_workspace(device_, 4096); }
  WantedWorkspace(const WantedWorkspace&) = delete;
  WantedWorkspace& operator=(const WantedWorkspace&) = delete;

 private:
  int device_;
};

const Shape image{2, 4, 5, 5}, weights{6, 4, 3, 3}, result{2, 6, 5, 5};

Convolution convolution(DataType type) {
  return {Pass::forward, type, image, weights, result, {3, 1, 1}, false};
}

Product product(DataType factors, DataType of_result) {
  return {.rows = 3, .columns = 5, .depth = 7, .factors = factors, .result = of_result};
}

/// What a kernel of two sources computes on the current device.
Bytes run(const codelets::Kernel& kernel, const TensorSpec& first, const TensorSpec& second,
          const TensorSpec& to) {
  DeviceTensor a(first, random_values(first.shape.elements(), 1));
  DeviceTensor b(second, random_values(second.shape.elements(), 2));
  DeviceTensor output(to);
  run_on_gpu(kernel, {&a, &b, &output}, {&output});
  return output.download();
}

TensorSpec nhwc(const Shape& shape) { return spec_of(shape, Layout::nhwc); }

Bytes run(const Convolution& op, const codelets::Kernel& kernel) {
  return run(kernel, nhwc(op.src), nhwc(op.weights), nhwc(op.dst));
}

Bytes run(const Product& op, const codelets::Kernel& kernel) {
  return run(kernel, spec_of({op.rows, op.depth, 1, 1}), spec_of({op.depth, op.columns, 1, 1}),
             spec_of({op.rows, op.columns, 1, 1}));
}

}  // namespace

TEST_CASE("A GPU whose libraries want more workspace than there is does with less", "[cuda]") {
  NEEDS_GPUS(2);
  const WantedWorkspace more(1, 8192);
  const auto check = [](const auto& op) {
    const auto kernel = plan(op, "test");
    CHECK(kernel->workspace_bytes() == 4096);
    const Bytes expected = run(op, *kernel);
    const CurrentDevice other(1);
    CHECK((run(op, *kernel) == expected));
  };
  check(convolution(DataType::float32));
  check(product(DataType::float32, DataType::float32));
}

TEST_CASE("Convolutions take a GiB of workspace at most, three with float32", "[cuda]") {
  NEEDS_GPUS(1);
  const auto workspace = [](DataType type) {
    return plan(convolution(type), "test")->workspace_bytes();
  };
  const auto refuse = [&](DataType type) {
    const auto act = [&] { (void)workspace(type); };
    require_complaint(act, {"test: cuDNN 9.", "has no engine for this on Emulated GPU (",
                            "); another model.data_type, or channels in multiples of 8"});
    CHECK(complaint(act).find('\n') == std::string::npos);  // as cuDNN says it, of each engine
  };
  {
    const WantedWorkspace wanted(0, 2 * gibibyte);
    CHECK(workspace(DataType::float32) == 2 * gibibyte);
    CHECK(workspace(DataType::bfloat16) == gibibyte);
  }
  {
    const WantedWorkspace wanted(0, 6 * gibibyte);
    CHECK(workspace(DataType::float32) == 3 * gibibyte);
    refuse(DataType::bfloat16);
    refuse(DataType::float16);
  }
  const WantedWorkspace wanted(0, 6 * gibibyte + 4096);
  refuse(DataType::float32);
}

TEST_CASE("A product that cuBLASLt does not have is refused", "[cuda]") {
  NEEDS_GPUS(1);
  require_complaint(
      [] { (void)plan(product(DataType::bfloat16, DataType::float16), "test"); },
      {"test: cuBLASLt has no algorithm for this on this GPU; another model.data_type"});
}

TEST_CASE("Convolutions and fully connected layers take TF32 where they may", "[cuda]") {
  NEEDS_GPUS(1);
  const auto bits = [](const codelets::KernelPtr& kernel, const std::vector<TensorSpec>& inputs,
                       const std::vector<TensorSpec>& outputs) {
    std::vector<std::unique_ptr<DeviceTensor>> tensors;
    std::vector<DeviceBuffer*> args;
    for (const TensorSpec& spec : inputs) {
      const auto seed = static_cast<unsigned>(tensors.size());
      tensors.push_back(
          std::make_unique<DeviceTensor>(spec, random_values(spec.shape.elements(), seed)));
      args.push_back(tensors.back().get());
    }
    for (const TensorSpec& spec : outputs) {
      tensors.push_back(std::make_unique<DeviceTensor>(spec));
      args.push_back(tensors.back().get());
    }
    run_on_gpu(*kernel, args, {args.begin() + std::ssize(inputs), args.end()});
    return tensors[inputs.size()]->download();
  };
  const auto check = [&](const auto& op, const std::vector<TensorSpec>& inputs,
                         const std::vector<TensorSpec>& outputs) {
    CHECK((bits(plan(op, Cuda{}), inputs, outputs) !=
           bits(plan(op, Cuda{.tf32 = true}), inputs, outputs)));
  };
  const codelets::Conv2d conv{.src = nhwc(image),
                              .dst = nhwc(result),
                              .window = {.kernel = 3, .padding = 1},
                              .bias = false};
  check(codelets::Conv2dForward{conv}, {conv.src, nhwc(weights)}, {conv.dst});
  check(codelets::Conv2dBackwardData{conv}, {nhwc(weights), conv.dst}, {conv.src});
  check(codelets::Conv2dBackwardWeights{conv}, {conv.src, conv.dst}, {nhwc(weights)});
  const codelets::FullyConnected fc{spec_of({3, 7, 1, 1}), spec_of({3, 5, 1, 1})};
  const TensorSpec of_fc = spec_of({5, 7, 1, 1}), bias = spec_of({1, 5, 1, 1});
  check(codelets::FullyConnectedForward{fc}, {fc.src, of_fc, bias}, {fc.dst});
  check(codelets::FullyConnectedBackwardData{fc}, {of_fc, fc.dst}, {fc.src});
  check(codelets::FullyConnectedBackwardWeights{fc}, {fc.src, fc.dst}, {of_fc, bias});
}
