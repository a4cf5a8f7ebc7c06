#include "codelets/elementwise.hpp"

#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/codelets/elementwise_testing.hpp"
#include "tests/codelets/kernel_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::ActivationBackward;
using codelets::ActivationForward;
using codelets::Add;
using codelets::AffineMap;
using codelets::Cpu;
using codelets::Product;
using codelets::ReluBackward;
using codelets::ReluForward;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// Around the blocks and the vectors, and a batch of one.
constexpr std::array shapes = {Shape{2, 19, 3, 5}, Shape{1, 16, 4, 4}, Shape{1, 1, 1, 1},
                               Shape{3, 7, 1, 1}};

// None of these ops rounds more than once, so results are compared exactly.
constexpr Tolerance exact{0, 0};

std::vector<float> relu(std::vector<float> values) {
  for (float& value : values) value = value > 0 ? value : 0;
  return values;
}

std::string message_of(const auto& op) {
  try {
    (void)plan(op, Cpu{});
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("ReLU forward and backward", "[elementwise]") {
  for (const Shape& shape : shapes) {
    for (const Layout layout : all_layouts) {
      const TensorSpec spec = spec_of(shape, layout);
      const std::vector<float> x = random_values(shape.elements(), 1);
      Tensor src(spec, x), y(spec);
      run_kernel(*plan(ReluForward{spec}, Cpu{}), {src.pointer(), y.pointer()});
      require_tensor("y", y, relu(x), exact);
      run_kernel(*plan(ReluForward{spec}, Cpu{}), {src.pointer(), src.pointer()});
      require_tensor("y in place", src, relu(x), exact);

      const std::vector<float> d_y = random_values(shape.elements(), 2);
      std::vector<float> expected = d_y;
      for (std::size_t i = 0; i < x.size(); ++i)
        if (!(x[i] > 0)) expected[i] = 0;
      Tensor gradient(spec, d_y), d_x(spec);
      const auto backward = plan(ReluBackward{spec}, Cpu{});
      run_kernel(*backward, {y.pointer(), gradient.pointer(), d_x.pointer()});
      require_tensor("d_x", d_x, expected, exact);
      run_kernel(*backward, {y.pointer(), gradient.pointer(), gradient.pointer()});
      require_tensor("d_x in place", gradient, expected, exact);
    }
  }
}

TEST_CASE("ReLU's gradient is that of its definition", "[elementwise]") {
  const TensorSpec spec = spec_of({2, 9, 3, 3}, Layout::nchw8c);
  const std::vector<float> x = spaced_values(spec.shape.elements(), 3, 0.01f);
  const std::vector<float> d_y = random_values(spec.shape.elements(), 4);
  const auto forward = plan(ReluForward{spec}, Cpu{});
  Tensor src(spec), y(spec), gradient(spec, d_y), d_x(spec);
  const auto value = [&](std::span<const float> point) {
    src.set(point);
    y.poison();
    run_kernel(*forward, {src.pointer(), y.pointer()});
    return functional(d_y, y.values());
  };
  value(x);
  run_kernel(*plan(ReluBackward{spec}, Cpu{}), {y.pointer(), gradient.pointer(), d_x.pointer()});
  // Piecewise linear, and no value within the step of the kink: only rounding (about 1e-8) remains.
  require_gradient("ReLU", value, x, d_x.values(), 0.004f, {0, 1e-6});
}

TEST_CASE("ReLU of special values", "[elementwise]") {
  const TensorSpec spec = spec_of({1, 40, 1, 1});  // vectors and a rest
  std::vector<float> x(40), expected(40);
  const std::vector<float> cases = {not_a_number, infinity, -infinity, -0.0f, 1e-45f, -1e-45f};
  const std::vector<float> results = {not_a_number, infinity, 0, 0, 1e-45f, 0};
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = cases[i % cases.size()];
    expected[i] = results[i % cases.size()];
  }
  Tensor src(spec, x), y(spec);
  run_kernel(*plan(ReluForward{spec}, Cpu{}), {src.pointer(), y.pointer()});
  for (std::size_t i = 0; i < x.size(); ++i) {
    INFO(i);
    REQUIRE(
        (y.values()[i] == expected[i] || (std::isnan(y.values()[i]) && std::isnan(expected[i]))));
  }
  // A NaN passes no gradient.
  Tensor d_y(spec, std::vector<float>(40, 1.0f)), d_x(spec);
  run_kernel(*plan(ReluBackward{spec}, Cpu{}), {y.pointer(), d_y.pointer(), d_x.pointer()});
  for (std::size_t i = 0; i < x.size(); ++i)
    REQUIRE(d_x.values()[i] == (expected[i] > 0 ? 1.0f : 0.0f));
}

TEST_CASE("Addition, also in place", "[elementwise]") {
  for (const Shape& shape : shapes) {
    for (const Layout layout : all_layouts) {
      for (const bool with_relu : {false, true}) {
        const TensorSpec spec = spec_of(shape, layout);
        const std::vector<float> a = random_values(shape.elements(), 5);
        const std::vector<float> b = random_values(shape.elements(), 6);
        std::vector<float> expected = a;
        for (std::size_t i = 0; i < a.size(); ++i) expected[i] += b[i];
        if (with_relu) expected = relu(expected);
        const auto kernel = plan(Add{spec, with_relu}, Cpu{});
        Tensor left(spec, a), right(spec, b), y(spec);
        run_kernel(*kernel, {left.pointer(), right.pointer(), y.pointer()});
        require_tensor("y", y, expected, exact);
        run_kernel(*kernel, {left.pointer(), right.pointer(), left.pointer()});
        require_tensor("y over a", left, expected, exact);
        left.set(a);
        run_kernel(*kernel, {left.pointer(), right.pointer(), right.pointer()});
        require_tensor("y over b", right, expected, exact);
      }
    }
  }
}

TEST_CASE("Products, also in place", "[elementwise]") {
  for (const Shape& shape : shapes) {
    for (const Layout layout : all_layouts) {
      const TensorSpec spec = spec_of(shape, layout);
      const std::vector<float> a = random_values(shape.elements(), 7);
      const std::vector<float> b = random_values(shape.elements(), 8);
      std::vector<float> expected = a;
      for (std::size_t i = 0; i < a.size(); ++i) expected[i] *= b[i];
      const auto kernel = plan(Product{spec}, Cpu{});
      Tensor left(spec, a), right(spec, b), y(spec);
      run_kernel(*kernel, {left.pointer(), right.pointer(), y.pointer()});
      require_tensor("y", y, expected, exact);
      run_kernel(*kernel, {left.pointer(), right.pointer(), right.pointer()});
      require_tensor("y over b", right, expected, exact);
      run_kernel(*kernel, {left.pointer(), left.pointer(), left.pointer()});
      for (std::size_t i = 0; i < a.size(); ++i) expected[i] = a[i] * a[i];
      require_tensor("square in place", left, expected, exact);
    }
  }
}

TEST_CASE("Affine functions, also in place", "[elementwise]") {
  for (const Shape& shape : shapes) {
    for (const Layout layout : all_layouts) {
      const TensorSpec spec = spec_of(shape, layout);
      const std::vector<float> values = random_values(shape.elements(), 9);
      std::vector<double> expected;
      for (const float value : values) expected.push_back(-1.5 * static_cast<double>(value) + 0.25);
      const auto kernel = plan(AffineMap{spec, -1.5f, 0.25f}, Cpu{});
      // The product may be rounded before the sum, of numbers below 2.
      const Tolerance roundings{0, 0x1p-23};
      Tensor x(spec, values), y(spec);
      run_kernel(*kernel, {x.pointer(), y.pointer()});
      require_tensor("y", y, expected, roundings);
      run_kernel(*kernel, {x.pointer(), x.pointer()});
      require_tensor("y in place", x, expected, roundings);
    }
  }
}

TEST_CASE("Activations are those of their definitions", "[elementwise]") {
  for (const auto& [function, name] : codelets::named_activations) {
    for (const Shape& shape : shapes) {
      for (const Layout layout : all_layouts) {
        INFO(name);
        const TensorSpec spec = spec_of(shape, layout);
        constexpr float slope = 0.2f;
        const auto forward = plan(ActivationForward{spec, function, slope}, Cpu{});
        const auto backward = plan(ActivationBackward{spec, function, slope}, Cpu{});
        const std::vector<float> x = random_values(shape.elements(), 1, -8, 8);
        const std::vector<float> d_y = random_values(shape.elements(), 2);
        std::vector<double> expected, expected_d_x;
        for (std::size_t i = 0; i < x.size(); ++i) {
          const double at = double{x[i]}, step = 1e-5;
          const double above = activate(function, double{slope}, at + step);
          const double below = activate(function, double{slope}, at - step);
          expected.push_back(activate(function, double{slope}, at));
          expected_d_x.push_back((above - below) / (2 * step) * double{d_y[i]});
        }
        Tensor src(spec, x), y(spec);
        run_kernel(*forward, {src.pointer(), y.pointer()});
        require_tensor("y", y, expected, activation_tolerance);
        Tensor in_place(spec, x);
        run_kernel(*forward, {in_place.pointer(), in_place.pointer()});
        require_tensor("y in place", in_place, y.values(), exact);

        Tensor gradient(spec, d_y), d_x(spec);
        run_kernel(*backward, {src.pointer(), gradient.pointer(), d_x.pointer()});
        require_tensor("d_x", d_x, expected_d_x, activation_tolerance);
        run_kernel(*backward, {src.pointer(), gradient.pointer(), gradient.pointer()});
        require_tensor("d_x in place", gradient, d_x.values(), exact);
      }
    }
  }
}

TEST_CASE("Activations agree with PyTorch, also at kinks and infinities", "[elementwise][golden]") {
  for (const auto& [function, spec, x, y, d_y, d_x] : golden_activations()) {
    INFO(to_string(function));
    Tensor src(spec, x), dst(spec), gradient(spec, d_y), d_src(spec);
    run_kernel(*plan(ActivationForward{spec, function}, Cpu{}), {src.pointer(), dst.pointer()});
    require_tensor("y", dst, y, activation_tolerance);
    run_kernel(*plan(ActivationBackward{spec, function}, Cpu{}),
               {src.pointer(), gradient.pointer(), d_src.pointer()});
    require_tensor("d_x", d_src, d_x, activation_tolerance);
  }
}

TEST_CASE("A value's activation depends on nothing else", "[elementwise]") {
  // Any part of vectors and a rest, where others are NaN.
  const std::vector<float> values = random_values(67, 9, -8, 8), d_ys = random_values(67, 10);
  for (const auto& [function, name] : codelets::named_activations) {
    INFO(name);
    const auto compute = [f = function](std::span<const float> x, std::span<const float> d_y) {
      const TensorSpec spec = spec_of({1, std::ssize(x), 1, 1});
      Tensor src(spec, x), y(spec), gradient(spec, d_y), d_x(spec);
      run_kernel(*plan(ActivationForward{spec, f}, Cpu{}), {src.pointer(), y.pointer()});
      run_kernel(*plan(ActivationBackward{spec, f}, Cpu{}),
                 {src.pointer(), gradient.pointer(), d_x.pointer()});
      return std::pair{y.values(), d_x.values()};
    };
    const auto [y, d_x] = compute(values, d_ys);
    for (std::size_t first = 0; first < values.size(); first += 5) {
      std::vector<float> rest(values.begin() + static_cast<std::ptrdiff_t>(first), values.end());
      for (std::size_t i = 1; i < rest.size(); i += 3) rest[i] = not_a_number;
      const auto [of_rest, d_rest] = compute(rest, std::span(d_ys).subspan(first));
      for (std::size_t i = 0; i < rest.size(); ++i) {
        INFO(first << " + " << i);
        if (i % 3 == 1) {
          REQUIRE(std::isnan(of_rest[i]));
        } else {
          REQUIRE(of_rest[i] == y[first + i]);
          REQUIRE(d_rest[i] == d_x[first + i]);
        }
      }
    }
  }
}

TEST_CASE("Activations of nothing", "[elementwise]") {
  for (const auto& [function, name] : codelets::named_activations) {
    for (const Layout layout : all_layouts) {
      const TensorSpec spec = spec_of({0, 5, 3, 3}, layout);
      Tensor x(spec), y(spec);
      run_kernel(*plan(ActivationForward{spec, function}, Cpu{}), {x.pointer(), y.pointer()});
      REQUIRE(y.guard_intact());
    }
  }
}

TEST_CASE("Elementwise ops say what they cannot plan", "[elementwise]") {
  TensorSpec spec = spec_of({2, 3, 4, 5}, Layout::nchw8c);
  spec.type = DataType::float16;
  const auto requires_parts = [](const std::string& message, const std::string& op) {
    INFO(message);
    for (const std::string& part :
         {op, std::string("2x3x4x5 float16 nchw8c"), std::string("float32")})
      REQUIRE(message.find(part) != std::string::npos);
  };
  requires_parts(message_of(ReluForward{spec}), "ReluForward");
  requires_parts(message_of(ReluBackward{spec}), "ReluBackward");
  requires_parts(message_of(Add{spec}), "Add");
  requires_parts(message_of(Product{spec}), "Product");
  requires_parts(message_of(AffineMap{spec}), "AffineMap");
  for (const auto& [function, name] : codelets::named_activations) {
    requires_parts(message_of(ActivationForward{spec, function}), std::string(name) + " forward");
    requires_parts(message_of(ActivationBackward{spec, function}), std::string(name) + " backward");
  }
  REQUIRE(message_of(Add{spec_of({2, 3, 4, 5}, Layout::any)}).find("layout") != std::string::npos);
}
