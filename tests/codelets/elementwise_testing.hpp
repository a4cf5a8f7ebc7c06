// Activations in double, by their definitions, and PyTorch's.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "codelets/elementwise.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing {

using codelets::Activation;

inline double activate(Activation function, double slope, double x) {
  switch (function) {
    case Activation::relu6:
      return std::clamp(x, 0.0, 6.0);
    case Activation::leaky_relu:
      return x > 0 ? x : slope * x;
    case Activation::elu:
      return x > 0 ? x : std::expm1(x);
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::mish:
      return x * std::tanh(std::log1p(std::exp(x)));
    case Activation::gelu:
      return x / 2 * std::erfc(-x / std::sqrt(2.0));
    case Activation::hard_swish:
      return x * std::clamp(x / 6 + 0.5, 0.0, 1.0);
    case Activation::hard_sigmoid:
      return std::clamp(x / 6 + 0.5, 0.0, 1.0);
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
  }
  throw std::logic_error("activate: unknown function");
}

/// Whose name it is.
inline std::optional<Activation> named_activation(const std::string& name) {
  for (const auto& [function, word] : codelets::named_activations)
    if (word == name) return function;
  return std::nullopt;
}

/// For arguments below 8, where float32 has steps of 5e-7; oneDNN's gelu errs by 4e-7.
inline constexpr Tolerance activation_tolerance{0, 1e-6};

struct GoldenActivation {
  Activation function;
  TensorSpec spec;
  std::vector<float> x, y, d_y, d_x;
};

/// PyTorch's of all functions, also at kinks and infinities.
inline std::vector<GoldenActivation> golden_activations() {
  std::vector<GoldenActivation> all;
  const GoldenFile file = load_golden("activation.bin");
  for (const auto& [function, word] : codelets::named_activations) {
    const auto tensor = [&, name = std::string(word)](const char* which) {
      return file.at(name + "/" + which);
    };
    all.push_back({function, spec_of(golden_shape(tensor("x"))), tensor("x").values,
                   tensor("y").values, tensor("d_y").values, tensor("d_x").values});
  }
  return all;
}

}  // namespace stpt::testing
