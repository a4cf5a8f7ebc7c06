#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "codelets/optimizer.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::MeanBuffer;
using codelets::ParameterRange;
using codelets::SgdBucket;
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
  const std::vector<ParameterRange> ranges = {{0, 16, true},    {16, 7, false},    {32, 0, true},
                                              {33, 100, false}, {144, 9001, true}, {9200, 1, true}};
  for (const bool nesterov : {false, true}) {
    for (const bool lr_in_velocity : {false, true}) {
      INFO("nesterov " << nesterov << ", lr_in_velocity " << lr_in_velocity);
      compare_step(9300, ranges, {0.9f, 1e-2f, nesterov, lr_in_velocity});
    }
  }
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
                               .nesterov = values("flags")[0] != 0,
                               .lr_in_velocity = values("flags")[1] != 0};
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

TEST_CASE("Means on a GPU agree with the CPU", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  constexpr int moments = 3;
  for (const std::size_t buffers : {0, 1, 64, 65, 130}) {
    INFO(buffers << " buffers");
    // Of 0 to 9 values, and one that takes several blocks; no vectors' boundaries between them.
    std::vector<std::size_t> counts;
    for (std::size_t i = 0; i < buffers; ++i) counts.push_back(i == 1 ? 9001 : i % 10);
    const int size =
        static_cast<int>(std::accumulate(counts.begin(), counts.end(), std::size_t{1}));
    std::vector<float> mean(static_cast<std::size_t>(size), NAN);
    DeviceTensor device_mean(mean);
    for (int moment = 1; moment <= moments; ++moment) {
      const std::vector<float> values = random_values(size, static_cast<unsigned>(moment));
      const DeviceTensor device_values(values);
      const auto list = [&](float* to, const float* from) {
        std::vector<MeanBuffer> result;
        for (const std::size_t count : counts) {
          result.push_back({count, to, from});
          to += count, from += count;
        }
        return result;
      };
      update_mean(list(mean.data(), values.data()), 1.0f / static_cast<float>(moment), Cpu{},
                  nullptr);
      const auto on_device = list(floats(device_mean), floats(device_values));
      run_repeatedly(
          [&](codelets::Stream stream) {
            update_mean(on_device, 1.0f / static_cast<float>(moment), Cuda{}, stream);
          },
          {&device_mean});
    }
    const std::vector<float> found = device_mean.values();
    CHECK(std::isnan(found.back()));  // behind the last buffer
    // A GPU rounds product and sum as one: half a unit in the last place, 6e-8, a moment.
    for (std::size_t i = 0; i + 1 < found.size(); ++i)
      REQUIRE(std::abs(found[i] - mean[i]) <= 2e-7f);
  }
}

TEST_CASE("Sums, scales and copies on a GPU", "[cuda][optimizer]") {
  NEEDS_GPUS(1);
  for (const int size : {0, 1, 7, 16, 33, 1000, 5003}) {
    const auto count = static_cast<std::size_t>(size);
    const std::vector<float> a = random_values(size, 1), b = random_values(size, 2);
    std::vector<float> sum = a, scaled = a, doubled = a;
    for (std::size_t i = 0; i < count; ++i) sum[i] += b[i], scaled[i] *= 0.3f, doubled[i] *= 2;
    INFO(size);

    DeviceTensor x(a), term(b);
    const auto run = [&](auto act) {
      x.set(a);
      run_repeatedly(act, {&x});
    };
    run([&](codelets::Stream stream) {
      accumulate(count, floats(x), floats(term), Cuda{}, stream);
    });
    require_tensor("sum", x, sum, exactly);
    run([&](codelets::Stream stream) { accumulate(count, floats(x), floats(x), Cuda{}, stream); });
    require_tensor("sum with itself", x, doubled, exactly);
    run([&](codelets::Stream stream) { scale(count, floats(x), 0.3f, Cuda{}, stream); });
    require_tensor("scaled", x, scaled, exactly);
    run([&](codelets::Stream stream) {
      codelets::copy(count * sizeof(float), floats(x), floats(term), Cuda{}, stream);
    });
    require_tensor("copied", x, b, exactly);
    run([&](codelets::Stream stream) {
      codelets::clear(count * sizeof(float), floats(x), Cuda{}, stream);
    });
    require_tensor("cleared", x, std::vector<float>(count, 0.0f), exactly);
  }
  // From the middle of a buffer on, where no vector begins.
  const std::vector<float> a = random_values(50, 1), b = random_values(50, 2);
  DeviceTensor x(a), term(b);
  run_repeatedly(
      [&](codelets::Stream stream) {
        accumulate(40, floats(x) + 3, floats(term) + 1, Cuda{}, stream);
      },
      {&x});
  std::vector<float> sum = a;
  for (std::size_t i = 0; i < 40; ++i) sum[3 + i] += b[1 + i];
  require_tensor("sum of parts", x, sum, exactly);
}
