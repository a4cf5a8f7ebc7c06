#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/codelets/cuda_testing.hpp"
#include "tests/codelets/fully_connected_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::fully_connected;
using codelets::FullyConnectedBackwardData;
using codelets::FullyConnectedBackwardWeights;
using codelets::FullyConnectedForward;

namespace {

FullyConnected on_gpu(FullyConnected fc, DataType src, DataType dst) {
  fc.src.type = src;
  fc.dst.type = dst;
  return fc;
}

/// The weights as CUDA's products take them.
TensorSpec weights_of(const FullyConnected& fc) {
  return codelets::fully_connected_weights({fc.dst.shape.c, inputs_of(fc), 1, 1}, fc.src.type,
                                           Cuda{});
}

struct Results {
  std::vector<float> dst, rectified, d_src, d_weights, d_bias;
};

Results run(const FullyConnected& fc, Cuda cuda, const Reference& inputs) {
  DeviceTensor src(fc.src, inputs.src), weights(weights_of(fc), inputs.weights);
  DeviceTensor bias(inputs.bias), d_dst(fc.dst, inputs.d_dst);
  DeviceTensor dst(fc.dst), rectified(fc.dst), d_src(fc.src);
  DeviceTensor d_weights(DeviceTensor::vector_of(weights.spec().shape.elements()));
  DeviceTensor d_bias(bias.spec());
  const auto forward = [&](bool relu, DeviceTensor& to) {
    std::vector<DeviceBuffer*> args{&src, &weights};
    if (fc.bias) args.push_back(&bias);
    args.push_back(&to);
    run_on_gpu(*plan(FullyConnectedForward{fc, relu}, cuda), args, {&to});
  };
  forward(false, dst);
  forward(true, rectified);
  run_on_gpu(*plan(FullyConnectedBackwardData{fc}, cuda), {&weights, &d_dst, &d_src}, {&d_src});
  std::vector<DeviceBuffer*> outputs{&d_weights};
  if (fc.bias) outputs.push_back(&d_bias);
  std::vector<DeviceBuffer*> args{&src, &d_dst};
  args.insert(args.end(), outputs.begin(), outputs.end());
  run_on_gpu(*plan(FullyConnectedBackwardWeights{fc}, cuda), args, outputs);
  return {dst.values(), rectified.values(), d_src.values(), d_weights.values(), d_bias.values()};
}

/// Sums in float32 of up to some thousand products. TF32 cuts each factor to 10 bits (at worst
/// 2^-10, by truncation), so a product is off by 2^-9 at most and a sum of random ones by less of
/// the largest.
Tolerance sums(bool tf32) { return tf32 ? Tolerance{0x1p-9, 0x1p-9} : Tolerance{1e-5, 1e-6}; }

/// The sum, at most 1 larger than the result, is rounded before the bias is added, and then again.
Tolerance of_dst(DataType type, bool tf32) {
  Tolerance tolerance = with_rounding(type, sums(tf32));
  if (type != DataType::float32) {
    tolerance.relative += unit_roundoff(type);
    tolerance.absolute += unit_roundoff(type);
  }
  return tolerance;
}

std::vector<double> rectify(std::vector<double> values) {
  for (double& value : values) value = value > 0 ? value : 0;
  return values;
}

void check_against_definition(const FullyConnected& fc, bool tf32) {
  INFO(fc.src.to_string() << " -> " << fc.dst.to_string() << (tf32 ? ", tf32" : ""));
  const DataType type = fc.src.type;
  const Reference expected(fc, [type](float value) { return rounded(type, value); });
  const Results actual = run(fc, Cuda{tf32}, expected);
  require_close("dst", actual.dst, expected.dst, of_dst(fc.dst.type, tf32));
  require_close("dst with relu", actual.rectified, rectify(expected.dst),
                of_dst(fc.dst.type, tf32));
  require_close("d_src", actual.d_src, expected.d_src, with_rounding(type, sums(tf32)));
  require_close("d_weights", actual.d_weights, expected.d_weights, sums(tf32));
  if (fc.bias) require_close("d_bias", actual.d_bias, expected.d_bias, sums(false));
}

}  // namespace

TEST_CASE("fully connected on a GPU agrees with its definition", "[cuda][fully_connected]") {
  NEEDS_GPUS(1);
  for (const auto& [src, outputs, bias] : cases) {
    for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
      const FullyConnected fc = make_fc(src, outputs, layout, bias);
      for (const DataType type : cuda_types) {
        check_against_definition(on_gpu(fc, type, type), false);
        if (type != DataType::float32)  // logits
          check_against_definition(on_gpu(fc, type, DataType::float32), false);
      }
      check_against_definition(fc, true);
    }
  }
}

TEST_CASE("fully connected on a GPU agrees with the CPU", "[cuda][fully_connected]") {
  NEEDS_GPUS(1);
  for (const auto& [src_shape, outputs, with_bias] : cases) {
    const FullyConnected fc = make_fc(src_shape, outputs, Layout::nhwc, with_bias);
    INFO(fc.src.to_string() << " -> " << outputs);
    const Reference inputs(fc);
    Tensor src(fc.src, inputs.src), dst(fc.dst);
    Flat weights(inputs.weights), bias(inputs.bias);
    std::vector<void*> args{src.pointer(), weights.pointer()};
    if (with_bias) args.push_back(bias.pointer());
    args.push_back(dst.pointer());
    run_kernel(*plan(FullyConnectedForward{fc, true}, codelets::Cpu{}), args);
    require_close("dst", run(fc, Cuda{}, inputs).rectified, dst.values(), sums(false));
  }
}

TEST_CASE("fully connected on a GPU shows a NaN in its source", "[cuda][fully_connected]") {
  NEEDS_GPUS(1);
  for (const DataType type : cuda_types) {
    const FullyConnected fc = on_gpu(make_fc({2, 6, 1, 1}, 20), type, DataType::float32);
    Reference inputs(fc);
    inputs.src[0] = std::numeric_limits<float>::quiet_NaN();
    const Results actual = run(fc, Cuda{}, inputs);
    for (std::size_t i = 0; i < actual.dst.size(); ++i) {
      REQUIRE(std::isnan(actual.dst[i]) == (i < 20));
      REQUIRE(std::isnan(actual.rectified[i]) == (i < 20));
    }
  }
}

TEST_CASE("fully connected on a GPU gives the same bits in every thread",
          "[cuda][fully_connected]") {
  NEEDS_GPUS(1);
  const FullyConnected fc =
      on_gpu(make_fc({4, 12, 3, 3}, 10, Layout::nhwc), DataType::float16, DataType::float32);
  const auto kernel = plan(FullyConnectedForward{fc, false}, Cuda{});
  const std::int64_t inputs = inputs_of(fc);
  DeviceTensor weights(weights_of(fc), random_values(inputs * 10, 1));
  DeviceTensor bias(random_values(10, 2));
  DeviceTensor src_a(fc.src, random_values(4 * inputs, 3));
  DeviceTensor src_b(fc.src, random_values(4 * inputs, 4));
  DeviceTensor alone_a(fc.dst), alone_b(fc.dst), dst_a(fc.dst), dst_b(fc.dst);
  run_on_gpu(*kernel, {&src_a, &weights, &bias, &alone_a}, {&alone_a});
  run_on_gpu(*kernel, {&src_b, &weights, &bias, &alone_b}, {&alone_b});
  run_in_threads_on_gpu(*kernel,
                        {{&src_a, &weights, &bias, &dst_a}, {&src_b, &weights, &bias, &dst_b}});
  REQUIRE((dst_a.download() == alone_a.download()));
  REQUIRE((dst_b.download() == alone_b.download()));
  REQUIRE((dst_a.download() != dst_b.download()));
}

TEST_CASE("fully connected on a GPU says what is wrong with a description",
          "[cuda][fully_connected]") {
  FullyConnected fc = make_fc({4, 8, 2, 2}, 10);
  fc.dst.shape.n = 5;
  require_complaint([&] { (void)plan(FullyConnectedBackwardData{fc}, Cuda{}); },
                    {"fully connected backward data 4x8x2x2 float32 nchw -> 5x10x1x1",
                     "dst must be 4x10x1x1 nchw"});
  fc = make_fc({4, 8, 2, 2}, 10);
  fc.dst.layout = Layout::nhwc;
  require_complaint([&] { (void)plan(FullyConnectedForward{fc}, Cuda{}); },
                    {"dst must be 4x10x1x1 nchw"});
  for (const auto& [n, outputs] : {std::pair{0, 10}, {4, 0}}) {
    fc = make_fc({n, 8, 2, 2}, outputs);
    require_complaint([&] { (void)plan(FullyConnectedForward{fc}, Cuda{}); },
                      {"every dimension must be at least 1"});
  }
  fc = on_gpu(make_fc({4, 8, 2, 2}, 10), DataType::bfloat16, DataType::float16);
  require_complaint([&] { (void)plan(FullyConnectedForward{fc}, Cuda{}); },
                    {"dst must be float32 or bfloat16"});
  fc = on_gpu(make_fc({4, 8, 2, 2}, 10), DataType::int32, DataType::int32);
  require_complaint([&] { (void)plan(FullyConnectedBackwardWeights{fc}, Cuda{}); },
                    {"fully connected backward weights", "int32", "float32, bfloat16 or float16"});
  fc = make_fc({4, 8, 2, 2}, 10, Layout::nchw8c);
  require_complaint([&] { (void)plan(FullyConnectedForward{fc}, Cuda{}); },
                    {"nchw8c", "nchw or nhwc"});
}
