#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "codelets/cudnn_cuda.hpp"
#include "codelets/depthwise_cuda.hpp"
#include "tests/codelets/conv2d_testing.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::conv2d;
using codelets::Conv2dBackwardData;
using codelets::Conv2dBackwardWeights;
using codelets::Conv2dForward;
using codelets::Window;

namespace {

Conv2d on_gpu(const Case& c, DataType type) {
  Conv2d conv = make_conv(c, Layout::nhwc, Layout::any);
  conv.src.type = conv.dst.type = type;
  codelets::choose_layout(conv, Cuda{});
  return conv;
}

/// Depthwise convolutions: channels that make vectors or not, sizes that kernels are compiled for
/// and others, more padding than is needed, and images smaller than the kernel.
std::vector<Case> depthwise_cases() {
  std::vector<Case> cases;
  const auto add = [&](const Shape& src, const Window& window) {
    if (slide(window, src).smallest() < 1) return;
    const bool bias = cases.size() % 2 == 0;
    cases.push_back({src, src.c, window, bias, static_cast<int>(src.c)});
  };
  for (const int kernel : {1, 3, 5, 7, 4}) {
    for (const int stride : {1, 2, 3}) {
      for (const int padding : {0, kernel / 2, kernel}) {
        for (const int channels : {3, 8, 40}) add({2, channels, 6, 7}, {kernel, stride, padding});
        add({1, 9, 9, 6}, {kernel, stride, padding});
        add({3, 8, 2, 3}, {kernel, stride, padding});
        add({1, 8, 3, 8}, {kernel, stride, padding});
        add({2, 1, 5, 9}, {kernel, stride, padding});
      }
    }
  }
  for (const int channels : {8, 9}) {
    add({2, channels, 6, 9}, {{2, 3}, 2, 1});
    add({2, channels, 6, 9}, {{3, 5}, 1, 1});
    add({2, channels, 6, 9}, {{5, 3}, 2, 2});
    add({2, channels, 6, 9}, {{1, 7}, 1, {0, 3}});
    add({2, channels, 9, 6}, {{7, 1}, {3, 2}, {3, 0}});
    for (const int kernel : {1, 3, 5, 7}) {  // kernels are compiled for these, but not the rest
      add({2, channels, 8, 9}, {kernel, {1, 2}, 2});
      add({2, channels, 8, 9}, {kernel, {2, 1}, {1, 2}});
      add({2, channels, 8, 9}, {kernel, 2, {2, 1}});
      add({2, channels, 9, 9}, {kernel, 1, 2, 2});
      add({2, channels, 9, 11}, {kernel, {2, 3}, {4, 1}, {2, 1}});
      add({2, channels, 11, 9}, {kernel, {3, 2}, {3, 4}, {2, 3}});
    }
  }
  for (const int kernel : {1, 3, 4, 5, 7}) {
    for (const int stride : {1, 2})
      add({1, 328, 6, 5}, {kernel, stride, kernel / 2});  // several groups, the last one smaller
    add({3, 8, 43, 41}, {kernel, 1, 2});                  // several slices
  }
  for (const int channels : {1, 12, 24, 96}) {  // whole runs, and parts of one
    for (const int width : {7, 13, 15, 16}) add({2, channels, 9, width}, {7, 1, 3});
    for (const int stride : {1, 2}) add({1, channels, 17, 20}, {7, stride, {3, 4}});
  }
  add({1, 8, 9, 10}, {8, 1, 4});  // more taps than shared memory has room for
  add({1, 9, 9, 10}, {8, {1, 2}, 4});
  add({3, 8, 61, 61}, {3, 2, 1});
  return cases;
}

/// The weights as CUDA's convolutions take them.
TensorSpec weights_of(const Conv2d& conv) {
  return codelets::conv2d_weights(conv.weights(), conv.src.type, Cuda{});
}

struct Results {
  std::vector<float> dst, rectified, d_src, d_weights, d_bias;
};

Results run(const Conv2d& conv, Cuda cuda, std::span<const float> src_values,
            std::span<const float> weight_values, std::span<const float> bias_values,
            std::span<const float> d_dst_values) {
  DeviceTensor src(conv.src, src_values), weights(weights_of(conv), weight_values);
  DeviceTensor bias(bias_values);
  DeviceTensor d_dst(conv.dst, d_dst_values);
  DeviceTensor dst(conv.dst), rectified(conv.dst), d_src(conv.src);
  DeviceTensor d_weights(weights.spec()), d_bias(bias.spec());
  const auto forward = [&](bool relu, DeviceTensor& to) {
    std::vector<DeviceBuffer*> args{&src, &weights};
    if (conv.bias) args.push_back(&bias);
    args.push_back(&to);
    run_on_gpu(*plan(Conv2dForward{conv, relu}, cuda), args, {&to});
  };
  forward(false, dst);
  forward(true, rectified);
  run_on_gpu(*plan(Conv2dBackwardData{conv}, cuda), {&weights, &d_dst, &d_src}, {&d_src});
  std::vector<DeviceBuffer*> outputs{&d_weights};
  if (conv.bias) outputs.push_back(&d_bias);
  std::vector<DeviceBuffer*> args{&src, &d_dst};
  args.insert(args.end(), outputs.begin(), outputs.end());
  run_on_gpu(*plan(Conv2dBackwardWeights{conv}, cuda), args, outputs);
  return {dst.values(), rectified.values(), d_src.values(), d_weights.values(), d_bias.values()};
}

Results run(const Conv2d& conv, Cuda cuda, const Reference& inputs) {
  return run(conv, cuda, inputs.src, inputs.weights, inputs.bias, inputs.d_dst);
}

/// Sums in float32 of up to some thousand products, a few units of 6e-8 of the largest. TF32 cuts
/// each factor to 10 bits (at worst 2^-10, by truncation), so a product is off by 2^-9 at most and
/// a sum of random ones by less of the largest.
Tolerance sums(bool tf32) { return tf32 ? Tolerance{0x1p-9, 0x1p-9} : Tolerance{1e-5, 1e-6}; }

/// With a bias the sum, at most 1 larger than the result, is rounded before it is added, and then
/// again, but for depthwise ones.
Tolerance of_dst(const Conv2d& conv, bool tf32) {
  Tolerance tolerance = with_rounding(conv.dst.type, sums(tf32));
  if (conv.bias && !codelets::depthwise::is_depthwise(conv) && conv.dst.type != DataType::float32) {
    tolerance.relative += unit_roundoff(conv.dst.type);
    tolerance.absolute += unit_roundoff(conv.dst.type);
  }
  return tolerance;
}

void check_against_definition(const Case& c, DataType type, bool tf32) {
  const Conv2d conv = on_gpu(c, type);
  INFO(to_string(c) << ", " << runtime::to_string(type) << (tf32 ? ", tf32" : ""));
  const Reference expected(c, [type](float value) { return rounded(type, value); });
  const Results actual = run(conv, Cuda{tf32}, expected);
  require_close("dst", actual.dst, expected.dst, of_dst(conv, tf32));
  require_close("dst with relu", actual.rectified, relu(expected.dst), of_dst(conv, tf32));
  require_close("d_src", actual.d_src, expected.d_src, with_rounding(type, sums(tf32)));
  require_close("d_weights", actual.d_weights, expected.d_weights, with_rounding(type, sums(tf32)));
  if (c.bias) require_close("d_bias", actual.d_bias, expected.d_bias, sums(false));
}

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("conv2d on a GPU agrees with its definition", "[cuda][conv2d]") {
  NEEDS_GPUS(1);
  for (const Case& c : gpu_cases()) {
    for (const DataType type : cuda_types) check_against_definition(c, type, false);
    check_against_definition(c, DataType::float32, true);
  }
}

TEST_CASE("depthwise conv2d on a GPU agrees with its definition", "[cuda][conv2d]") {
  NEEDS_GPUS(1);
  for (const Case& c : depthwise_cases())
    for (const DataType type : cuda_types) check_against_definition(c, type, false);
}

TEST_CASE("conv2d on a GPU agrees with the CPU", "[cuda][conv2d]") {
  NEEDS_GPUS(1);
  for (const Case& c : gpu_cases()) {
    INFO(to_string(c));
    const Conv2d conv = on_gpu(c, DataType::float32);
    const Reference inputs(c);
    Tensor src(conv.src, inputs.src), dst(conv.dst);
    Flat weights(inputs.weights), bias(inputs.bias);
    std::vector<void*> args{src.pointer(), weights.pointer()};
    if (c.bias) args.push_back(bias.pointer());
    args.push_back(dst.pointer());
    run_kernel(*plan(Conv2dForward{conv, true}, codelets::Cpu{}), args);
    require_close("dst", run(conv, Cuda{}, inputs).rectified, dst.values(), sums(false));
  }
}

TEST_CASE("conv2d on a GPU agrees with PyTorch", "[cuda][conv2d][golden]") {
  NEEDS_GPUS(1);
  const GoldenFile file = load_golden("conv2d.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto values = [&](const char* tensor) { return file.at(name + "/" + tensor).values; };
    const Case c = golden_case(file, name);
    const auto bias =
        c.bias ? values("bias") : std::vector<float>(static_cast<std::size_t>(c.filters));
    const Results actual = run(on_gpu(c, DataType::float32), Cuda{}, values("src"),
                               values("weights"), bias, values("d_dst"));
    require_close(name + "/dst", actual.dst, values("dst"), sums(false));
    require_close(name + "/d_src", actual.d_src, values("d_src"), sums(false));
    require_close(name + "/d_weights", actual.d_weights, values("d_weights"), sums(false));
    if (c.bias) require_close(name + "/d_bias", actual.d_bias, values("d_bias"), sums(false));
  }
}

TEST_CASE("conv2d on a GPU shows a NaN in each pass", "[cuda][conv2d]") {
  NEEDS_GPUS(1);
  const auto count_wrong = [](const std::vector<float>& values, const std::vector<bool>& reached,
                              bool expected) {
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
      if (reached[i] == expected && std::isnan(values[i]) != expected) ++wrong;
    return wrong;
  };
  const auto require_nan = [&](const char* what, const std::vector<float>& values,
                               const std::vector<bool>& reached, bool nowhere_else = true) {
    INFO(what);
    REQUIRE(values.size() == reached.size());
    REQUIRE(std::ranges::count(reached, true) > 0);
    REQUIRE(count_wrong(values, reached, true) == 0);
    if (nowhere_else) REQUIRE(count_wrong(values, reached, false) == 0);
  };
  // In the middle of the last image's first channel: all taps of that pixel lie inside. One that
  // meets the padding may be multiplied by its zeros, and 0 * NaN is NaN.
  const auto middle = [](const Shape& shape) {
    return static_cast<std::size_t>(((shape.n - 1) * shape.c * shape.h + shape.h / 2) * shape.w +
                                    shape.w / 2);
  };
  // The last two by engines that ResNets are trained with.
  for (const Case& c : {Case{{2, 4, 5, 5}, 9, {3, 1, 1}, false},
                        Case{{2, 4, 5, 5}, 9, {3, 1, 1}, true}, engine_cases[0], engine_cases[1]}) {
    const Conv2d any = on_gpu(c, DataType::float32);
    const std::size_t in_src = middle(c.src), in_dst = middle(any.dst.shape);
    std::vector<bool> dst(static_cast<std::size_t>(any.dst.shape.elements()));
    std::vector<bool> d_src(static_cast<std::size_t>(c.src.elements()));
    std::vector<bool> weights_by_src(static_cast<std::size_t>(weight_count(c)));
    std::vector<bool> weights_by_dst = weights_by_src;
    for_each_product(c, any.dst.shape, [&](std::size_t s, std::size_t w, std::size_t d) {
      if (s == in_src) dst[d] = weights_by_src[w] = true;
      if (d == in_dst) d_src[s] = weights_by_dst[w] = true;
    });
    REQUIRE(std::ranges::count(weights_by_dst, true) == weight_count(c) / c.filters);
    // Gradients of a convolution with strides may be those of one with zeros in the gaps.
    const bool no_gaps = c.window.stride == codelets::PerAxis(1);
    for (const DataType type : cuda_types) {
      for (const bool tf32 : {false, true}) {
        if (tf32 && type != DataType::float32) continue;
        INFO(to_string(c) << ", " << runtime::to_string(type) << (tf32 ? ", tf32" : ""));
        const Conv2d conv = on_gpu(c, type);
        Reference inputs(c);
        const float number = std::exchange(inputs.src[in_src], not_a_number);
        const Results of_src = run(conv, Cuda{tf32}, inputs);
        require_nan("dst", of_src.dst, dst);
        require_nan("dst with relu", of_src.rectified, dst);
        require_nan("d_weights", of_src.d_weights, weights_by_src, no_gaps);
        inputs.src[in_src] = number;
        inputs.d_dst[in_dst] = not_a_number;
        const Results of_dst = run(conv, Cuda{tf32}, inputs);
        require_nan("d_src", of_dst.d_src, d_src, no_gaps);
        require_nan("d_weights", of_dst.d_weights, weights_by_dst);
      }
    }
  }
}

TEST_CASE("depthwise conv2d on a GPU shows a NaN", "[cuda][conv2d]") {
  NEEDS_GPUS(1);
  constexpr std::size_t middle = (1 * 8 + 3) * 49 + 24;  // of the second image's fourth channel
  const auto require_reached = [&](const std::vector<float>& values, int distance) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const int y = static_cast<int>(i / 7 % 7), x = static_cast<int>(i % 7);
      const bool reached =
          i / 49 == middle / 49 && std::abs(y - 3) <= distance && std::abs(x - 3) <= distance;
      INFO("plane " << i / 49 << ", " << y << ", " << x);
      REQUIRE(std::isnan(values[i]) == reached);
    }
  };
  for (const DataType type : cuda_types) {
    for (const int kernel : {1, 3, 5, 7}) {
      const Case c{{2, 8, 7, 7}, 8, {kernel, 1, kernel / 2}, false, 8};
      Reference inputs(c);
      inputs.src[middle] = not_a_number;
      const Results of_src = run(on_gpu(c, type), Cuda{}, inputs);
      require_reached(of_src.dst, kernel / 2);
      require_reached(of_src.rectified, kernel / 2);
      const auto taps = static_cast<std::size_t>(kernel * kernel);
      for (std::size_t i = 0; i < of_src.d_weights.size(); ++i)
        REQUIRE(std::isnan(of_src.d_weights[i]) == (i / taps == 3));
      inputs = Reference(c);
      inputs.d_dst[middle] = not_a_number;
      require_reached(run(on_gpu(c, type), Cuda{}, inputs).d_src, kernel / 2);
    }
  }
}

TEST_CASE("conv2d on a GPU gives the same bits in every thread", "[cuda][conv2d]") {
  NEEDS_GPUS(1);
  const Case c{{32, 16, 33, 33}, 32, {3, 2, 1}, true};  // long enough that they meet
  const Conv2d conv = on_gpu(c, DataType::bfloat16);
  const auto kernel = plan(Conv2dForward{conv, true}, Cuda{});
  DeviceTensor weights(weights_of(conv), random_values(weight_count(c), 1));
  DeviceTensor bias(random_values(c.filters, 2));
  DeviceTensor src_a(conv.src, random_values(c.src.elements(), 3));
  DeviceTensor src_b(conv.src, random_values(c.src.elements(), 4));
  DeviceTensor alone_a(conv.dst), alone_b(conv.dst), dst_a(conv.dst), dst_b(conv.dst);
  run_on_gpu(*kernel, {&src_a, &weights, &bias, &alone_a}, {&alone_a});
  run_on_gpu(*kernel, {&src_b, &weights, &bias, &alone_b}, {&alone_b});
  run_in_threads_on_gpu(*kernel,
                        {{&src_a, &weights, &bias, &dst_a}, {&src_b, &weights, &bias, &dst_b}});
  REQUIRE((dst_a.download() == alone_a.download()));
  REQUIRE((dst_b.download() == alone_b.download()));
  REQUIRE((dst_a.download() != dst_b.download()));
}

TEST_CASE("conv2d runs on another GPU than it was planned on", "[cuda][conv2d]") {
  NEEDS_GPUS(2);
  const Case c{{2, 5, 6, 6}, 12, {3, 1, 1}, true};
  const Conv2d conv = on_gpu(c, DataType::float32);
  const Reference expected(c);
  const auto kernel = plan(Conv2dForward{conv}, Cuda{});
  const CurrentDevice other(1);
  DeviceTensor src(conv.src, expected.src), weights(weights_of(conv), expected.weights);
  DeviceTensor bias(expected.bias), dst(conv.dst);
  run_on_gpu(*kernel, {&src, &weights, &bias, &dst}, {&dst});
  require_close("dst", dst.values(), expected.dst, sums(false));
}

TEST_CASE("convolutions of one geometry share their plan", "[cuda][conv2d]") {
  NEEDS_GPUS(1);
  using codelets::cudnn::planned_convolutions;
  const std::size_t before = planned_convolutions();
  const Case c{{2, 8, 6, 6}, 8, {3, 1, 1}, true};
  const Conv2d conv = on_gpu(c, DataType::float32);
  {
    const auto one = plan(Conv2dForward{conv, true}, Cuda{});
    REQUIRE(planned_convolutions() == before + 1);
    Conv2d without_bias = conv;
    without_bias.bias = false;
    const auto two = plan(Conv2dForward{without_bias}, Cuda{});
    REQUIRE(planned_convolutions() == before + 1);
    const auto backward = plan(Conv2dBackwardData{conv}, Cuda{});
    REQUIRE(planned_convolutions() == before + 2);
    const auto tf32 = plan(Conv2dForward{conv}, Cuda{.tf32 = true});
    REQUIRE(planned_convolutions() == before + 3);
    const auto in_half = plan(Conv2dForward{on_gpu(c, DataType::float16)}, Cuda{});
    REQUIRE(planned_convolutions() == before + 4);
    const auto strided =
        plan(Conv2dForward{on_gpu({{2, 8, 6, 6}, 8, {3, 2, 1}, true}, DataType::float32)}, Cuda{});
    REQUIRE(planned_convolutions() == before + 5);
  }
  REQUIRE(planned_convolutions() == before);
  {  // whose results have one shape
    const auto plan_of = [](const Window& window) {
      const Case same{{2, 8, 7, 7}, 8, window, false};
      return plan(Conv2dForward{on_gpu(same, DataType::float32)}, Cuda{});
    };
    const auto one = plan_of({3, 4, 0}), padded = plan_of({3, 4, 1}), closer = plan_of({3, 3, 0});
    REQUIRE(planned_convolutions() == before + 3);
    const auto lower = plan_of({3, {3, 4}, 0}), wider = plan_of({3, {4, 3}, 0});
    const auto dilated = plan_of({3, 3, 1, 2}), flatter = plan_of({3, 3, {0, 1}, {1, 2}});
    REQUIRE(planned_convolutions() == before + 7);
  }
}

TEST_CASE("conv2d on a GPU says what is wrong with a description", "[cuda][conv2d]") {
  const Case c{{2, 3, 5, 7}, 16, {3, 1, 1}, false};
  const Conv2d good = on_gpu(c, DataType::float32);
  REQUIRE(good.dst.layout == Layout::nhwc);

  Conv2d conv = good;
  conv.src.layout = Layout::nchw;
  require_complaint([&] { (void)plan(Conv2dForward{conv}, Cuda{}); },
                    {"conv2d forward 2x3x5x7 float32 nchw -> 2x16x5x7 float32 nhwc, kernel 3x3, "
                     "stride 1, padding 1",
                     "src is in nchw", "take nhwc: reorder it before"});
  conv = good;
  conv.dst.layout = Layout::any;
  require_complaint([&] { (void)plan(Conv2dBackwardWeights{conv}, Cuda{}); },
                    {"conv2d backward weights", "dst is in any"});
  conv = good;
  conv.src.shape.n = conv.dst.shape.n = 0;
  require_complaint([&] { (void)plan(Conv2dForward{conv}, Cuda{}); },
                    {"every dimension must be at least 1"});
  conv = good;
  conv.dst.shape.h = 9;
  require_complaint([&] { (void)plan(Conv2dBackwardData{conv}, Cuda{}); },
                    {"conv2d backward data", "dst must be 2x16x5x7"});
  conv = good;
  conv.dst.type = DataType::float16;
  require_complaint([&] { (void)plan(Conv2dForward{conv}, Cuda{}); }, {"dst must be float32, too"});
  conv = good;
  conv.src.type = conv.dst.type = DataType::int32;
  require_complaint([&] { (void)plan(Conv2dForward{conv}, Cuda{}); },
                    {"conv2d forward 2x3x5x7 int32 nhwc -> 2x16x5x7 int32 nhwc, kernel 3x3",
                     ": int32", "float32, bfloat16 or float16"});

  const Conv2d deep = on_gpu({{1, 2, 200, 200}, 2, {200, 1, 0}, false, 2}, DataType::float32);
  const auto complain = [&](const auto& op) {
    require_complaint([&] { (void)plan(op, Cuda{}); },
                      {"conv2d ",
                       "kernel 200x200, stride 1, padding 0, 2 groups: a channel's "
                       "weights must be below 2^15 on CUDA"});
  };
  complain(Conv2dForward{deep});
  complain(Conv2dBackwardData{deep});
  complain(Conv2dBackwardWeights{deep});
}

TEST_CASE("half-precision images are best given multiples of 8 channels", "[conv2d]") {
  for (const DataType type : {DataType::bfloat16, DataType::float16}) {
    for (const auto& [channels, given] : {std::pair{1, 8}, {7, 8}, {8, 8}, {9, 16}})
      CHECK(codelets::conv2d_channels(channels, type, Cuda{}) == given);
  }
  CHECK(codelets::conv2d_channels(3, DataType::float32, Cuda{}) == 3);
}

TEST_CASE("conv2d on a GPU takes images of one channel in either layout", "[cuda][conv2d]") {
  NEEDS_GPUS(1);
  Conv2d conv = on_gpu({{2, 1, 5, 7}, 16, {3, 1, 1}, false}, DataType::float32);
  conv.src.layout = Layout::nchw;
  CHECK_NOTHROW(plan(Conv2dForward{conv}, Cuda{}));
}

TEST_CASE("conv2d can be planned only where there is a GPU", "[cuda][conv2d]") {
  const Conv2d conv = on_gpu({{2, 3, 5, 7}, 16, {3, 1, 1}, false}, DataType::float32);
  const auto act = [&] { (void)plan(Conv2dForward{conv}, Cuda{}); };
  if (runtime::find_gpus().empty()) {
    REQUIRE_THROWS_AS(act(), std::runtime_error);
  } else {
    REQUIRE_NOTHROW(act());
  }
}
