// Fully connected layers by their definition.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "codelets/fully_connected.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::fully_connected {

using codelets::FullyConnected;

inline FullyConnected make_fc(const Shape& src, std::int64_t outputs, Layout layout = Layout::nchw,
                              bool bias = true) {
  return {spec_of(src, layout), spec_of({src.n, outputs, 1, 1}), bias};
}

inline std::int64_t inputs_of(const FullyConnected& fc) {
  return fc.src.shape.c * fc.src.shape.spatial();
}

/// Inputs, and what the definition makes of them in double precision. `round` is what the device
/// does to the weights; the other inputs are rounded already.
struct Reference {
  explicit Reference(const FullyConnected& fc,
                     const std::function<float(float)>& round = std::identity()) {
    const auto n = static_cast<std::size_t>(fc.src.shape.n);
    const auto outputs = static_cast<std::size_t>(fc.dst.shape.c);
    const auto inputs = static_cast<std::size_t>(inputs_of(fc));
    const auto rounded_values = [&](std::int64_t count, unsigned seed) {
      std::vector<float> values = random_values(count, seed);
      for (float& value : values) value = round(value);
      return values;
    };
    src = rounded_values(fc.src.shape.elements(), 1);
    weights = random_values(inputs_of(fc) * fc.dst.shape.c, 2);
    bias = random_values(fc.dst.shape.c, 3);
    d_dst = rounded_values(fc.dst.shape.elements(), 4);
    dst.resize(d_dst.size());
    d_src.resize(src.size());
    d_weights.resize(weights.size());
    d_bias.resize(bias.size());
    for (std::size_t b = 0; b < n; ++b) {
      for (std::size_t k = 0; k < outputs; ++k) {
        const double gradient = static_cast<double>(d_dst[b * outputs + k]);
        double sum = fc.bias ? static_cast<double>(bias[k]) : 0;
        for (std::size_t i = 0; i < inputs; ++i) {
          const double x = static_cast<double>(src[b * inputs + i]);
          const double w = static_cast<double>(round(weights[k * inputs + i]));
          sum += x * w;
          d_src[b * inputs + i] += gradient * w;
          d_weights[k * inputs + i] += gradient * x;
        }
        d_bias[k] += gradient;
        dst[b * outputs + k] = sum;
      }
    }
  }

  std::vector<float> src, weights, bias, d_dst;
  std::vector<double> dst, d_src, d_weights, d_bias;
};

struct Case {
  Shape src;
  std::int64_t outputs;
  bool bias = true;
};
inline const std::vector<Case> cases = {
    {{4, 13, 1, 1}, 10},        {{1, 64, 1, 1}, 10},        {{64, 64, 1, 1}, 10},
    {{3, 5, 3, 2}, 7},          {{2, 16, 5, 5}, 120},       {{5, 32, 1, 1}, 1},
    {{1, 17, 5, 7}, 33},        {{32, 784, 1, 1}, 100},     {{3, 5, 3, 2}, 7, false},
    {{4, 16, 1, 1}, 10, false}, {{2, 17, 5, 7}, 33, false},
};

}  // namespace stpt::testing::fully_connected
