#include <cmath>
#include <string>
#include <vector>

#include "codelets/optimizer.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::OptimizerSettings;
using codelets::ParameterRange;
using codelets::UpdatedBucket;
using codelets::UpdateRule;

namespace {

float* floats(const DeviceBuffer& buffer) { return static_cast<float*>(buffer.pointer()); }

/// Runs one step on the GPU and on the CPU over two buckets of `count` values each.
void compare_step(std::size_t count, const std::vector<ParameterRange>& ranges,
                  const OptimizerSettings& settings) {
  const auto size = static_cast<std::int64_t>(count);
  constexpr float gradient_scale = 0.3f, learning_rate = 0.07f;
  struct Bucket {
    std::vector<float> w, g;
    Flat weights, moments, gradient;
    DeviceTensor gpu_weights, gpu_moments, gpu_gradient;
  };
  std::vector<Bucket> buckets;
  std::vector<UpdatedBucket> cpu, gpu;
  std::vector<DeviceBuffer*> outputs;
  buckets.reserve(2);
  for (const unsigned seed : {1u, 4u}) {
    const std::vector<float> w = random_values(size, seed), g = random_values(size, seed + 2);
    std::vector<float> moments =
        random_values(static_cast<std::int64_t>(moment_elements(settings.rule, count)), seed + 1);
    if (settings.rule == UpdateRule::adamw) {
      for (std::size_t i = count; i < 2 * count; ++i) moments[i] = std::abs(moments[i]);
      moments.back() = static_cast<float>(seed);  // steps before
    }
    Bucket& b = buckets.emplace_back(w, g, Flat(w), Flat(moments), Flat(g), DeviceTensor(w),
                                     DeviceTensor(moments), DeviceTensor(g));
    cpu.push_back({ranges, count, static_cast<float*>(b.weights.pointer()),
                   static_cast<float*>(b.moments.pointer()),
                   static_cast<const float*>(b.gradient.pointer())});
    gpu.push_back(
        {ranges, count, floats(b.gpu_weights), floats(b.gpu_moments), floats(b.gpu_gradient)});
    outputs.insert(outputs.end(), {&b.gpu_weights, &b.gpu_moments});
  }
  optimizer_step(cpu, gradient_scale, learning_rate, settings, Cpu{}, nullptr);
  run_repeatedly(
      [&](codelets::Stream stream) {
        optimizer_step(gpu, gradient_scale, learning_rate, settings, Cuda{}, stream);
      },
      outputs);
  std::vector<bool> inside(count);
  for (const ParameterRange& range : ranges)
    for (std::size_t i = 0; i < range.count; ++i) inside[range.offset + i] = true;
  for (const Bucket& b : buckets) {
    // Fewer than eight roundings of 6e-8; a GPU merges some of them (fused multiply-add). Where
    // AdamW's root is small its step is large, and so are the roundings.
    const Tolerance rounding{4e-7, settings.rule == UpdateRule::adamw ? 1e-5 : 0};
    require_tensor("weights", b.gpu_weights, b.weights.values(), rounding);
    require_tensor("moments", b.gpu_moments, b.moments.values(), {4e-7, 0});
    require_tensor("gradient", b.gpu_gradient, b.g, exactly);
    // What lies between the ranges is left alone, to the bit.
    const std::vector<float> after = b.gpu_weights.values();
    for (std::size_t i = 0; i < count; ++i)
      if (!inside[i]) REQUIRE(after[i] == b.w[i]);
  }
}

}  // namespace

TEST_CASE("A step on a GPU agrees with the CPU", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  // Aligned and not, empty, whole vectors and a rest, several blocks, gaps.
  const std::vector<ParameterRange> ranges = {{0, 16, true},     {16, 7, false},    {32, 0, true},
                                              {33, 100, false},  {144, 9001, true}, {9200, 1, true},
                                              {9205, 5000, true}};
  for (const UpdateRule rule : {UpdateRule::velocity, UpdateRule::nesterov,
                                UpdateRule::lr_in_velocity, UpdateRule::adamw}) {
    INFO("rule " << static_cast<int>(rule));
    // Second moments that vectors reach, and that they do not.
    for (const std::size_t elements : {14300, 14301})
      compare_step(elements, ranges, {0.9f, 1e-2f, rule});
    compare_step(1, {{{0, 0, true}}}, {0.9f, 1e-2f, rule});
    compare_step(100, {{{0, 100, true}}}, {0, 0, rule, 0.5f, 1e-3f});
  }
}

TEST_CASE("A step on a GPU takes any number of ranges", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  const UpdateRule rule = GENERATE(UpdateRule::velocity, UpdateRule::adamw);
  for (const std::size_t count : {0, 1, 63, 64, 65, 130}) {
    std::vector<ParameterRange> ranges;
    for (std::size_t i = 0; i < count; ++i) ranges.push_back({i * 16, i % 16 + 1, i % 2 == 0});
    INFO(count << " ranges");
    compare_step(count * 16 + 1, ranges, {0.9f, 1e-2f, rule});
  }
}

TEST_CASE("AdamW on a GPU counts the steps of any number of buckets", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  for (const std::size_t count : {1, 64, 65, 130}) {
    DeviceTensor weights(std::vector<float>(count, 1.0f)),
        gradient(std::vector<float>(count, 1.0f));
    std::vector<float> moments(3 * count, 0.0f);
    for (std::size_t i = 0; i < count; ++i) moments[3 * i + 2] = static_cast<float>(i);
    DeviceTensor gpu_moments(moments);
    const ParameterRange whole{0, 1, false};
    std::vector<UpdatedBucket> buckets;
    for (std::size_t i = 0; i < count; ++i)
      buckets.push_back(
          {{&whole, 1}, 1, floats(weights) + i, floats(gpu_moments) + 3 * i, floats(gradient) + i});
    run_repeatedly(
        [&](codelets::Stream stream) {
          optimizer_step(buckets, 1, 0.1f, {.rule = UpdateRule::adamw}, Cuda{}, stream);
        },
        {&weights, &gpu_moments});
    const std::vector<float> after = gpu_moments.values();
    for (std::size_t i = 0; i < count; ++i) REQUIRE(after[3 * i + 2] == static_cast<float>(i + 1));
  }
}

TEST_CASE("SGD and AdamW on a GPU follow PyTorch and Chainer", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  for (const bool adamw : {false, true}) {
    const GoldenFile golden = load_golden(adamw ? "adamw.bin" : "sgd.bin");
    for (const std::string& name : golden_cases(golden)) {
      INFO(name);
      const auto values = [&](const std::string& part) {
        return golden.at(name + "/" + part).values;
      };
      const std::vector<float> given = values("settings"), gradients = values("gradients"),
                               rates = values("learning_rates"), start = values("weights");
      OptimizerSettings settings{.momentum = given[0]};
      if (adamw) {
        settings.rule = UpdateRule::adamw;
        settings.beta2 = given[1];
        settings.epsilon = given[2];
        settings.weight_decay = given[3];
      } else {
        settings.rule = static_cast<UpdateRule>(values("form")[0]);
        settings.weight_decay = given[1];
      }
      const std::size_t count = start.size();
      DeviceTensor weights(start),
          moments(std::vector<float>(moment_elements(settings.rule, count), 0.0f));
      for (std::size_t step = 0; step < rates.size(); ++step) {
        const DeviceTensor gradient(std::span<const float>(gradients).subspan(step * count, count));
        const ParameterRange whole{0, count, true};
        run_repeatedly(
            [&](codelets::Stream stream) {
              const UpdatedBucket bucket{
                  {&whole, 1}, count, floats(weights), floats(moments), floats(gradient)};
              optimizer_step({&bucket, 1}, 1, rates[step], settings, Cuda{}, stream);
            },
            {&weights, &moments});
      }
      // At most five steps of about eight roundings each, 6e-8 a rounding and partly averaged out.
      require_tensor("weights", weights, values("weights_after"), {4e-7, 0});
      std::vector<float> after = values(adamw ? "first_after" : "velocity_after");
      if (adamw) {
        const std::vector<float> second = values("second_after");
        after.insert(after.end(), second.begin(), second.end());
        after.push_back(static_cast<float>(rates.size()));
      }
      require_tensor("moments", moments, after, {4e-7, 0});
    }
  }
}
