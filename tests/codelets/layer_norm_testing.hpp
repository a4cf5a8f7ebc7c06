// What the tests of layer norm share: values by definition, and PyTorch's.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "codelets/layer_norm.hpp"
#include "tests/codelets/normalisation_testing.hpp"

namespace stpt::testing::layer_norm {

struct Values {
  Shape shape;
  float epsilon = 1e-5f;
  std::vector<float> x, gamma, beta, d_y;
  Doubles y, d_x, d_gamma, d_beta;
  Tolerance of_y, of_d_x;
};

// As for group norm: results are compared relative to the largest value of their tensor, and go
// through fewer than ten roundings of 6e-8 after the sums; those add a few.
inline constexpr Tolerance usual{2e-6, 1e-7};

/// Values of n x c x h x w as rows of channels, n x h x w x c, or the other way round.
template <class Numbers>
Numbers in_rows(const Shape& shape, const Numbers& values, bool back = false) {
  Numbers moved(values.size());
  const std::int64_t pixels = shape.spatial();
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const std::int64_t n = i / pixels / shape.c, c = i / pixels % shape.c;
    const auto row = static_cast<std::size_t>((n * pixels + i % pixels) * shape.c + c);
    if (back) {
      moved[static_cast<std::size_t>(i)] = values[row];
    } else {
      moved[row] = values[static_cast<std::size_t>(i)];
    }
  }
  return moved;
}

/// A pixel is what group norm calls an image of one pixel and one group.
inline NormReference reference_of(const Values& values) {
  const Shape& shape = values.shape;
  NormReference reference;
  reference.shape = {shape.n * shape.spatial(), shape.c, 1, 1};
  reference.groups = 1;
  reference.epsilon = static_cast<double>(values.epsilon);
  reference.x = to_double(in_rows(shape, values.x));
  reference.gamma = to_double(values.gamma);
  reference.beta = to_double(values.beta);
  return reference;
}

/// With results for these inputs.
inline Values by_definition(Values values) {
  NormReference reference = reference_of(values);
  reference.forward();
  reference.backward(to_double(in_rows(values.shape, values.d_y)));
  values.y = in_rows(values.shape, reference.y, true);
  values.d_x = in_rows(values.shape, reference.d_x, true);
  values.d_gamma = reference.d_gamma;
  values.d_beta = reference.d_beta;
  values.of_y = usual;
  values.of_d_x = reference.d_x_tolerance();
  return values;
}

inline Values values_of(const Shape& shape, unsigned seed) {
  Values values;
  values.shape = shape;
  values.x = random_values(shape.elements(), seed, -2.0f, 3.0f);
  values.gamma = random_values(shape.c, seed + 1);
  values.beta = random_values(shape.c, seed + 2);
  values.d_y = random_values(shape.elements(), seed + 3);
  return by_definition(std::move(values));
}

/// Fewer channels than a block has lanes, whole blocks, parts of one; pixels that are taken at once
/// and some more; rows of one vector, of a warp's and of more; more rows than a block of threads.
inline std::vector<Shape> shapes() {
  return {{2, 2, 3, 3},  {3, 7, 1, 1},  {2, 16, 4, 3},  {1, 24, 5, 5},
          {2, 40, 3, 7}, {1, 96, 9, 8}, {2, 300, 2, 2}, {3, 8, 30, 40}};
}

inline std::vector<Values> golden() {
  std::vector<Values> all;
  const GoldenFile file = load_golden("layer_norm.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto tensor = [&](const char* of) { return file.at(name + "/" + of).values; };
    Values values;
    values.shape = golden_shape(file.at(name + "/x"));
    values.epsilon = tensor("epsilon")[0];
    values.x = tensor("x");
    values.gamma = tensor("gamma");
    values.beta = tensor("beta");
    values.d_y = tensor("d_y");
    values.y = to_double(tensor("y"));
    values.d_x = to_double(tensor("d_x"));
    values.d_gamma = to_double(tensor("d_gamma"));
    values.d_beta = to_double(tensor("d_beta"));
    // The saved mean is float32: rounding it to 6e-8 of 1000 moves a standard deviation of 1 to 2,
    // and with it every result, by up to 4e-5.
    values.of_y = values.of_d_x = name == "far_mean" ? Tolerance{8e-5, 1e-7} : usual;
    all.push_back(std::move(values));
  }
  return all;
}

}  // namespace stpt::testing::layer_norm
