#include <vector>

#include "codelets/multiply.hpp"
#include "tests/codelets/cuda_testing.hpp"
#include "tests/codelets/multiply_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::multiply;
using codelets::MultiplyBackward;
using codelets::MultiplyForward;

namespace {

void check(Values values, DataType type) {
  const TensorSpec spec{values.shape, type, Layout::nhwc};
  const TensorSpec factors_spec = codelets::multiply_factors(spec);
  INFO(spec.to_string());
  DeviceTensor x(spec, values.x), factors(factors_spec, values.factors), y(spec);
  const auto forward = plan(MultiplyForward{spec}, Cuda{});
  run_on_gpu(*forward, {&x, &factors, &y}, {&y});
  require_tensor("y", y, values.y, with_rounding(type, products));

  const auto backward = plan(MultiplyBackward{spec}, Cuda{});
  DeviceTensor d_y(spec, values.d_y), d_x(spec), d_factors(factors_spec);
  run_on_gpu(*backward, {&x, &factors, &d_y, &d_x, &d_factors}, {&d_x, &d_factors});
  require_tensor("d_x", d_x, values.d_x, with_rounding(type, products));
  require_tensor("d_factors", d_factors, values.d_factors, with_rounding(type, sums));
  run_on_gpu(*backward, {&x, &factors, &d_y, nullptr, &d_factors}, {&d_factors});
  require_tensor("d_factors alone", d_factors, values.d_factors, with_rounding(type, sums));
  run_on_gpu(*backward, {&x, &factors, &d_y, &d_y, &d_factors}, {&d_y, &d_factors});
  require_tensor("d_x over d_y", d_y, values.d_x, with_rounding(type, products));
  run_on_gpu(*forward, {&x, &factors, &x}, {&x});
  require_tensor("y over x", x, values.y, with_rounding(type, products));
}

}  // namespace

TEST_CASE("multiplied channels on a GPU agree with their definition", "[cuda][multiply]") {
  NEEDS_GPUS(1);
  unsigned seed = 1;
  for (const Shape& shape : shapes()) {
    for (const DataType type : cuda_types) {
      // Values that the type has, and what is right for these.
      Values values = values_of(shape, seed += 3);
      for (auto* some : {&values.x, &values.factors, &values.d_y}) *some = rounded(type, *some);
      check(by_definition(values), type);
    }
  }
}

TEST_CASE("multiplied channels on a GPU agree with PyTorch", "[cuda][multiply][golden]") {
  NEEDS_GPUS(1);
  for (const Values& values : golden()) check(values, DataType::float32);
}

TEST_CASE("multiplied channels on a GPU are in nhwc", "[cuda][multiply]") {
  const TensorSpec spec = spec_of({2, 3, 4, 5});
  require_complaint([&] { (void)plan(MultiplyForward{spec}, Cuda{}); },
                    {"MultiplyForward 2x3x4x5 float32 nchw", "must be nhwc"});
  require_complaint([&] { (void)plan(MultiplyBackward{spec}, Cuda{}); },
                    {"MultiplyBackward 2x3x4x5 float32 nchw", "must be nhwc"});
}

TEST_CASE("multiplied channels on a GPU are of a limited number of images", "[cuda][multiply]") {
  const TensorSpec spec = spec_of({65536, 1, 1, 1}, Layout::nhwc);
  require_complaint([&] { (void)plan(MultiplyForward{spec}, Cuda{}); },
                    {"MultiplyForward 65536x1x1x1", "at most 65535 images on CUDA"});
}
