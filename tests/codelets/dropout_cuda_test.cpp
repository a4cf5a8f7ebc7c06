#include <cmath>
#include <vector>

#include "codelets/dropout.hpp"
#include "tests/codelets/cuda_testing.hpp"
#include "tests/codelets/dropout_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::dropout;

namespace {

std::vector<float> on_gpu(const Case& c, const std::vector<float>& x, DataType type) {
  const Dropout op = c.in(Layout::nhwc, type);
  DeviceTensor src(op.x, x), y(op.x);
  DeviceBuffer keys(c.keys.size() * sizeof(PhiloxKey));
  keys.upload(c.keys.data(), keys.bytes());
  const auto kernel = plan(op, Cuda{});
  run_on_gpu(*kernel, {&src, &keys, &y}, {&y});
  run_on_gpu(*kernel, {&src, &keys, &src}, {&src});
  require_tensor("y in place", src, y.values(), exactly);
  return y.values();
}

std::vector<float> on_cores(const Case& c, const std::vector<float>& x) {
  std::vector<PhiloxKey> keys = c.keys;
  Tensor src(c.op.x, x), y(c.op.x);
  run_kernel(*plan(c.op, codelets::Cpu{}), {src.pointer(), keys.data(), y.pointer()});
  return y.values();
}

}  // namespace

TEST_CASE("dropout on a GPU agrees with PyTorch", "[cuda][dropout][golden]") {
  NEEDS_GPUS(1);
  for (const GoldenCase& c : golden()) {
    INFO(c.op.x.to_string() << ", rate " << c.op.rate);
    require_close("y", on_gpu(c, c.x, DataType::float32), c.y, few_roundings);
    require_close("d_x", on_gpu(c, c.d_y, DataType::float32), c.d_x, few_roundings);
  }
}

TEST_CASE("dropout on a GPU drops what cores drop", "[cuda][dropout]") {
  NEEDS_GPUS(1);
  for (const Case& c : cases()) {
    for (const DataType type : cuda_types) {
      INFO(c.in(Layout::nhwc, type).x.to_string() << ", rate " << c.op.rate);
      const std::vector<float> x = values_of(c.in(Layout::nchw, type).x, 3);
      const std::vector<float> expected = rounded(type, on_cores(c, x));
      const std::vector<float> actual = on_gpu(c, x, type);
      REQUIRE(actual.size() == expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        INFO(i);
        REQUIRE((actual[i] == expected[i] || (std::isnan(actual[i]) && std::isnan(expected[i]))));
      }
    }
  }
}

TEST_CASE("dropout on a GPU takes nhwc alone, and no rate of 1", "[cuda][dropout]") {
  const Case c{{spec_of({2, 3, 4, 5}), 0.5, 1}, {}, {}};
  require_complaint([&] { (void)plan(c.in(Layout::nchw), Cuda{}); },
                    {"Dropout 2x3x4x5 float32 nchw: ", "nhwc"});
  require_complaint([&] { (void)plan(c.in(Layout::nhwc, DataType::int32), Cuda{}); },
                    {"Dropout 2x3x4x5 int32 nhwc: ", "CUDA computes in"});
  Dropout all = c.in(Layout::nhwc);
  all.rate = 1;
  require_complaint([&] { (void)plan(all, Cuda{}); }, {"the rate must be", "below 1"});
  all = {{{0, 3, 4, 5}, DataType::float32, Layout::nhwc}, 0.5, 1};
  require_complaint([&] { (void)plan(all, Cuda{}); }, {"at least 1"});
}
