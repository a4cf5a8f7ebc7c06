#include <string>
#include <vector>

#include "codelets/optimizer.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::ParameterRange;
using codelets::SgdBucket;
using codelets::SgdForm;
using codelets::SgdSettings;

namespace {

float* floats(const DeviceBuffer& buffer) { return static_cast<float*>(buffer.pointer()); }

/// Runs one step on the GPU and on the CPU over two buckets of `count` values each.
void compare_step(std::size_t count, const std::vector<ParameterRange>& ranges,
                  const SgdSettings& settings) {
  const auto size = static_cast<std::int64_t>(count);
  constexpr float gradient_scale = 0.3f, learning_rate = 0.07f;
  struct Bucket {
    std::vector<float> w, g;
    Flat weights, velocity, gradient;
    DeviceTensor gpu_weights, gpu_velocity, gpu_gradient;
  };
  std::vector<Bucket> buckets;
  std::vector<SgdBucket> cpu, gpu;
  std::vector<DeviceBuffer*> outputs;
  buckets.reserve(2);
  for (const unsigned seed : {1u, 4u}) {
    const std::vector<float> w = random_values(size, seed), v = random_values(size, seed + 1),
                             g = random_values(size, seed + 2);
    Bucket& b = buckets.emplace_back(w, g, Flat(w), Flat(v), Flat(g), DeviceTensor(w),
                                     DeviceTensor(v), DeviceTensor(g));
    cpu.push_back({ranges, static_cast<float*>(b.weights.pointer()),
                   static_cast<float*>(b.velocity.pointer()),
                   static_cast<const float*>(b.gradient.pointer())});
    gpu.push_back({ranges, floats(b.gpu_weights), floats(b.gpu_velocity), floats(b.gpu_gradient)});
    outputs.insert(outputs.end(), {&b.gpu_weights, &b.gpu_velocity});
  }
  sgd_step(cpu, gradient_scale, learning_rate, settings, Cpu{}, nullptr);
  run_repeatedly(
      [&](codelets::Stream stream) {
        sgd_step(gpu, gradient_scale, learning_rate, settings, Cuda{}, stream);
      },
      outputs);
  std::vector<bool> inside(count);
  for (const ParameterRange& range : ranges)
    for (std::size_t i = 0; i < range.count; ++i) inside[range.offset + i] = true;
  for (const Bucket& b : buckets) {
    // Fewer than eight roundings of 6e-8; a GPU merges some of them (fused multiply-add).
    constexpr Tolerance rounding{4e-7, 0};
    require_tensor("weights", b.gpu_weights, b.weights.values(), rounding);
    require_tensor("velocity", b.gpu_velocity, b.velocity.values(), rounding);
    require_tensor("gradient", b.gpu_gradient, b.g, exactly);
    // What lies between the ranges is left alone, to the bit.
    const std::vector<float> after = b.gpu_weights.values();
    for (std::size_t i = 0; i < count; ++i)
      if (!inside[i]) REQUIRE(after[i] == b.w[i]);
  }
}

}  // namespace

TEST_CASE("SGD on a GPU agrees with the CPU", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  // Aligned and not, empty, whole vectors and a rest, several blocks, gaps.
  const std::vector<ParameterRange> ranges = {{0, 16, true},     {16, 7, false},    {32, 0, true},
                                              {33, 100, false},  {144, 9001, true}, {9200, 1, true},
                                              {9205, 5000, true}};
  for (const SgdForm form : {SgdForm::velocity, SgdForm::nesterov, SgdForm::lr_in_velocity}) {
    INFO("form " << static_cast<int>(form));
    compare_step(14300, ranges, {0.9f, 1e-2f, form});
  }
  compare_step(1, {{{0, 0, true}}}, {0.9f, 1e-2f});
}

TEST_CASE("SGD on a GPU takes any number of ranges", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  for (const std::size_t count : {0, 1, 63, 64, 65, 130}) {
    std::vector<ParameterRange> ranges;
    for (std::size_t i = 0; i < count; ++i) ranges.push_back({i * 16, i % 16 + 1, i % 2 == 0});
    INFO(count << " ranges");
    compare_step(count * 16 + 1, ranges, {0.9f, 1e-2f});
  }
}

TEST_CASE("SGD on a GPU follows PyTorch and Chainer", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  const GoldenFile golden = load_golden("sgd.bin");
  for (const std::string& name : golden_cases(golden)) {
    INFO(name);
    const auto values = [&](const std::string& part) {
      return golden.at(name + "/" + part).values;
    };
    const SgdSettings settings{.momentum = values("settings")[0],
                               .weight_decay = values("settings")[1],
                               .form = static_cast<SgdForm>(values("form")[0])};
    const std::vector<float> gradients = values("gradients"), rates = values("learning_rates");
    const std::size_t count = values("weights").size();
    DeviceTensor weights(values("weights")), velocity(std::vector<float>(count, 0.0f));
    for (std::size_t step = 0; step < rates.size(); ++step) {
      const DeviceTensor gradient(std::span<const float>(gradients).subspan(step * count, count));
      const ParameterRange whole{0, count, true};
      run_repeatedly(
          [&](codelets::Stream stream) {
            const SgdBucket bucket{
                {&whole, 1}, floats(weights), floats(velocity), floats(gradient)};
            sgd_step({&bucket, 1}, 1, rates[step], settings, Cuda{}, stream);
          },
          {&weights, &velocity});
    }
    // Four steps of about four roundings each, 6e-8 a rounding and partly averaged out.
    require_tensor("weights", weights, values("weights_after"), {4e-7, 0});
    require_tensor("velocity", velocity, values("velocity_after"), {4e-7, 0});
  }
}
