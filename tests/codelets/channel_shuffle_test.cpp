#include "codelets/channel_shuffle.hpp"

#include "tests/codelets/channel_shuffle_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::channel_shuffle;
using codelets::ChannelShuffle;
using codelets::Cpu;

namespace {

void check(const Values& values, Layout layout) {
  const ChannelShuffle op{spec_of(values.shape, layout), values.groups};
  INFO(op.x.to_string() << " in " << op.groups << " groups");
  Tensor x(op.x, values.x), y(op.x), d_y(op.x, values.d_y), d_x(op.x);
  run_kernel(*plan(op, Cpu{}), {x.pointer(), y.pointer()});
  require_tensor("y", y, values.y, exact);
  run_kernel(*plan(inverse(op), Cpu{}), {d_y.pointer(), d_x.pointer()});
  require_tensor("d_x", d_x, values.d_x, exact);
}

}  // namespace

TEST_CASE("shuffled channels agree with their definition in every layout", "[channel_shuffle]") {
  for (const Values& values : all_values()) {
    for (const Layout layout : all_layouts) check(values, layout);
  }
}

TEST_CASE("shuffled channels agree with PyTorch", "[channel_shuffle][golden]") {
  for (const Values& values : golden()) {
    for (const Layout layout : all_layouts) check(values, layout);
  }
}

TEST_CASE("shuffled channels' gradient is that of their definition", "[channel_shuffle]") {
  const Values values = values_of({2, 12, 2, 3}, 3, 5);
  const ChannelShuffle op{spec_of(values.shape, Layout::nchw8c), values.groups};
  Tensor x(op.x, values.x), y(op.x), d_y(op.x, values.d_y), d_x(op.x);
  run_kernel(*plan(inverse(op), Cpu{}), {d_y.pointer(), d_x.pointer()});
  const auto forward = plan(op, Cpu{});
  const auto value_at = [&](std::span<const float> point) {
    x.set(point);
    run_kernel(*forward, {x.pointer(), y.pointer()});
    return functional(values.d_y, y.values());
  };
  // Linear: only rounding remains, of differences of 0.01 by 2^-24.
  require_gradient("x", value_at, values.x, d_x.values(), 0.01f, {0, 1e-4});
}

TEST_CASE("ChannelShuffle says what it cannot plan", "[channel_shuffle]") {
  ChannelShuffle op{spec_of({2, 6, 4, 5}), 4};
  require_complaint([&] { (void)plan(op, Cpu{}); },
                    {"channel shuffle: 4 groups do not divide the channels of 2x6x4x5"});
  op.groups = 0;
  require_complaint([&] { (void)plan(op, Cpu{}); }, {"channel shuffle: 0 groups"});
  op = {spec_of({2, 6, 4, 5}, Layout::any), 2};
  require_complaint([&] { (void)plan(op, Cpu{}); },
                    {"ChannelShuffle 2x6x4x5", "layout must be chosen"});
}
