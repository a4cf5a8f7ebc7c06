#include "codelets/reorder.hpp"

#include <span>
#include <string>
#include <vector>

#include "runtime/tensor.hpp"
#include "tests/codelets/kernel_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::Reorder;
using codelets::Reorders;

TEST_CASE("reorder keeps the values in every pair of layouts", "[reorder]") {
  for (const Shape shape : {Shape{2, 3, 5, 7}, Shape{1, 16, 4, 4}, Shape{3, 17, 1, 1},
                            Shape{2, 1, 6, 5}, Shape{1, 40, 3, 2}}) {
    const auto values = random_values(shape.elements(), 1);
    for (const Layout from : all_layouts) {
      for (const Layout to : all_layouts) {
        Tensor src(spec_of(shape, from), values), dst(spec_of(shape, to));
        INFO(src.spec().to_string() << " -> " << dst.spec().to_string());
        const auto kernel = codelets::plan(Reorder{src.spec(), dst.spec()}, Cpu{});
        run_kernel(*kernel, {src.pointer(), dst.pointer()});
        REQUIRE(same_bits(dst.values(), values));
        REQUIRE(dst.padding_is_zero());
        REQUIRE(dst.guard_intact());
      }
    }
  }
}

TEST_CASE("several reorders are each of them", "[reorder]") {
  const TensorSpec a = spec_of({4, 3, 5, 5}), b = spec_of({2, 7, 3, 1});
  const TensorSpec a_to = spec_of(a.shape, Layout::nhwc), b_to = spec_of(b.shape, Layout::nhwc);
  const auto a_values = random_values(a.shape.elements(), 1);
  const auto b_values = random_values(b.shape.elements(), 2);
  // Of two sources, to one destination in which b lies before a.
  const std::size_t b_size = runtime::align_up(b.bytes()) / sizeof(float);
  Flat a_src(a_values), b_src(b_values);
  Flat dst(static_cast<std::int64_t>(b_size) + a.shape.elements());
  const Reorders op{
      2, 1, {{{a, a_to}, {0, 0}, {0, b_size * sizeof(float)}}, {{b, b_to}, {1, 0}, {}}}};
  run_kernel(*codelets::plan(op, Cpu{}), {a_src.pointer(), b_src.pointer(), dst.pointer()});
  const std::vector<float> result = dst.values();
  const auto part = [&](std::size_t offset, const TensorSpec& spec) {
    return std::span(result).subspan(offset, static_cast<std::size_t>(spec.shape.elements()));
  };
  REQUIRE(same_bits(part(b_size, a_to), Tensor(a_to, a_values).stored()));
  REQUIRE(same_bits(part(0, b_to), Tensor(b_to, b_values).stored()));
}

TEST_CASE("reorder and its transpose are adjoint", "[reorder]") {
  // Its gradient is the reorder back: <d, reorder(x)> has the gradient reorder_back(d).
  const Shape shape{2, 11, 3, 5};
  const TensorSpec plain = spec_of(shape), blocked = spec_of(shape, Layout::nchw8c);
  const auto there = codelets::plan(Reorder{plain, blocked}, Cpu{});
  const auto back = codelets::plan(Reorder{blocked, plain}, Cpu{});
  const auto x = random_values(shape.elements(), 1), d_y = random_values(shape.elements(), 2);
  Tensor gradient_there(blocked, d_y), gradient(plain);
  run_kernel(*back, {gradient_there.pointer(), gradient.pointer()});
  const auto loss = [&](std::span<const float> at) {
    Tensor src(plain, at), dst(blocked);
    run_kernel(*there, {src.pointer(), dst.pointer()});
    return functional(d_y, dst.values());
  };
  // Linear: values of size 1 rounded to 6e-8 by the step of 1.
  require_gradient("x", loss, x, gradient.values(), 1, {1e-6, 1e-6});
}

TEST_CASE("reorder gives the same bits in every thread", "[reorder]") {
  const Shape shape{8, 19, 9, 9};
  Tensor src(spec_of(shape), random_values(shape.elements(), 1));
  Tensor one(spec_of(shape, Layout::nchw16c)), two(spec_of(shape, Layout::nchw16c));
  const auto kernel = codelets::plan(Reorder{src.spec(), one.spec()}, Cpu{});
  run_in_two_threads(*kernel, {src.pointer(), one.pointer()}, {src.pointer(), two.pointer()});
  REQUIRE(same_bits(one.stored(), two.stored()));
  REQUIRE(same_bits(one.values(), src.values()));
}

TEST_CASE("reorder says what is wrong with a description", "[reorder]") {
  const TensorSpec a = spec_of({2, 3, 4, 5}), b = spec_of({2, 3, 5, 4}, Layout::nhwc);
  REQUIRE_THROWS_WITH(codelets::plan(Reorder{a, b}, Cpu{}),
                      "reorder 2x3x4x5 float32 nchw to 2x3x5x4 float32 nhwc: both shapes must be "
                      "the same");
  TensorSpec bytes = a;
  bytes.type = DataType::uint8;
  REQUIRE_THROWS_AS(codelets::plan(Reorder{bytes, a}, Cpu{}), std::invalid_argument);
}
