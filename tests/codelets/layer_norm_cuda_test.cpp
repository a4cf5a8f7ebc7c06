#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "tests/codelets/cuda_testing.hpp"
#include "tests/codelets/layer_norm_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::layer_norm;
using codelets::LayerNorm;
using codelets::LayerNormBackward;
using codelets::LayerNormForward;

namespace {

void check(const Values& values, DataType type) {
  const LayerNorm norm{{values.shape, type, Layout::nhwc}, values.epsilon};
  INFO(norm.x.to_string());
  const TensorSpec vector = DeviceTensor::vector_of(values.shape.c);
  const TensorSpec pixels = DeviceTensor::vector_of(values.shape.n * values.shape.spatial());
  DeviceTensor x(norm.x, values.x), gamma(values.gamma), beta(values.beta), y(norm.x), mean(pixels),
      inverse_stddev(pixels);
  run_on_gpu(*plan(LayerNormForward{norm}, Cuda{}), {&x, &gamma, &beta, &y, &mean, &inverse_stddev},
             {&y, &mean, &inverse_stddev});
  require_tensor("y", y, values.y, with_rounding(type, values.of_y));

  DeviceTensor d_y(norm.x, values.d_y), d_x(norm.x), d_gamma(vector), d_beta(vector);
  const auto backward = plan(LayerNormBackward{norm}, Cuda{});
  run_on_gpu(*backward, {&x, &gamma, &mean, &inverse_stddev, &d_y, &d_x, &d_gamma, &d_beta},
             {&d_x, &d_gamma, &d_beta});
  require_tensor("d_x", d_x, values.d_x, with_rounding(type, values.of_d_x));
  require_close("d_gamma", d_gamma.values(), values.d_gamma, values.of_y);
  require_close("d_beta", d_beta.values(), values.d_beta, usual);
  run_on_gpu(*backward, {&x, &gamma, &mean, &inverse_stddev, &d_y, &d_y, &d_gamma, &d_beta},
             {&d_y, &d_gamma, &d_beta});
  REQUIRE(d_y.values() == d_x.values());
}

}  // namespace

TEST_CASE("layer norm on a GPU agrees with its definition in double", "[cuda][layer_norm]") {
  NEEDS_GPUS(1);
  unsigned seed = 1;
  for (const Shape& shape : shapes()) {
    for (const DataType type : cuda_types) {
      // Values that the type has, and what is right for these.
      Values values = values_of(shape, seed += 4);
      for (auto* some : {&values.x, &values.d_y}) *some = rounded(type, *some);
      check(by_definition(std::move(values)), type);
    }
  }
}

TEST_CASE("layer norm on a GPU agrees with PyTorch", "[cuda][layer_norm][golden]") {
  NEEDS_GPUS(1);
  for (const Values& values : golden()) check(values, DataType::float32);
}

TEST_CASE("layer norm on a GPU keeps a NaN in its pixel", "[cuda][layer_norm]") {
  NEEDS_GPUS(1);
  Values values = values_of(Shape{2, 18, 3, 3}, 80);
  values.x[9 * 4 + 2] = std::numeric_limits<float>::quiet_NaN();  // pixel 2 of image 0
  const LayerNorm norm{{values.shape, DataType::float32, Layout::nhwc}};
  DeviceTensor x(norm.x, values.x), gamma(values.gamma), beta(values.beta), y(norm.x),
      mean(DeviceTensor::vector_of(18)), inverse_stddev(DeviceTensor::vector_of(18));
  run_on_gpu(*plan(LayerNormForward{norm}, Cuda{}), {&x, &gamma, &beta, &y, &mean, &inverse_stddev},
             {&y, &mean, &inverse_stddev});
  const std::vector<float> results = y.values();
  for (std::size_t i = 0; i < results.size(); ++i) {
    INFO(i);
    REQUIRE(std::isnan(results[i]) == (i < 18 * 9 && i % 9 == 2));
  }
}

TEST_CASE("layer norm on a GPU is in nhwc", "[cuda][layer_norm]") {
  const LayerNorm norm{spec_of({2, 4, 4, 5})};
  require_complaint([&] { (void)plan(LayerNormForward{norm}, Cuda{}); },
                    {"LayerNormForward 2x4x4x5 float32 nchw", "must be nhwc"});
  require_complaint([&] { (void)plan(LayerNormBackward{norm}, Cuda{}); },
                    {"LayerNormBackward 2x4x4x5 float32 nchw", "must be nhwc"});
}
