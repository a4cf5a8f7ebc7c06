// What the tests of multiplied channels share: values by definition, and PyTorch's.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "codelets/multiply.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::multiply {

struct Values {
  Shape shape;
  std::vector<float> x, factors, d_y;
  std::vector<float> y, d_x, d_factors;  ///< rounded once
};

/// With results for these inputs.
inline Values by_definition(Values values) {
  values.y.clear();
  values.d_x.clear();
  values.d_factors.clear();
  const std::int64_t pixels = values.shape.spatial();
  for (std::size_t channel = 0; channel < values.factors.size(); ++channel) {
    double sum = 0;
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
      const std::size_t i = values.y.size();
      values.y.push_back(values.x[i] * values.factors[channel]);
      values.d_x.push_back(values.d_y[i] * values.factors[channel]);
      sum += static_cast<double>(values.d_y[i]) * static_cast<double>(values.x[i]);
    }
    values.d_factors.push_back(static_cast<float>(sum));
  }
  return values;
}

inline Values values_of(const Shape& shape, unsigned seed) {
  Values values;
  values.shape = shape;
  values.x = random_values(shape.elements(), seed);
  values.factors = random_values(shape.n * shape.c, seed + 1);
  values.d_y = random_values(shape.elements(), seed + 2);
  return by_definition(std::move(values));
}

/// One channel, a vector of them, several groups, whole blocks and parts of one; one pixel, more
/// than a block of threads takes, and more than a block.
inline std::vector<Shape> shapes() {
  return {{1, 1, 1, 1},   {3, 7, 1, 1},   {2, 5, 3, 4},   {2, 16, 9, 7},   {1, 24, 4, 4},
          {2, 300, 2, 3}, {1, 8, 30, 40}, {2, 264, 3, 2}, {2, 24, 45, 31}, {1, 5, 40, 33}};
}

inline std::vector<Values> golden() {
  std::vector<Values> all;
  const GoldenFile file = load_golden("multiply.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto tensor = [&](const char* of) { return file.at(name + "/" + of).values; };
    all.push_back({golden_shape(file.at(name + "/x")), tensor("x"), tensor("factors"),
                   tensor("d_y"), tensor("y"), tensor("d_x"), tensor("d_factors")});
  }
  return all;
}

/// A product is rounded once, and so is the reference.
inline constexpr Tolerance products{0x1p-23, 0};
/// Sums of up to 1400 products below 1 in float32: their roundings add up to a few units of 2^-24
/// times the partial sums, which are below 50.
inline constexpr Tolerance sums{1e-6, 2e-5};

}  // namespace stpt::testing::multiply
