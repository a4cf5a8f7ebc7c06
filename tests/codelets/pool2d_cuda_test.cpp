#include <limits>
#include <string>
#include <vector>

#include "tests/codelets/cuda_testing.hpp"
#include "tests/codelets/pool2d_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::pool2d;
using codelets::Cpu;
using codelets::Pool2dBackward;
using codelets::Pool2dForward;

namespace {

Pool2d of_type(Pool2d pool, DataType type) {
  pool = in_layout(pool, Layout::nhwc);
  pool.src.type = pool.dst.type = type;
  return pool;
}

/// Those of every device, and the kinds of ResNet-50 in small with channels that make vectors or
/// not.
std::vector<Pool2d> gpu_cases() {
  std::vector<Pool2d> result = cases();
  for (const std::int64_t channels : {3, 10, 20, 64, 65}) {
    result.push_back(make_pool(PoolKind::max, {2, channels, 12, 12}, {3, 2, 1}));
    result.push_back(make_pool(PoolKind::average, {2, channels, 7, 7}, {7, 1, 0}));
  }
  result.push_back(make_pool(PoolKind::max, {1, 320, 4, 4}, {2, 2, 0}));  // groups of channels
  result.push_back(make_pool(PoolKind::average, {3, 320, 7, 7}, {7, 1, 0}));
  result.push_back(make_pool(PoolKind::average, {1, 8, 40, 30}, {{6, 7}, 5, 3}));  // large windows
  result.push_back(
      make_pool(PoolKind::average, {1, 8, 40, 30}, {{6, 7}, 5, 3}, Layout::nhwc, true, true));
  result.push_back(make_pool(PoolKind::max, {1, 8, 20, 20}, {16, 1, 0}));  // a byte, just
  return result;
}

struct Result {
  std::vector<float> dst, d_src;
};

Result on_gpu(const Pool2d& pool, std::span<const float> src_values,
              std::span<const float> d_dst_values) {
  DeviceTensor src(pool.src, src_values), dst(pool.dst), inferred(pool.dst);
  DeviceBuffer indices(pool2d_indices_bytes(pool, Cuda{}));
  REQUIRE((indices.bytes() == 0) == (pool.kind == PoolKind::average));
  DeviceBuffer* left = indices.bytes() > 0 ? &indices : nullptr;
  std::vector<DeviceBuffer*> outputs{&dst};
  if (left) outputs.push_back(left);
  run_on_gpu(*plan(Pool2dForward{pool, true}, Cuda{}), {&src, &dst, left}, outputs);
  run_on_gpu(*plan(Pool2dForward{pool, false}, Cuda{}), {&src, &inferred, nullptr}, {&inferred});
  REQUIRE((inferred.download() == dst.download()));

  DeviceTensor d_dst(pool.dst, d_dst_values), d_src(pool.src);
  run_on_gpu(*plan(Pool2dBackward{pool}, Cuda{}), {&d_dst, left, &d_src}, {&d_src});
  return {dst.values(), d_src.values()};
}

Result on_cpu(const Pool2d& pool, std::span<const float> src_values,
              std::span<const float> d_dst_values) {
  Tensor src(pool.src, src_values), dst(pool.dst), d_dst(pool.dst, d_dst_values), d_src(pool.src);
  AlignedBuffer indices(pool2d_indices_bytes(pool, Cpu{}));
  run_kernel(*plan(Pool2dForward{pool, true}, Cpu{}),
             {src.pointer(), dst.pointer(), indices.pointer()});
  run_kernel(*plan(Pool2dBackward{pool}, Cpu{}),
             {d_dst.pointer(), indices.pointer(), d_src.pointer()});
  return {dst.values(), d_src.values()};
}

/// Sums in float of up to 300 values (1e-6 of the largest), then one rounding to the type; a
/// maximum is not rounded at all.
Tolerance forward_tolerance(const Pool2d& pool) {
  return pool.kind == PoolKind::max ? exactly : with_rounding(pool.src.type, {1e-6, 1e-6});
}
Tolerance backward_tolerance(const Pool2d& pool) {
  return with_rounding(pool.src.type, {1e-6, 1e-6});
}

void check(const Pool2d& plain, DataType type, const std::vector<float>& src_values) {
  const Pool2d pool = of_type(plain, type);
  INFO(to_string(pool));
  const std::vector<float> src = rounded(type, src_values);
  const auto d_dst = rounded(type, random_values(pool.dst.shape.elements(), 2));
  const Result actual = on_gpu(pool, src, d_dst);
  const Expected expected(pool, src, d_dst);
  require_close("dst", actual.dst, expected.dst, forward_tolerance(pool));
  require_close("d_src", actual.d_src, expected.d_src, backward_tolerance(pool));
  const Result cpu = on_cpu(of_type(plain, DataType::float32), src, d_dst);
  require_close("the CPU's dst", actual.dst, cpu.dst, forward_tolerance(pool));
  require_close("the CPU's d_src", actual.d_src, cpu.d_src, backward_tolerance(pool));
}

}  // namespace

TEST_CASE("pool2d on a GPU agrees with its definition and the CPU", "[cuda][pool2d]") {
  NEEDS_GPUS(1);
  // In half precision many of the random values are equal: ties go to the first.
  for (const Pool2d& pool : gpu_cases())
    for (const DataType type : cuda_types)
      check(pool, type, random_values(pool.src.shape.elements(), 1));
}

TEST_CASE("pool2d on a GPU takes the first of equal maxima", "[cuda][pool2d]") {
  NEEDS_GPUS(1);
  // After a ReLU many windows hold only zeros; a negative window beside padding must not yield 0.
  for (const Pool2d& pool : gpu_cases()) {
    if (pool.kind != PoolKind::max) continue;
    auto rectified = random_values(pool.src.shape.elements(), 5, -3, 1);
    for (float& value : rectified) value = value > 0 ? value : 0;
    const auto negative = random_values(pool.src.shape.elements(), 6, -3, -2);
    for (const DataType type : cuda_types) {
      check(pool, type, rectified);
      check(pool, type, negative);
    }
  }
  // Nothing is above minus infinity, and yet the first wins. (The CPU's library begins with the
  // lowest finite value.)
  const Pool2d pool = make_pool(PoolKind::max, {1, 3, 6, 6}, {3, 2, 1}, Layout::nhwc);
  const std::vector<float> lowest(3 * 36, -std::numeric_limits<float>::infinity());
  const auto d_dst = random_values(pool.dst.shape.elements(), 2);
  const Result actual = on_gpu(pool, lowest, d_dst);
  const Expected expected(pool, lowest, d_dst);
  REQUIRE(actual.dst == std::vector<float>(expected.dst.begin(), expected.dst.end()));
  require_close("d_src", actual.d_src, expected.d_src, backward_tolerance(pool));
}

TEST_CASE("pool2d on a GPU shows a NaN in its source", "[cuda][pool2d]") {
  NEEDS_GPUS(1);
  constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
  for (const Pool2d& plain : gpu_cases()) {
    for (const DataType type : cuda_types) {
      const Pool2d pool = of_type(plain, type);
      INFO(to_string(pool));
      auto src = rounded(type, random_values(pool.src.shape.elements(), 1));
      // The windows that hold a marked place are those that a large value there reaches.
      const std::vector<float> d_dst(static_cast<std::size_t>(pool.dst.shape.elements()), 1.0f);
      std::vector<float> mark(src.size());
      for (const std::size_t at : {src.size() / 3, src.size() - 1}) mark[at] = 1;
      const Expected reached(pool, mark, d_dst);
      for (std::size_t i = 0; i < src.size(); ++i)
        if (mark[i] > 0) src[i] = not_a_number;
      const Result result = on_gpu(pool, src, d_dst);
      for (std::size_t i = 0; i < result.dst.size(); ++i)
        REQUIRE(std::isnan(result.dst[i]) == (reached.dst[i] > 0));
      if (pool.kind != PoolKind::max) continue;
      // The NaN takes the gradients of its windows.
      for (std::size_t i = 0; i < src.size(); ++i)
        if (mark[i] > 0) REQUIRE(result.d_src[i] == static_cast<float>(reached.d_src[i]));
    }
  }
}

TEST_CASE("pool2d on a GPU agrees with PyTorch", "[cuda][pool2d]") {
  NEEDS_GPUS(1);
  const GoldenFile file = load_golden("pool2d.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto values = [&](const char* tensor) { return file.at(name + "/" + tensor).values; };
    const Pool2d pool = golden_case(file, name, Layout::nhwc);
    const Result result = on_gpu(pool, values("src"), values("d_dst"));
    require_close(name + "/dst", result.dst, values("dst"), forward_tolerance(pool));
    require_close(name + "/d_src", result.d_src, values("d_src"), backward_tolerance(pool));
  }
}

TEST_CASE("pool2d on a GPU leaves a byte for each maximum", "[cuda][pool2d]") {
  const auto bytes = [](PoolKind kind, int kernel) {
    return pool2d_indices_bytes(make_pool(kind, {2, 3, 20, 20}, {kernel, kernel, 0}, Layout::nhwc),
                                Cuda{});
  };
  REQUIRE(bytes(PoolKind::max, 2) == 2 * 3 * 10 * 10);
  REQUIRE(bytes(PoolKind::max, 16) == 2 * 3);
  REQUIRE(bytes(PoolKind::max, 17) == 2 * 3 * 4);
  REQUIRE(bytes(PoolKind::average, 2) == 0);
}

TEST_CASE("pool2d on a GPU says what is wrong with a description", "[cuda][pool2d]") {
  Pool2d pool = make_pool(PoolKind::max, {2, 3, 6, 6}, {2, 2, 0});
  require_complaint([&] { (void)plan(Pool2dForward{pool}, Cuda{}); },
                    {"pool2d forward max 2x3x6x6 float32 nchw", "must be nhwc"});
  pool = in_layout(pool, Layout::nhwc);
  pool.dst.type = DataType::bfloat16;
  require_complaint([&] { (void)plan(Pool2dBackward{pool}, Cuda{}); },
                    {"pool2d backward", "dst must be 2x3x3x3 float32"});
  pool.dst.type = DataType::float32;
  pool.window.stride = 1;
  require_complaint([&] { (void)plan(Pool2dForward{pool}, Cuda{}); }, {"dst must be 2x3x5x5"});
  require_complaint(
      [&] {
        (void)plan(Pool2dForward{of_type(make_pool(PoolKind::max, {2, 3, 6, 6}, {2, 2, 0}),
                                         DataType::int32)},
                   Cuda{});
      },
      {"int32", "float32, bfloat16 or float16"});
}
