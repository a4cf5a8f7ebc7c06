#include "codelets/elementwise.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "codelets/cpu.hpp"
#include "codelets/onednn.hpp"

// The CPU implementation. Padding needs care only where a function makes something else of zero.

namespace stpt::codelets {
namespace {

using onednn::Program;

/// Elements in memory; throws if the op cannot be computed on the CPU.
std::size_t checked_count(const std::string& op, const TensorSpec& spec) {
  cpu::require_plain(op, spec, 0);
  return static_cast<std::size_t>(spec.stored_elements());
}

struct Rectify {  ///< written so that NaN stays NaN
  float operator()(float x) const { return x < 0 ? 0 : x; }
};

struct Pass {  ///< the gradient where y > 0
  float operator()(float y, float d_y) const { return y > 0 ? d_y : 0; }
};

struct Sum {
  float operator()(float a, float b) const { return a + b; }
};

struct RectifiedSum {
  float operator()(float a, float b) const { return Rectify{}(a + b); }
};

struct Times {
  float operator()(float a, float b) const { return a * b; }
};

struct Straight {
  float factor, offset;
  float operator()(float x) const { return factor * x + offset; }
};

/// The last argument = function(the arguments before it).
template <std::size_t sources, class Function>
class Map final : public Kernel {
 public:
  Map(std::size_t count, Function function) : count_(count), function_(function) {}
  void run(std::span<void* const> args, void*, Stream) const override {
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      map(function_, static_cast<float*>(args[sources]), static_cast<const float*>(args[i])...);
    }
    (std::make_index_sequence<sources>());
  }

 private:
  void map(Function function, float* to, const auto*... from) const {
    for (std::size_t i = 0; i < count_; ++i) to[i] = function(from[i]...);
  }

  std::size_t count_;
  Function function_;
};

template <std::size_t sources, class Function>
KernelPtr plan_map(const std::string& op, const TensorSpec& spec, Function function) {
  return std::make_unique<Map<sources, Function>>(checked_count(op, spec), function);
}

// ---- Activations --------------------------------------------------------------------------------

// function(x), and its gradient times d_y, where oneDNN will not do: in relu6 it makes 0 of NaN,
// and it has no hard_sigmoid.

struct Relu6 {
  float operator()(float x) const { return x < 0 ? 0 : x > 6 ? 6 : x; }
  float operator()(float x, float d_y) const { return x > 0 && x < 6 ? d_y : 0; }
};

struct HardSigmoid {
  float operator()(float x) const { return ((x < -3 ? -3 : x > 3 ? 3 : x) + 3) / 6; }
  float operator()(float x, float d_y) const { return (x > -3 && x < 3 ? d_y : 0) / 6; }
};

/// A kernel that writes y last, and zeros to y's padding then.
class WithZeroPadding final : public Kernel {
 public:
  WithZeroPadding(KernelPtr kernel, const TensorSpec& y)
      : kernel_(std::move(kernel)), shape_(y.shape), block_(channel_block(y.layout, y.shape.c)) {
    workspace_bytes_ = kernel_->workspace_bytes();
  }
  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    kernel_->run(args, workspace, stream);
    const std::int64_t blocks = shape_.c / block_ + 1, used = shape_.c % block_;
    for (std::int64_t n = 0; n < shape_.n; ++n) {
      float* last =
          static_cast<float*>(args.back()) + ((n + 1) * blocks - 1) * shape_.spatial() * block_;
      for (std::int64_t pixel = 0; pixel < shape_.spatial(); ++pixel)
        std::fill(last + pixel * block_ + used, last + (pixel + 1) * block_, 0.0f);
    }
  }

 private:
  KernelPtr kernel_;
  runtime::Shape shape_;
  std::int64_t block_;
};

KernelPtr with_zero_padding(KernelPtr kernel, const TensorSpec& y) {
  if (y.stored_elements() == y.shape.elements()) return kernel;
  return std::make_unique<WithZeroPadding>(std::move(kernel), y);
}

/// oneDNN's function, or its gradient where there are two sources.
template <std::size_t sources>
KernelPtr plan_eltwise(const std::string& op, const TensorSpec& spec, dnnl::algorithm algorithm,
                       float alpha) {
  const auto count = static_cast<std::int64_t>(checked_count(op, spec));
  const std::string what = op + " " + spec.to_string();
  return onednn::explained(what, [&]() -> KernelPtr {
    const onednn::MemoryDesc x({count}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::a);
    const dnnl::eltwise_forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training, algorithm, x, alpha}, onednn::user_scratchpad(),
        onednn::engine());
    auto program = std::make_unique<Program>(what, sources + 1);
    if constexpr (sources == 1) {
      program->add(
          forward, dnnl::eltwise_forward(forward),
          {{DNNL_ARG_SRC, x, Program::argument(0)}, {DNNL_ARG_DST, x, Program::argument(1)}});
    } else {
      const dnnl::eltwise_backward::primitive_desc backward(
          {algorithm, x, x, alpha}, onednn::user_scratchpad(), onednn::engine(), forward);
      program->add(backward, dnnl::eltwise_backward(backward),
                   {{DNNL_ARG_SRC, x, Program::argument(0)},
                    {DNNL_ARG_DIFF_DST, x, Program::argument(1)},
                    {DNNL_ARG_DIFF_SRC, x, Program::argument(2)}});
    }
    return program;
  });
}

template <std::size_t sources, class Op>
KernelPtr plan_activation(const char* pass, const Op& op) {
  const std::string what = std::string(to_string(op.function)) + pass;
  const auto own = [&](auto function) { return plan_map<sources>(what, op.x, function); };
  const auto onednns = [&](dnnl::algorithm algorithm, float alpha = 0) {
    return plan_eltwise<sources>(what, op.x, algorithm, alpha);
  };
  switch (op.function) {
    case Activation::relu6:
      return own(Relu6{});
    case Activation::leaky_relu:
      return onednns(dnnl::algorithm::eltwise_relu, op.slope);
    case Activation::elu:
      return onednns(dnnl::algorithm::eltwise_elu, 1);
    case Activation::silu:
      return onednns(dnnl::algorithm::eltwise_swish, 1);
    case Activation::mish:
      return onednns(dnnl::algorithm::eltwise_mish);
    case Activation::gelu:
      return onednns(dnnl::algorithm::eltwise_gelu_erf);
    case Activation::hard_swish:
      return onednns(dnnl::algorithm::eltwise_hardswish);
    case Activation::hard_sigmoid:
      return own(HardSigmoid{});
    case Activation::sigmoid:
      return onednns(dnnl::algorithm::eltwise_logistic);
    case Activation::tanh:
      return onednns(dnnl::algorithm::eltwise_tanh);
  }
  throw std::logic_error("plan: unknown activation");
}

}  // namespace

std::string_view to_string(Activation function) {
  return std::ranges::find(named_activations, function,
                           &std::pair<Activation, std::string_view>::first)
      ->second;
}

KernelPtr plan(const ReluForward& op, Cpu) { return plan_map<1>("ReluForward", op.x, Rectify{}); }
KernelPtr plan(const ReluBackward& op, Cpu) { return plan_map<2>("ReluBackward", op.x, Pass{}); }

KernelPtr plan(const Add& op, Cpu) {
  return op.relu ? plan_map<2>("Add", op.x, RectifiedSum{}) : plan_map<2>("Add", op.x, Sum{});
}

KernelPtr plan(const Product& op, Cpu) { return plan_map<2>("Product", op.x, Times{}); }

KernelPtr plan(const AffineMap& op, Cpu) {
  return with_zero_padding(plan_map<1>("AffineMap", op.x, Straight{op.factor, op.offset}), op.x);
}

KernelPtr plan(const ActivationForward& op, Cpu) {
  return with_zero_padding(plan_activation<1>(" forward", op), op.x);
}

KernelPtr plan(const ActivationBackward& op, Cpu) { return plan_activation<2>(" backward", op); }

}  // namespace stpt::codelets
