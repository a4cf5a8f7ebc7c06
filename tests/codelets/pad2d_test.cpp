#include "codelets/pad2d.hpp"

#include "tests/codelets/pad2d_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::pad2d;
using codelets::Cpu;
using codelets::Pad2dBackward;
using codelets::Pad2dForward;

namespace {

void check(const Values& values, Layout layout) {
  const Pad2d op = values.op(DataType::float32, layout);
  INFO(describe_op("pad", op));
  Tensor x(op.src, values.x), y(op.dst), d_y(op.dst, values.d_y), d_x(op.src);
  run_kernel(*plan(Pad2dForward{op}, Cpu{}), {x.pointer(), y.pointer()});
  require_tensor("y", y, values.y, exact);
  run_kernel(*plan(Pad2dBackward{op}, Cpu{}), {d_y.pointer(), d_x.pointer()});
  require_tensor("d_x", d_x, values.d_x, exact);
}

}  // namespace

TEST_CASE("padding agrees with its definition in every layout", "[pad2d]") {
  for (const Values& values : all_values()) {
    for (const Layout layout : all_layouts) check(values, layout);
  }
}

TEST_CASE("padding agrees with PyTorch", "[pad2d][golden]") {
  for (const Values& values : golden()) {
    for (const Layout layout : all_layouts) check(values, layout);
  }
}

TEST_CASE("padding's gradient is that of its definition", "[pad2d]") {
  const Values values = values_of({2, 9, 2, 3}, {1, 0}, {0, 2}, 5);
  const Pad2d op = values.op(DataType::float32, Layout::nchw8c);
  Tensor x(op.src, values.x), y(op.dst), d_y(op.dst, values.d_y), d_x(op.src);
  run_kernel(*plan(Pad2dBackward{op}, Cpu{}), {d_y.pointer(), d_x.pointer()});
  const auto forward = plan(Pad2dForward{op}, Cpu{});
  const auto value_at = [&](std::span<const float> point) {
    x.set(point);
    run_kernel(*forward, {x.pointer(), y.pointer()});
    return functional(values.d_y, y.values());
  };
  // Linear: only rounding remains, of differences of 0.01 by 2^-24.
  require_gradient("x", value_at, values.x, d_x.values(), 0.01f, {0, 1e-4});
}

TEST_CASE("Pad2d says what it cannot plan", "[pad2d]") {
  Pad2d op{spec_of({2, 3, 4, 5}), spec_of({2, 3, 6, 5}), {3, 0}};
  const auto require_refused = [&](const char* part) {
    require_complaint([&] { (void)plan(Pad2dForward{op}, Cpu{}); }, {part});
    require_complaint([&] { (void)plan(Pad2dBackward{op}, Cpu{}); }, {part});
  };
  require_refused("2x3x4x5 float32 nchw to 2x3x6x5: the image must lie within");
  op.before = {0, -1};
  require_refused("the image must lie within");
  op = {spec_of({2, 3, 4, 5}), spec_of({2, 4, 6, 5}), 0};
  require_refused("only height and width may differ");
  op = {spec_of({2, 3, 4, 5}), spec_of({2, 3, 6, 5}, Layout::nhwc), 0};
  require_refused("only height and width may differ");
}
