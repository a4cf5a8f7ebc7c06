#include "codelets/multiply.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "tests/codelets/multiply_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::multiply;
using codelets::Cpu;
using codelets::MultiplyBackward;
using codelets::MultiplyForward;

namespace {

void check(const Values& values, Layout layout) {
  const TensorSpec spec = spec_of(values.shape, layout);
  const TensorSpec factors_spec = codelets::multiply_factors(spec);
  INFO(spec.to_string());
  Tensor x(spec, values.x), factors(factors_spec, values.factors), y(spec);
  const auto forward = plan(MultiplyForward{spec}, Cpu{});
  run_kernel(*forward, {x.pointer(), factors.pointer(), y.pointer()});
  require_tensor("y", y, values.y, products);

  const auto backward = plan(MultiplyBackward{spec}, Cpu{});
  Tensor d_y(spec, values.d_y), d_x(spec), d_factors(factors_spec);
  run_kernel(*backward,
             {x.pointer(), factors.pointer(), d_y.pointer(), d_x.pointer(), d_factors.pointer()});
  require_tensor("d_x", d_x, values.d_x, products);
  require_tensor("d_factors", d_factors, values.d_factors, sums);
  d_factors.poison();
  run_kernel(*backward,
             {x.pointer(), factors.pointer(), d_y.pointer(), nullptr, d_factors.pointer()});
  require_tensor("d_factors alone", d_factors, values.d_factors, sums);
  run_kernel(*backward,
             {x.pointer(), factors.pointer(), d_y.pointer(), d_y.pointer(), d_factors.pointer()});
  require_tensor("d_x over d_y", d_y, values.d_x, products);
  run_kernel(*forward, {x.pointer(), factors.pointer(), x.pointer()});
  require_tensor("y over x", x, values.y, products);
}

}  // namespace

TEST_CASE("multiplied channels agree with their definition in every layout", "[multiply]") {
  unsigned seed = 1;
  for (const Shape& shape : shapes()) {
    const Values values = values_of(shape, seed += 3);
    for (const Layout layout : all_layouts) check(values, layout);
  }
}

TEST_CASE("multiplied channels agree with PyTorch", "[multiply][golden]") {
  for (const Values& values : golden()) {
    for (const Layout layout : all_layouts) check(values, layout);
  }
}

TEST_CASE("multiplied channels' gradients are those of their definition", "[multiply]") {
  const Values values = values_of({2, 9, 3, 2}, 5);
  const TensorSpec spec = spec_of(values.shape, Layout::nchw8c);
  const TensorSpec factors_spec = codelets::multiply_factors(spec);
  Tensor x(spec, values.x), factors(factors_spec, values.factors), y(spec);
  Tensor d_y(spec, values.d_y), d_x(spec), d_factors(factors_spec);
  const auto forward = plan(MultiplyForward{spec}, Cpu{});
  run_kernel(*plan(MultiplyBackward{spec}, Cpu{}),
             {x.pointer(), factors.pointer(), d_y.pointer(), d_x.pointer(), d_factors.pointer()});
  const auto value_at = [&](Tensor& tensor) {
    return [&](std::span<const float> point) {
      tensor.set(point);
      run_kernel(*forward, {x.pointer(), factors.pointer(), y.pointer()});
      return functional(values.d_y, y.values());
    };
  };
  // Linear in each: only rounding remains, of differences of 0.01 by 2^-24.
  const Tolerance rounding{0, 1e-4};
  require_gradient("x", value_at(x), values.x, d_x.values(), 0.01f, rounding);
  x.set(values.x);
  require_gradient("factors", value_at(factors), values.factors, d_factors.values(), 0.01f,
                   rounding);
}

TEST_CASE("a NaN passes through multiplied channels", "[multiply]") {
  constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
  const TensorSpec spec = spec_of({1, 2, 1, 2});
  Tensor x(spec, std::vector<float>{not_a_number, 1, 1, 1}), y(spec);
  Tensor factors(codelets::multiply_factors(spec), std::vector<float>{0, not_a_number});
  run_kernel(*plan(MultiplyForward{spec}, Cpu{}), {x.pointer(), factors.pointer(), y.pointer()});
  CHECK(std::isnan(y.values()[0]));
  CHECK(y.values()[1] == 0);
  CHECK(std::isnan(y.values()[2]));
  CHECK(std::isnan(y.values()[3]));
}

TEST_CASE("Multiply says what it cannot plan", "[multiply]") {
  TensorSpec spec = spec_of({2, 3, 4, 5}, Layout::any);
  require_complaint([&] { (void)plan(MultiplyForward{spec}, Cpu{}); },
                    {"MultiplyForward 2x3x4x5", "layout must be chosen"});
  spec.type = DataType::bfloat16;
  require_complaint([&] { (void)plan(MultiplyBackward{spec}, Cpu{}); },
                    {"MultiplyBackward 2x3x4x5", "float32 only"});
}
