#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "codelets/elementwise.hpp"
#include "tests/codelets/cuda_testing.hpp"
#include "tests/codelets/elementwise_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::ActivationBackward;
using codelets::ActivationForward;
using codelets::Add;
using codelets::AffineMap;
using codelets::Product;
using codelets::ReluBackward;
using codelets::ReluForward;

namespace {

/// One value, whole vectors, a rest, more than a block.
constexpr std::array shapes = {Shape{1, 1, 1, 1}, Shape{1, 16, 4, 4}, Shape{3, 7, 1, 1},
                               Shape{2, 19, 9, 5}};

std::vector<float> relu(std::vector<float> values) {
  for (float& value : values) value = value < 0 ? 0 : value;
  return values;
}

}  // namespace

TEST_CASE("ReLU on a GPU", "[cuda][elementwise]") {
  NEEDS_GPUS(1);
  for (const DataType type : cuda_types) {
    for (const Shape& shape : shapes) {
      for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
        const TensorSpec spec{shape, type, layout};
        const std::vector<float> x = values_of(spec, 1);
        const std::vector<float> d_y = values_of(spec, 2);
        DeviceTensor src(spec, x), y(spec);
        const auto forward = plan(ReluForward{spec}, Cuda{});
        run_on_gpu(*forward, {&src, &y}, {&y});
        require_tensor("y", y, relu(x), exactly);
        run_on_gpu(*forward, {&src, &src}, {&src});
        require_tensor("y in place", src, relu(x), exactly);

        std::vector<float> expected = d_y;
        for (std::size_t i = 0; i < x.size(); ++i)
          if (!(x[i] > 0)) expected[i] = 0;
        DeviceTensor gradient(spec, d_y), d_x(spec);
        const auto backward = plan(ReluBackward{spec}, Cuda{});
        run_on_gpu(*backward, {&y, &gradient, &d_x}, {&d_x});
        require_tensor("d_x", d_x, expected, exactly);
        run_on_gpu(*backward, {&y, &gradient, &gradient}, {&gradient});
        require_tensor("d_x in place", gradient, expected, exactly);
      }
    }
  }
}

TEST_CASE("Addition on a GPU, also in place", "[cuda][elementwise]") {
  NEEDS_GPUS(1);
  for (const DataType type : cuda_types) {
    for (const Shape& shape : shapes) {
      for (const bool with_relu : {false, true}) {
        const TensorSpec spec{shape, type, Layout::nhwc};
        const std::vector<float> a = values_of(spec, 5), b = values_of(spec, 6);
        // A sum in float, rounded once: equal, not close.
        std::vector<float> expected = a;
        for (std::size_t i = 0; i < a.size(); ++i) expected[i] += b[i];
        if (with_relu) expected = relu(expected);
        expected = rounded(type, expected);
        const auto kernel = plan(Add{spec, with_relu}, Cuda{});
        DeviceTensor left(spec, a), right(spec, b), y(spec);
        run_on_gpu(*kernel, {&left, &right, &y}, {&y});
        require_tensor("y", y, expected, exactly);
        run_on_gpu(*kernel, {&left, &right, &left}, {&left});
        require_tensor("y over a", left, expected, exactly);
        left.set(a);
        run_on_gpu(*kernel, {&left, &right, &right}, {&right});
        require_tensor("y over b", right, expected, exactly);
      }
    }
  }
}

TEST_CASE("Products and affine functions on a GPU, also in place", "[cuda][elementwise]") {
  NEEDS_GPUS(1);
  for (const DataType type : cuda_types) {
    for (const Shape& shape : shapes) {
      const TensorSpec spec{shape, type, Layout::nhwc};
      const std::vector<float> a = values_of(spec, 7), b = values_of(spec, 8);
      std::vector<float> product = a;
      std::vector<double> affine;
      for (std::size_t i = 0; i < a.size(); ++i) {
        product[i] *= b[i];
        affine.push_back(-1.5 * static_cast<double>(a[i]) + 0.25);
      }
      DeviceTensor left(spec, a), right(spec, b), y(spec);
      const auto times = plan(Product{spec}, Cuda{});
      run_on_gpu(*times, {&left, &right, &y}, {&y});
      require_tensor("product", y, rounded(type, product), exactly);
      run_on_gpu(*times, {&left, &right, &right}, {&right});
      require_tensor("product over b", right, rounded(type, product), exactly);
      // In float32 the product may be rounded before the sum, of numbers below 2.
      const Tolerance roundings = with_rounding(type, {0, 0x1p-23});
      const auto straight = plan(AffineMap{spec, -1.5f, 0.25f}, Cuda{});
      run_on_gpu(*straight, {&left, &y}, {&y});
      require_tensor("affine", y, affine, roundings);
      run_on_gpu(*straight, {&left, &left}, {&left});
      require_tensor("affine in place", left, affine, roundings);
    }
  }
}

TEST_CASE("Activations on a GPU agree with PyTorch", "[cuda][elementwise][golden]") {
  NEEDS_GPUS(1);
  for (const auto& [function, spec, x, y, d_y, d_x] : golden_activations()) {
    INFO(to_string(function));
    DeviceTensor src(spec, x), dst(spec), gradient(spec, d_y), d_src(spec);
    run_on_gpu(*plan(ActivationForward{spec, function}, Cuda{}), {&src, &dst}, {&dst});
    require_tensor("y", dst, y, activation_tolerance);
    run_on_gpu(*plan(ActivationBackward{spec, function}, Cuda{}), {&src, &gradient, &d_src},
               {&d_src});
    require_tensor("d_x", d_src, d_x, activation_tolerance);
  }
}

TEST_CASE("Activations on a GPU are those on cores", "[cuda][elementwise]") {
  NEEDS_GPUS(1);
  constexpr float slope = 0.2f;
  for (const auto& [function, name] : codelets::named_activations) {
    for (const DataType type : cuda_types) {
      for (const Shape& shape : shapes) {
        INFO(name);
        const TensorSpec spec{shape, type, Layout::nhwc}, on_cores = spec_of(shape);
        std::vector<float> x = values_of(spec, 1);
        for (float& value : x) value *= 8;
        const std::vector<float> d_y = rounded(type, random_values(shape.elements(), 2));
        Tensor src(on_cores, x), y(on_cores), gradient(on_cores, d_y), d_x(on_cores);
        run_kernel(*plan(ActivationForward{on_cores, function, slope}, codelets::Cpu{}),
                   {src.pointer(), y.pointer()});
        // A NaN's gradient may be anything, and mish's of infinities.
        std::vector<float> numbers = x;
        const bool is_mish = function == codelets::Activation::mish;
        std::ranges::replace_if(
            numbers,
            [is_mish](float value) { return std::isnan(value) || (is_mish && std::isinf(value)); },
            3.0f);
        src.set(numbers);
        run_kernel(*plan(ActivationBackward{on_cores, function, slope}, codelets::Cpu{}),
                   {src.pointer(), gradient.pointer(), d_x.pointer()});

        const Tolerance tolerance = with_rounding(type, activation_tolerance);
        DeviceTensor gpu_x(spec, x), gpu_y(spec);
        const auto forward = plan(ActivationForward{spec, function, slope}, Cuda{});
        run_on_gpu(*forward, {&gpu_x, &gpu_y}, {&gpu_y});
        require_tensor("y", gpu_y, y.values(), tolerance);
        DeviceTensor in_place(spec, x);
        run_on_gpu(*forward, {&in_place, &in_place}, {&in_place});
        require_tensor("y in place", in_place, gpu_y.values(), exactly);

        DeviceTensor gpu_gradient(spec, d_y), gpu_d_x(spec);
        const auto backward = plan(ActivationBackward{spec, function, slope}, Cuda{});
        gpu_x.set(numbers);
        run_on_gpu(*backward, {&gpu_x, &gpu_gradient, &gpu_d_x}, {&gpu_d_x});
        require_tensor("d_x", gpu_d_x, d_x.values(), tolerance);
        run_on_gpu(*backward, {&gpu_x, &gpu_gradient, &gpu_gradient}, {&gpu_gradient});
        require_tensor("d_x in place", gpu_gradient, gpu_d_x.values(), exactly);
      }
    }
  }
}

TEST_CASE("Elementwise ops on a GPU take more than a grid has threads for", "[cuda][elementwise]") {
  NEEDS_GPUS(1);
  // 4096 blocks of 256 threads with 8 values each, and some more.
  const TensorSpec large{{1, 3, 1700, 1650}, DataType::float16, Layout::nchw};
  const std::vector<float> values = counted_values(large);
  DeviceTensor src(large, values), y(large);
  run_on_gpu(*plan(ReluForward{large}, Cuda{}), {&src, &y}, {&y});
  require_tensor("y", y, relu(values), exactly);
}

TEST_CASE("Elementwise ops on a GPU say what they cannot plan", "[cuda][elementwise]") {
  const TensorSpec blocked = spec_of({2, 3, 4, 5}, Layout::nchw8c);
  require_complaint([&] { (void)plan(ReluForward{blocked}, Cuda{}); },
                    {"ReluForward 2x3x4x5 float32 nchw8c", "nchw or nhwc"});
  const TensorSpec bytes{{2, 3, 4, 5}, DataType::uint8, Layout::nhwc};
  require_complaint([&] { (void)plan(ReluBackward{bytes}, Cuda{}); },
                    {"ReluBackward 2x3x4x5 uint8 nhwc", "float32, bfloat16 or float16"});
  require_complaint([&] { (void)plan(Add{bytes}, Cuda{}); }, {"Add 2x3x4x5 uint8 nhwc"});
  const ActivationForward silu{blocked, Activation::silu};
  require_complaint([&] { (void)plan(silu, Cuda{}); },
                    {"silu forward 2x3x4x5 float32 nchw8c", "nchw or nhwc"});
  const ActivationBackward tanh{bytes, Activation::tanh};
  require_complaint([&] { (void)plan(tanh, Cuda{}); },
                    {"tanh backward 2x3x4x5 uint8 nhwc", "float32, bfloat16 or float16"});
  for (const Shape& shape :
       {Shape{-2, 3, 4, 5}, Shape{2, -3, 4, 5}, Shape{2, 3, -4, 5}, Shape{2, 3, 4, -5}}) {
    require_complaint([&] { (void)plan(ReluForward{spec_of(shape)}, Cuda{}); },
                      {"no dimension may be negative"});
  }
}
