// Elementwise ops on tensors of one spec.
#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// y = max(x, 0), where NaN stays NaN. run(x, y); y may be x.
struct ReluForward {
  TensorSpec x;
};

/// d_x = y > 0 ? d_y : 0. run(y, d_y, d_x); d_x may be d_y.
struct ReluBackward {
  TensorSpec x;
};

/// y = a + b, with ReLU if `relu`. run(a, b, y); y may be a or b.
struct Add {
  TensorSpec x;
  bool relu = false;
};

/// y = a b. run(a, b, y); y may be a or b.
struct Product {
  TensorSpec x;
};

/// y = factor x + offset. run(x, y); y may be x.
struct AffineMap {
  TensorSpec x;
  float factor = 1;
  float offset = 0;
};

/// Functions other than ReLU, as PyTorch defines them:
///   relu6         min(max(x, 0), 6)
///   leaky_relu    x > 0 ? x : slope x, where the slope is above 0
///   elu           x > 0 ? x : exp(x) - 1
///   silu          x sigmoid(x)
///   mish          x tanh(log(1 + exp(x)))
///   gelu          x / 2 (1 + erf(x / sqrt(2))): the exact one
///   hard_swish    x hard_sigmoid(x)
///   hard_sigmoid  min(max(x / 6 + 1/2, 0), 1)
///   sigmoid       1 / (1 + exp(-x))
///   tanh
/// NaN stays NaN, with any gradient; silu, mish, gelu and hard_swish make NaN of -infinity, which
/// they multiply by 0; mish's gradients at the infinities are not finite. At the kinks gradients
/// are 0, but for those of leaky_relu (the slope) and of hard_swish at 3 (1).
enum class Activation {
  relu6,
  leaky_relu,
  elu,
  silu,
  mish,
  gelu,
  hard_swish,
  hard_sigmoid,
  sigmoid,
  tanh,
};

/// All, and what users call them.
inline constexpr auto named_activations = std::to_array<std::pair<Activation, std::string_view>>({
    {Activation::relu6, "relu6"},
    {Activation::leaky_relu, "leaky_relu"},
    {Activation::elu, "elu"},
    {Activation::silu, "silu"},
    {Activation::mish, "mish"},
    {Activation::gelu, "gelu"},
    {Activation::hard_swish, "hard_swish"},
    {Activation::hard_sigmoid, "hard_sigmoid"},
    {Activation::sigmoid, "sigmoid"},
    {Activation::tanh, "tanh"},
});
[[nodiscard]] std::string_view to_string(Activation function);

/// Those that batch norm and group norm can have fused in: they are computed again in backward.
[[nodiscard]] constexpr bool fuses_with_normalisations(Activation function) {
  return function == Activation::relu6 || function == Activation::leaky_relu ||
         function == Activation::hard_swish || function == Activation::silu;
}

/// PyTorch's.
inline constexpr float default_slope = 0.01f;

/// y = function(x). run(x, y); y may be x.
struct ActivationForward {
  TensorSpec x;
  Activation function = Activation::relu6;
  float slope = default_slope;  ///< of leaky_relu
};

/// d_x = function'(x) d_y. run(x, d_y, d_x); d_x may be d_y.
struct ActivationBackward {
  TensorSpec x;
  Activation function = Activation::relu6;
  float slope = default_slope;  ///< of leaky_relu
};

[[nodiscard]] KernelPtr plan(const ReluForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ReluForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const ReluBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ReluBackward& op, Cuda);
[[nodiscard]] KernelPtr plan(const Add& op, Cpu);
[[nodiscard]] KernelPtr plan(const Add& op, Cuda);
[[nodiscard]] KernelPtr plan(const Product& op, Cpu);
[[nodiscard]] KernelPtr plan(const Product& op, Cuda);
[[nodiscard]] KernelPtr plan(const AffineMap& op, Cpu);
[[nodiscard]] KernelPtr plan(const AffineMap& op, Cuda);
[[nodiscard]] KernelPtr plan(const ActivationForward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ActivationForward& op, Cuda);
[[nodiscard]] KernelPtr plan(const ActivationBackward& op, Cpu);
[[nodiscard]] KernelPtr plan(const ActivationBackward& op, Cuda);

}  // namespace stpt::codelets
