#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "tests/codelets/cuda_testing.hpp"
#include "tests/codelets/group_norm_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::group_norm;

namespace {

// As on the CPU: results are compared relative to the largest value of their tensor, and go through
// fewer than ten roundings of 6e-8 after the sums; those add a few.
constexpr Tolerance usual{2e-6, 1e-7};

struct Case {
  Shape shape;
  int groups;
};

Inputs rounded_inputs(const GroupNorm& norm, unsigned seed) {
  Inputs in = random_inputs(norm.x.shape, norm.residual, seed);
  in.x = rounded(norm.x.type, in.x);
  in.residual = rounded(norm.x.type, in.residual);
  return in;
}

std::vector<float> random_gradient(const GroupNorm& norm, unsigned seed) {
  return rounded(norm.x.type, random_values(norm.x.shape.elements(), seed));
}

struct GpuForward {
  DeviceTensor y, mean, inverse_stddev;
  DeviceBuffer mask;
};

GpuForward forward_on_gpu(const GroupNorm& norm, const Inputs& in) {
  const TensorSpec statistics = DeviceTensor::vector_of(norm.x.shape.n * norm.x.shape.c);
  GpuForward out{DeviceTensor(norm.x), DeviceTensor(statistics), DeviceTensor(statistics),
                 DeviceBuffer(codelets::group_norm_mask_bytes(norm, Cuda{}))};
  DeviceTensor x(norm.x, in.x), residual(norm.x), gamma(in.gamma), beta(in.beta);
  if (norm.residual) residual.set(in.residual);
  const bool masked = out.mask.bytes() > 0;
  std::vector<DeviceBuffer*> args{&x};
  if (norm.residual) args.push_back(&residual);
  args.insert(args.end(), {&gamma, &beta, &out.y, &out.mean, &out.inverse_stddev,
                           masked ? &out.mask : nullptr});
  std::vector<DeviceBuffer*> outputs{&out.y, &out.mean, &out.inverse_stddev};
  if (masked) outputs.push_back(&out.mask);
  run_on_gpu(*plan(GroupNormForward{norm}, Cuda{}), args, outputs);
  return out;
}

struct GpuBackward {
  std::vector<float> d_x, d_residual, d_gamma, d_beta;
};

/// Like run_backward of the CPU.
GpuBackward backward_on_gpu(const GroupNorm& norm, const Inputs& in, GpuForward& forward,
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
  run_on_gpu(*plan(GroupNormBackward{norm, d_y2_values.has_value()}, Cuda{}), args, outputs);
  return {d_x->values(), d_residual ? d_residual->values() : std::vector<float>{}, d_gamma.values(),
          d_beta.values()};
}

/// Forward and backward against the definition in double.
void check(const GroupNorm& norm, bool two_parts) {
  const DataType type = norm.x.type;
  INFO(norm.x.to_string() << " groups " << norm.groups << (norm.relu ? " relu" : "")
                          << (norm.residual ? " residual" : "") << (two_parts ? " two parts" : ""));
  const Inputs in = rounded_inputs(norm, 7);
  NormReference reference = reference_of(norm, in);
  reference.forward();
  GpuForward forward = forward_on_gpu(norm, in);
  require_tensor("y", forward.y, reference.y, with_rounding(type, usual));
  require_close("mean", of_groups(norm, forward.mean.values()), reference.mean, usual);

  const std::vector<float> d_y = random_gradient(norm, 20);
  std::vector<float> sum = d_y;  // rounded to the type, as the kernel sees it
  std::optional<std::vector<float>> d_y2;
  if (two_parts) {
    d_y2 = random_gradient(norm, 21);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = rounded(type, sum[i] + (*d_y2)[i]);
  }
  reference.backward(to_double(sum));
  const GpuBackward backward = backward_on_gpu(norm, in, forward, d_y, d_y2);
  require_close("d_x", backward.d_x, reference.d_x, with_rounding(type, reference.d_x_tolerance()));
  // Already of the type: cut, not rounded.
  if (norm.residual)
    require_close("d_residual", backward.d_residual, reference.d_residual, exactly);
  require_close("d_gamma", backward.d_gamma, reference.d_gamma, usual);
  require_close("d_beta", backward.d_beta, reference.d_beta, usual);
}

}  // namespace

TEST_CASE("group norm on a GPU matches the definition in double", "[cuda][group_norm]") {
  NEEDS_GPUS(1);
  // Channels that make vectors or not; groups narrower and wider than a vector, than a block's
  // channels, and of more items than a block's threads; one pixel; one channel a group; batch 1.
  const std::array cases = {Case{{2, 24, 9, 7}, 2},  Case{{1, 3, 40, 32}, 1},
                            Case{{5, 32, 4, 4}, 8},  Case{{3, 36, 3, 5}, 3},
                            Case{{4, 20, 1, 1}, 5},  Case{{2, 19, 4, 3}, 19},
                            Case{{2, 320, 3, 3}, 1}, Case{{30, 16, 4, 3}, 16}};
  for (const auto& [shape, groups] : cases)
    for (const DataType type : cuda_types)
      for (const bool relu : {false, true})
        for (const bool residual : {false, true})
          for (const bool two_parts : {false, true})
            check({{shape, type, Layout::nhwc}, groups, relu, residual}, two_parts);
}

TEST_CASE("group norm's activations on a GPU match their definitions in double",
          "[cuda][group_norm]") {
  NEEDS_GPUS(1);
  for (const DataType type : cuda_types) {
    for (const auto& [function, word] : codelets::named_activations) {
      if (!codelets::fuses_with_normalisations(function)) continue;
      GroupNorm norm{{{3, 24, 5, 6}, type, Layout::nhwc}, 3};
      norm.function = function;
      for (const bool two_parts : {false, true}) check(norm, two_parts);
    }
  }
}

TEST_CASE("group norm on a GPU takes many slices", "[cuda][group_norm]") {
  NEEDS_GPUS(1);
  // A block takes 8 rows at once and 64 in all: an image's 1030 rows are 16 slices and a rest.
  for (const DataType type : cuda_types) {
    const std::int64_t channels = type == DataType::float32 ? 1024 : 2048;
    check({{{2, channels, 1030, 1}, type, Layout::nhwc}, 32, true, true}, true);
  }
}

TEST_CASE("group norm on a GPU matches PyTorch", "[cuda][group_norm]") {
  NEEDS_GPUS(1);
  const GoldenFile golden = load_golden("group_norm.bin");
  for (const std::string& name : golden_cases(golden)) {
    INFO(name);
    const auto values = [&](const std::string& part) {
      return golden.at(name + "/" + part).values;
    };
    const auto flags = values("flags");
    const bool residual = flags[1] != 0;
    const Inputs in{values("x"), residual ? values("residual") : std::vector<float>{},
                    values("gamma"), values("beta")};
    const GroupNorm norm{spec_of(golden_shape(golden.at(name + "/x")), Layout::nhwc),
                         static_cast<int>(flags[2]), flags[0] != 0, residual, values("epsilon")[0]};
    // The saved mean is float32: rounding it to 6e-8 of 1000 moves a standard deviation of 2, and
    // with it every result, by up to 2e-5.
    const Tolerance tolerance = name == "far_mean" ? Tolerance{4e-5, 1e-7} : usual;
    GpuForward forward = forward_on_gpu(norm, in);
    require_tensor("y", forward.y, values("y"), tolerance);
    const GpuBackward backward = backward_on_gpu(norm, in, forward, values("d_y"));
    require_close("d_x", backward.d_x, values("d_x"), tolerance);
    if (residual) require_close("d_residual", backward.d_residual, values("d_residual"), tolerance);
    require_close("d_gamma", backward.d_gamma, values("d_gamma"), tolerance);
    require_close("d_beta", backward.d_beta, values("d_beta"), tolerance);
  }
}

TEST_CASE("group norm's variance on a GPU does not suffer from a far mean", "[cuda][group_norm]") {
  NEEDS_GPUS(1);
  // The naive E[x^2] - E[x]^2 would lose 1e8 * 6e-8 = 6 of a variance of about 1 here. The mean
  // also jumps from channel to channel, and the first value is far from all others.
  const Shape shape{3, 18, 20, 15};
  Inputs in = random_inputs(shape, false, 60);
  for (std::size_t i = 0; i < in.x.size(); ++i)
    in.x[i] += 10000 + static_cast<float>(i / static_cast<std::size_t>(shape.spatial()) % 3);
  in.x[0] = 9000;
  const GroupNorm norm{spec_of(shape, Layout::nhwc), 3};
  NormReference reference = reference_of(norm, in);
  reference.compute_statistics();
  Doubles inverse;
  for (const double variance : reference.variance)
    inverse.push_back(1 / std::sqrt(variance + reference.epsilon));
  const GpuForward forward = forward_on_gpu(norm, in);
  require_close("mean", of_groups(norm, forward.mean.values()), reference.mean, {1e-7, 0});
  require_close("inverse_stddev", of_groups(norm, forward.inverse_stddev.values()), inverse,
                {1e-6, 0});
}

TEST_CASE("group norm's backward on a GPU may write over its gradients", "[cuda][group_norm]") {
  NEEDS_GPUS(1);
  for (const Shape& shape : {Shape{3, 18, 5, 5}, Shape{3, 16, 5, 5}}) {
    for (const DataType type : cuda_types) {
      for (const bool relu : {false, true}) {
        for (const bool residual : {false, true}) {
          for (const bool two_parts : {false, true}) {
            const GroupNorm norm{{shape, type, Layout::nhwc}, 2, relu, residual};
            const Inputs in = rounded_inputs(norm, 90);
            const std::vector<float> d_y = random_gradient(norm, 91);
            std::optional<std::vector<float>> d_y2;
            if (two_parts) d_y2 = random_gradient(norm, 92);
            GpuForward forward = forward_on_gpu(norm, in);
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

TEST_CASE("group norm on a GPU keeps NaN and infinity in their group", "[cuda][group_norm]") {
  NEEDS_GPUS(1);
  const Shape shape{2, 18, 3, 3};
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const DataType type : cuda_types) {
      for (const std::size_t place : {0, 2}) {  // the pivot of a slice, or not
        const GroupNorm norm{{shape, type, Layout::nhwc}, 6, true};
        Inputs in = rounded_inputs(norm, 110);
        in.x[9 * 4 + place] = bad;  // channel 4, in group 1 of image 0
        const GpuForward forward = forward_on_gpu(norm, in);
        const std::vector<float> y = forward.y.values();
        for (std::size_t i = 0; i < y.size(); ++i) {
          INFO(norm.x.to_string() << " [" << i << "]");
          REQUIRE(std::isnan(y[i]) == (i / 9 / 3 == 1));
        }
      }
    }
  }
}

TEST_CASE("group norm on a GPU says what it cannot plan", "[cuda][group_norm]") {
  const auto complain = [](const GroupNorm& norm, std::initializer_list<std::string_view> parts) {
    require_complaint([&] { (void)plan(GroupNormForward{norm}, Cuda{}); }, parts);
    require_complaint([&] { (void)plan(GroupNormBackward{norm}, Cuda{}); }, parts);
  };
  complain({{{4, 6, 2, 2}, DataType::uint8, Layout::nhwc}, 3},
           {"GroupNorm", "4x6x2x2 uint8 nhwc", "float32, bfloat16 or float16"});
  complain({spec_of({4, 6, 2, 2}, Layout::nchw), 3}, {"must be nhwc"});
  complain({spec_of({0, 6, 2, 2}, Layout::nhwc), 3}, {"at least 1"});
  complain({spec_of({4, 6, 2, 2}, Layout::nhwc), 4}, {"groups must divide the channels"});
  complain({spec_of({0x10000, 6, 2, 2}, Layout::nhwc), 3}, {"at most 65535 images"});
}
