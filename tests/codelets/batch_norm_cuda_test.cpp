#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "tests/codelets/batch_norm_testing.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::batch_norm;

namespace {

// As on the CPU: results are compared relative to the largest value of their tensor, and go through
// fewer than ten roundings of 6e-8 after the sums; those add a few.
constexpr Tolerance usual{2e-6, 1e-7};

BatchNorm of_type(BatchNorm norm, DataType type) {
  norm.x.type = type;
  norm.x.layout = Layout::nhwc;
  return norm;
}

Inputs rounded_inputs(const BatchNorm& norm, unsigned seed) {
  Inputs in = random_inputs(norm.x.shape, norm.residual, seed);
  in.x = rounded(norm.x.type, in.x);
  in.residual = rounded(norm.x.type, in.residual);
  return in;
}

std::vector<float> random_gradient(const BatchNorm& norm, unsigned seed) {
  return rounded(norm.x.type, random_values(norm.x.shape.elements(), seed));
}

struct GpuForward {
  DeviceTensor y, mean, inverse_stddev, running_mean, running_variance;
  DeviceBuffer mask;
};

GpuForward forward_on_gpu(const BatchNorm& norm, BatchNormMode mode, const Inputs& in) {
  const TensorSpec vector = DeviceTensor::vector_of(norm.x.shape.c);
  GpuForward out{DeviceTensor(norm.x),
                 DeviceTensor(vector),
                 DeviceTensor(vector),
                 DeviceTensor(in.running_mean),
                 DeviceTensor(in.running_variance),
                 DeviceBuffer(codelets::batch_norm_mask_bytes(norm, Cuda{}))};
  DeviceTensor x(norm.x, in.x), residual(norm.x), gamma(in.gamma), beta(in.beta);
  if (norm.residual) residual.set(in.residual);
  const bool training = mode == BatchNormMode::training;
  const bool running = mode != BatchNormMode::batch_statistics;
  const bool masked = training && out.mask.bytes() > 0;
  std::vector<DeviceBuffer*> args{&x};
  if (norm.residual) args.push_back(&residual);
  for (DeviceBuffer* arg : std::initializer_list<DeviceBuffer*>{
           &gamma, &beta, running ? &out.running_mean : nullptr,
           running ? &out.running_variance : nullptr, &out.y, training ? &out.mean : nullptr,
           training ? &out.inverse_stddev : nullptr, masked ? &out.mask : nullptr})
    args.push_back(arg);
  std::vector<DeviceBuffer*> outputs{&out.y};
  if (training)
    outputs.insert(outputs.end(),
                   {&out.mean, &out.inverse_stddev, &out.running_mean, &out.running_variance});
  if (masked) outputs.push_back(&out.mask);
  run_on_gpu(*plan(BatchNormForward{norm, mode}, Cuda{}), args, outputs);
  return out;
}

struct GpuBackward {
  std::vector<float> d_x, d_residual, d_gamma, d_beta;
};

/// Like run_backward of the CPU.
GpuBackward backward_on_gpu(const BatchNorm& norm, const Inputs& in, GpuForward& forward,
                            const std::vector<float>& d_y_values,
                            const std::optional<std::vector<float>>& d_y2_values = {},
                            Place d_x_place = Place::own, Place d_residual_place = Place::own) {
  const TensorSpec vector = DeviceTensor::vector_of(norm.x.shape.c);
  DeviceTensor x(norm.x, in.x), d_y(norm.x, d_y_values), d_y2(norm.x), own_d_x(norm.x),
      own_d_residual(norm.x), gamma(in.gamma), beta(in.beta), d_gamma(vector), d_beta(vector);
  if (d_y2_values) d_y2.set(*d_y2_values);
  DeviceTensor* d_x = tensor_at(d_x_place, own_d_x, d_y, d_y2);
  DeviceTensor* d_residual =
      norm.residual ? tensor_at(d_residual_place, own_d_residual, d_y, d_y2) : nullptr;
  std::vector<DeviceBuffer*> args{&x,
                                  norm.relu && norm.residual ? &forward.mask : nullptr,
                                  &gamma,
                                  &beta,
                                  &forward.mean,
                                  &forward.inverse_stddev,
                                  &d_y};
  if (d_y2_values) args.push_back(&d_y2);
  args.push_back(d_x);
  if (norm.residual) args.push_back(d_residual);
  args.push_back(&d_gamma);
  args.push_back(&d_beta);
  std::vector<DeviceBuffer*> outputs{d_x, &d_gamma, &d_beta};
  if (d_residual) outputs.push_back(d_residual);
  run_on_gpu(*plan(BatchNormBackward{norm, d_y2_values.has_value()}, Cuda{}), args, outputs);
  return {d_x->values(), d_residual ? d_residual->values() : std::vector<float>{}, d_gamma.values(),
          d_beta.values()};
}

/// The gradient of y as the kernel sees it: the sum is rounded to the type.
std::vector<float> sum_of_parts(DataType type, std::vector<float> d_y,
                                const std::vector<float>& d_y2) {
  for (std::size_t i = 0; i < d_y.size(); ++i) d_y[i] = rounded(type, d_y[i] + d_y2[i]);
  return d_y;
}

/// Forward and backward against the definition in double.
void check(const BatchNorm& norm, bool two_parts) {
  const DataType type = norm.x.type;
  INFO(norm.x.to_string() << (norm.relu ? " relu" : "") << (norm.residual ? " residual" : "")
                          << (norm.function ? to_string(*norm.function) : "")
                          << (two_parts ? " two parts" : ""));
  const Inputs in = rounded_inputs(norm, 7);
  NormReference reference = reference_of(norm, in);
  reference.forward();
  GpuForward forward = forward_on_gpu(norm, BatchNormMode::training, in);
  require_tensor("y", forward.y, reference.y, with_rounding(type, usual));
  require_tensor("mean", forward.mean, reference.mean, usual);

  const std::vector<float> d_y = random_gradient(norm, 20);
  std::optional<std::vector<float>> d_y2;
  if (two_parts) d_y2 = random_gradient(norm, 21);
  reference.backward(to_double(two_parts ? sum_of_parts(type, d_y, *d_y2) : d_y));
  const GpuBackward backward = backward_on_gpu(norm, in, forward, d_y, d_y2);
  require_close("d_x", backward.d_x, reference.d_x, with_rounding(type, reference.d_x_tolerance()));
  // Already of the type: cut, not rounded.
  if (norm.residual)
    require_close("d_residual", backward.d_residual, reference.d_residual, exactly);
  require_close("d_gamma", backward.d_gamma, reference.d_gamma, usual);
  require_close("d_beta", backward.d_beta, reference.d_beta, usual);
}

}  // namespace

TEST_CASE("batch norm on a GPU matches the definition in double", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  // Channels that make vectors or not, few and several groups of them; one slice that is not full,
  // and several; fewer rows than a block has threads for; batch 1; one value an image.
  const std::array shapes = {Shape{2, 20, 9, 7},  Shape{1, 3, 40, 32}, Shape{7, 65, 3, 3},
                             Shape{5, 16, 4, 4},  Shape{1, 64, 2, 1},  Shape{30, 10, 1, 1},
                             Shape{2, 320, 3, 3}, Shape{3, 8, 5, 7}};
  for (const Shape& shape : shapes)
    for (const DataType type : cuda_types)
      for (const bool relu : {false, true})
        for (const bool residual : {false, true})
          for (const bool two_parts : {false, true})
            check(of_type({spec_of(shape), relu, residual}, type), two_parts);
}

TEST_CASE("batch norm's activations on a GPU match their definitions in double",
          "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  for (const Shape& shape : {Shape{2, 20, 9, 7}, Shape{5, 16, 4, 4}}) {
    for (const DataType type : cuda_types) {
      for (const auto& [function, word] : codelets::named_activations) {
        if (!codelets::fuses_with_normalisations(function)) continue;
        BatchNorm norm = of_type({spec_of(shape)}, type);
        norm.function = function;
        norm.slope = 0.2f;
        for (const bool two_parts : {false, true}) check(norm, two_parts);
      }
    }
  }
}

TEST_CASE("batch norm on a GPU takes many slices, and long ones", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  // 8 groups of vectors, of which a block takes 8 rows at once and 64 in all: 1030 rows are 16
  // slices and a rest.
  for (const DataType type : cuda_types) {
    const std::int64_t channels = type == DataType::float32 ? 1024 : 2048;
    check(of_type({spec_of({1, channels, 1030, 1}), true, true}, type), true);
  }
  // 65 single channels in 3 groups, 11 rows at once: 528 slices of the usual 8 rows a thread would
  // not be enough, so there are 12.
  check(of_type({spec_of({1, 65, 217, 217}), true, false}, DataType::bfloat16), false);
}

TEST_CASE("batch norm on a GPU agrees with the CPU", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  for (const Shape& shape : {Shape{4, 20, 9, 7}, Shape{3, 64, 8, 8}}) {
    for (const DataType type : cuda_types) {
      for (const bool relu : {false, true}) {
        for (const bool residual : {false, true}) {
          const BatchNorm norm = of_type({spec_of(shape), relu, residual}, type);
          const BatchNorm on_cpu = of_type(norm, DataType::float32);
          const Tolerance tolerance = with_rounding(type, usual);
          const Inputs in = rounded_inputs(norm, 30);
          INFO(norm.x.to_string() << (relu ? " relu" : "") << (residual ? " residual" : ""));
          for (const BatchNormMode mode :
               {BatchNormMode::inference, BatchNormMode::batch_statistics,
                BatchNormMode::training}) {
            const ForwardResult cpu = run_forward(on_cpu, mode, in);
            const GpuForward gpu = forward_on_gpu(norm, mode, in);
            require_tensor("y", gpu.y, cpu.y.values(), tolerance);
            require_tensor("mean", gpu.mean, cpu.mean.values(), usual);
            require_tensor("inverse_stddev", gpu.inverse_stddev, cpu.inverse_stddev.values(),
                           usual);
            require_tensor("running_mean", gpu.running_mean, cpu.running_mean.values(), usual);
            require_tensor("running_variance", gpu.running_variance, cpu.running_variance.values(),
                           usual);
          }
          ForwardResult cpu_forward = run_forward(on_cpu, BatchNormMode::training, in);
          GpuForward gpu_forward = forward_on_gpu(norm, BatchNormMode::training, in);
          const std::vector<float> d_y = random_gradient(norm, 31);
          const BackwardResult cpu = run_backward(on_cpu, in, cpu_forward, d_y);
          const GpuBackward gpu = backward_on_gpu(norm, in, gpu_forward, d_y);
          require_close("d_x", gpu.d_x, cpu.d_x.values(), with_rounding(type, {4e-6, 1e-6}));
          if (residual)
            require_close("d_residual", gpu.d_residual, cpu.d_residual.values(), exactly);
          require_close("d_gamma", gpu.d_gamma, cpu.d_gamma.values(), usual);
          require_close("d_beta", gpu.d_beta, cpu.d_beta.values(), usual);
        }
      }
    }
  }
}

TEST_CASE("batch norm on a GPU matches PyTorch", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  const GoldenFile golden = load_golden("batch_norm.bin");
  for (const std::string& name : golden_cases(golden)) {
    INFO(name);
    const auto values = [&](const std::string& part) {
      return golden.at(name + "/" + part).values;
    };
    const bool residual = values("flags")[1] != 0;
    const Inputs in{values("x"),
                    residual ? values("residual") : std::vector<float>{},
                    values("gamma"),
                    values("beta"),
                    values("running_mean"),
                    values("running_variance")};
    BatchNorm norm{spec_of(golden_shape(golden.at(name + "/x")), Layout::nhwc),
                   values("flags")[0] != 0, residual, values("settings")[0], values("settings")[1]};
    norm.function = named_activation(name);
    // The saved mean is float32: rounding it to 6e-8 of 1000 moves a standard deviation of 2, and
    // with it every result, by up to 2e-5.
    const Tolerance tolerance = name == "far_mean" ? Tolerance{4e-5, 1e-7} : usual;
    GpuForward forward = forward_on_gpu(norm, BatchNormMode::training, in);
    require_tensor("y", forward.y, values("y"), tolerance);
    require_tensor("mean", forward.mean, values("mean"), usual);
    require_tensor("inverse_stddev", forward.inverse_stddev, values("inverse_stddev"), usual);
    require_tensor("running_mean", forward.running_mean, values("running_mean_after"), usual);
    require_tensor("running_variance", forward.running_variance, values("running_variance_after"),
                   usual);
    const GpuBackward backward = backward_on_gpu(norm, in, forward, values("d_y"));
    require_close("d_x", backward.d_x, values("d_x"), tolerance);
    if (residual) require_close("d_residual", backward.d_residual, values("d_residual"), tolerance);
    require_close("d_gamma", backward.d_gamma, values("d_gamma"), tolerance);
    require_close("d_beta", backward.d_beta, values("d_beta"), tolerance);
    const GpuForward inference = forward_on_gpu(norm, BatchNormMode::inference, in);
    require_tensor("y of inference", inference.y, values("y_inference"), tolerance);
  }
}

TEST_CASE("batch norm's variance on a GPU does not suffer from a far mean", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  // The naive E[x^2] - E[x]^2 would lose 1e8 * 6e-8 = 6 of a variance of about 1 here. The mean
  // also jumps from image to image, and the first value is far from all others.
  for (const std::int64_t channels : {17, 16}) {
    const Shape shape{9, channels, 20, 15};
    Inputs in = random_inputs(shape, false, 60);
    const auto image = static_cast<std::size_t>(shape.c * shape.spatial());
    for (std::size_t i = 0; i < in.x.size(); ++i)
      in.x[i] += 10000 + static_cast<float>(i / image % 3);
    in.x[0] = 9000;
    NormReference reference = reference_of({spec_of(shape)}, in);
    reference.compute_statistics();
    std::vector<float> inverse;
    for (const double variance : reference.variance)
      inverse.push_back(static_cast<float>(1 / std::sqrt(variance + reference.epsilon)));
    const GpuForward forward =
        forward_on_gpu({spec_of(shape, Layout::nhwc)}, BatchNormMode::training, in);
    require_tensor("mean", forward.mean, reference.mean, {1e-7, 0});
    require_tensor("inverse_stddev", forward.inverse_stddev, inverse, {1e-6, 0});
  }
}

TEST_CASE("batch norm on a GPU with a constant channel gives beta", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  const Shape shape{4, 3, 5, 5};
  Inputs in = random_inputs(shape, false, 70);
  std::fill(in.x.begin(), in.x.end(), 0.1f);
  const GpuForward forward =
      forward_on_gpu({spec_of(shape, Layout::nhwc)}, BatchNormMode::training, in);
  std::vector<float> expected;
  for (std::int64_t i = 0; i < shape.elements(); ++i)
    expected.push_back(in.beta[static_cast<std::size_t>(i / shape.spatial() % shape.c)]);
  // The mean is exact but for one rounding, 1e-8, over sqrt(epsilon) = 3e-3.
  require_tensor("y", forward.y, expected, {0, 1e-5});
  require_tensor("inverse_stddev", forward.inverse_stddev,
                 std::vector<double>(3, 1 / std::sqrt(1e-5)), {1e-5, 0});
}

TEST_CASE("batch norm's backward on a GPU cuts exactly what forward has cut",
          "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  // With d_y = 1, d_beta counts the values that passed. x comes from a grid, so that many values
  // are near the threshold; a tiny gamma makes results that float16 rounds to zero.
  for (const std::int64_t channels : {18, 16}) {
    const Shape shape{8, channels, 9, 9};
    for (const DataType type : cuda_types) {
      for (const bool residual : {false, true}) {
        for (const float gamma : {1.0f, 1e-7f}) {
          const BatchNorm norm = of_type({spec_of(shape), true, residual}, type);
          Inputs in = random_inputs(shape, residual, 80);
          for (float& x : in.x) x = std::round(x * 8) / 8;
          for (float& r : in.residual) r = std::round(r * 8) / 8 * gamma;
          for (float& g : in.gamma) g *= gamma;
          const GpuForward first = forward_on_gpu(norm, BatchNormMode::training, in);
          // beta such that the value at x = 1 is zero but for rounding
          const std::vector<float> mean = first.mean.values(),
                                   inverse = first.inverse_stddev.values();
          for (std::size_t c = 0; c < in.beta.size(); ++c)
            in.beta[c] = -in.gamma[c] * inverse[c] * (1 - mean[c]);
          GpuForward forward = forward_on_gpu(norm, BatchNormMode::training, in);
          const GpuBackward backward = backward_on_gpu(
              norm, in, forward, std::vector<float>(static_cast<std::size_t>(shape.elements()), 1));
          std::vector<float> passed(static_cast<std::size_t>(shape.c));
          const std::vector<float> y = forward.y.values();
          for (std::size_t i = 0; i < y.size(); ++i) {
            const std::size_t channel =
                i / static_cast<std::size_t>(shape.spatial()) % static_cast<std::size_t>(shape.c);
            if (y[i] > 0) ++passed[channel];
          }
          INFO(norm.x.to_string() << ", gamma about " << gamma << (residual ? ", residual" : ""));
          REQUIRE(backward.d_beta == passed);
        }
      }
    }
  }
}

TEST_CASE("batch norm's backward on a GPU may write over its gradients", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  for (const Shape& shape : {Shape{3, 19, 5, 5}, Shape{3, 16, 5, 5}}) {
    for (const DataType type : cuda_types) {
      for (const bool relu : {false, true}) {
        for (const bool residual : {false, true}) {
          for (const bool two_parts : {false, true}) {
            const BatchNorm norm = of_type({spec_of(shape), relu, residual}, type);
            const Inputs in = rounded_inputs(norm, 90);
            const std::vector<float> d_y = random_gradient(norm, 91);
            std::optional<std::vector<float>> d_y2;
            if (two_parts) d_y2 = random_gradient(norm, 92);
            GpuForward forward = forward_on_gpu(norm, BatchNormMode::training, in);
            const GpuBackward apart = backward_on_gpu(norm, in, forward, d_y, d_y2);
            for_each_pair_of_places(two_parts, [&](Place d_x, Place d_residual) {
              const GpuBackward over =
                  backward_on_gpu(norm, in, forward, d_y, d_y2, d_x, d_residual);
              INFO(norm.x.to_string()
                   << " relu " << relu << " residual " << residual << " two " << two_parts
                   << " places " << static_cast<int>(d_x) << " " << static_cast<int>(d_residual));
              REQUIRE(same_bits(over.d_x, apart.d_x));
              if (residual && d_residual != Place::none)
                REQUIRE(same_bits(over.d_residual, apart.d_residual));
              REQUIRE(over.d_gamma == apart.d_gamma);
              REQUIRE(over.d_beta == apart.d_beta);
            });
          }
        }
      }
    }
  }
}

TEST_CASE("batch norm on a GPU on batch statistics leaves running statistics alone",
          "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  const BatchNorm norm{spec_of({3, 17, 4, 5}, Layout::nhwc), true};
  const Inputs in = rounded_inputs(norm, 100);
  const GpuForward training = forward_on_gpu(norm, BatchNormMode::training, in);
  const GpuForward batch = forward_on_gpu(norm, BatchNormMode::batch_statistics, in);
  REQUIRE((batch.y.download() == training.y.download()));
  REQUIRE(batch.running_mean.values() == in.running_mean);
  REQUIRE(training.running_mean.values() != in.running_mean);
}

TEST_CASE("batch norm on a GPU with a momentum of 1 forgets even NaN", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  BatchNorm norm{spec_of({3, 17, 4, 5}, Layout::nhwc)};
  norm.momentum = 1;
  Inputs in = rounded_inputs(norm, 120);
  const GpuForward usual_one = forward_on_gpu(norm, BatchNormMode::training, in);
  in.running_mean.assign(17, std::numeric_limits<float>::quiet_NaN());
  in.running_variance.assign(17, std::numeric_limits<float>::infinity());
  const GpuForward forward = forward_on_gpu(norm, BatchNormMode::training, in);
  REQUIRE(forward.running_mean.values() == usual_one.running_mean.values());
  REQUIRE(forward.running_variance.values() == usual_one.running_variance.values());
}

TEST_CASE("batch norm on a GPU keeps NaN and infinity in their channel", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  for (const std::int64_t channels : {18, 16}) {
    const Shape shape{2, channels, 3, 3};
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const DataType type : cuda_types) {
        for (const std::size_t place : {0, 2}) {  // the pivot of a slice, or not
          const BatchNorm norm = of_type({spec_of(shape), true}, type);
          Inputs in = rounded_inputs(norm, 110);
          in.x[9 * 4 + place] = bad;  // channel 4
          const GpuForward forward = forward_on_gpu(norm, BatchNormMode::training, in);
          const std::vector<float> y = forward.y.values();
          for (std::size_t i = 0; i < y.size(); ++i) {
            INFO(norm.x.to_string() << " [" << i << "]");
            REQUIRE(std::isnan(y[i]) == (i / 9 % static_cast<std::size_t>(channels) == 4));
          }
        }
      }
    }
  }
}

TEST_CASE("batch norm on a GPU is repeatable in several threads", "[cuda][batch_norm]") {
  NEEDS_GPUS(1);
  const BatchNorm norm{spec_of({5, 20, 17, 19}, Layout::nhwc), true};
  const Inputs in = rounded_inputs(norm, 120);
  const auto kernel = plan(BatchNormForward{norm, BatchNormMode::batch_statistics}, Cuda{});
  DeviceTensor x(norm.x, in.x), gamma(in.gamma), beta(in.beta);
  DeviceTensor alone(norm.x), first(norm.x), second(norm.x);
  const auto args = [&](DeviceTensor& y) {
    return std::vector<DeviceBuffer*>{&x, &gamma,  &beta,   nullptr, nullptr,
                                      &y, nullptr, nullptr, nullptr};
  };
  run_on_gpu(*kernel, args(alone), {&alone});
  run_in_threads_on_gpu(*kernel, {args(first), args(second)});
  REQUIRE((first.download() == alone.download()));
  REQUIRE((second.download() == alone.download()));
}

TEST_CASE("batch norm on a GPU says what it cannot plan", "[cuda][batch_norm]") {
  const auto complain = [](const BatchNorm& norm, std::initializer_list<std::string_view> parts) {
    require_complaint([&] { (void)plan(BatchNormForward{norm}, Cuda{}); }, parts);
    require_complaint([&] { (void)plan(BatchNormBackward{norm}, Cuda{}); }, parts);
  };
  complain({{{4, 3, 2, 2}, DataType::uint8, Layout::nhwc}},
           {"BatchNorm", "4x3x2x2 uint8 nhwc", "float32, bfloat16 or float16"});
  complain({spec_of({4, 3, 2, 2}, Layout::any)}, {"nchw or nhwc"});
  complain({spec_of({4, 3, 2, 2}, Layout::nchw)}, {"must be nhwc"});
  complain({spec_of({1, 3, 1, 1}, Layout::nhwc)}, {"more than one value"});
  complain({spec_of({0, 3, 2, 2}, Layout::nhwc)}, {"at least 1"});
  complain({spec_of({0x8000, 16, 0x100, 0x100}, Layout::nhwc)}, {"n*h*w must be below 2^31"});
  complain({spec_of({4, 0x10000, 2, 2}, Layout::nhwc)}, {"c below 2^16"});
  BatchNorm norm{spec_of({4, 3, 2, 2}, Layout::nhwc)};
  norm.epsilon = -1e-5f;
  complain(norm, {"epsilon must not be negative"});
  REQUIRE_NOTHROW(
      plan(BatchNormForward{{spec_of({1, 3, 1, 1})}, BatchNormMode::inference}, Cuda{}));
}
