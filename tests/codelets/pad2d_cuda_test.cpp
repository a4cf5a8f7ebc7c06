#include "codelets/pad2d.hpp"
#include "tests/codelets/cuda_testing.hpp"
#include "tests/codelets/pad2d_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::pad2d;
using codelets::Pad2dBackward;
using codelets::Pad2dForward;

namespace {

void check(const Values& values, DataType type) {
  const Pad2d op = values.op(type, Layout::nhwc);
  INFO(describe_op("pad", op) << " " << to_string(type));
  DeviceTensor x(op.src, values.x), y(op.dst), d_y(op.dst, values.d_y), d_x(op.src);
  run_on_gpu(*plan(Pad2dForward{op}, Cuda{}), {&x, &y}, {&y});
  require_tensor("y", y, rounded(type, values.y), exact);
  run_on_gpu(*plan(Pad2dBackward{op}, Cuda{}), {&d_y, &d_x}, {&d_x});
  require_tensor("d_x", d_x, rounded(type, values.d_x), exact);
}

}  // namespace

TEST_CASE("padding on a GPU agrees with its definition", "[cuda][pad2d]") {
  NEEDS_GPUS(1);
  for (const Values& values : all_values()) {
    for (const DataType type : cuda_types) check(values, type);
  }
}

TEST_CASE("padding on a GPU agrees with PyTorch", "[cuda][pad2d][golden]") {
  NEEDS_GPUS(1);
  for (const Values& values : golden()) check(values, DataType::float32);
}

TEST_CASE("padding on a GPU is in nhwc", "[cuda][pad2d]") {
  const Pad2d op{spec_of({2, 3, 4, 5}), spec_of({2, 3, 6, 5}), 0};
  require_complaint([&] { (void)plan(Pad2dForward{op}, Cuda{}); },
                    {"Pad2dForward", "must be nhwc"});
  require_complaint([&] { (void)plan(Pad2dBackward{op}, Cuda{}); },
                    {"Pad2dBackward", "must be nhwc"});
}
