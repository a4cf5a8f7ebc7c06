#include "codelets/channel_shuffle.hpp"
#include "tests/codelets/channel_shuffle_testing.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::channel_shuffle;
using codelets::ChannelShuffle;

namespace {

void check(const Values& values, DataType type) {
  const ChannelShuffle op{{values.shape, type, Layout::nhwc}, values.groups};
  INFO(op.x.to_string() << " in " << op.groups << " groups");
  DeviceTensor x(op.x, values.x), y(op.x), d_y(op.x, values.d_y), d_x(op.x);
  run_on_gpu(*plan(op, Cuda{}), {&x, &y}, {&y});
  require_tensor("y", y, rounded(type, values.y), exact);
  run_on_gpu(*plan(inverse(op), Cuda{}), {&d_y, &d_x}, {&d_x});
  require_tensor("d_x", d_x, rounded(type, values.d_x), exact);
}

}  // namespace

TEST_CASE("shuffled channels on a GPU agree with their definition", "[cuda][channel_shuffle]") {
  NEEDS_GPUS(1);
  for (const Values& values : all_values()) {
    for (const DataType type : cuda_types) check(values, type);
  }
}

TEST_CASE("shuffled channels on a GPU agree with PyTorch", "[cuda][channel_shuffle][golden]") {
  NEEDS_GPUS(1);
  for (const Values& values : golden()) check(values, DataType::float32);
}

TEST_CASE("shuffled channels on a GPU are in nhwc", "[cuda][channel_shuffle]") {
  require_complaint(
      [] {
        (void)plan(ChannelShuffle{spec_of({2, 4, 4, 5}), 2}, Cuda{});
      },
      {"ChannelShuffle 2x4x4x5 float32 nchw", "must be nhwc"});
}
