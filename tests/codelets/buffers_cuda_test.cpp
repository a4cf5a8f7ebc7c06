#include <cmath>
#include <numeric>
#include <vector>

#include "codelets/buffers.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::MeanBuffer;

namespace {

float* floats(const DeviceBuffer& buffer) { return static_cast<float*>(buffer.pointer()); }

}  // namespace

TEST_CASE("Sums and copies on a GPU", "[cuda][buffers]") {
  NEEDS_GPUS(1);
  for (const int size : {0, 1, 7, 16, 33, 1000, 5003}) {
    const auto count = static_cast<std::size_t>(size);
    const std::vector<float> a = random_values(size, 1), b = random_values(size, 2);
    std::vector<float> sum = a, doubled = a;
    for (std::size_t i = 0; i < count; ++i) sum[i] += b[i], doubled[i] *= 2;
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
    run([&](codelets::Stream stream) {
      codelets::copy(count * sizeof(float), floats(x), floats(term), Cuda{}, stream);
    });
    require_tensor("copied", x, b, exactly);
    run([&](codelets::Stream stream) {
      codelets::clear(count * sizeof(float), floats(x), Cuda{}, stream);
    });
    require_tensor("cleared", x, std::vector<float>(count, 0.0f), exactly);
  }
  // From the middle of a buffer on, where no vector begins in one of them or in both.
  const std::vector<float> a = random_values(50, 1), b = random_values(50, 2);
  struct Offsets {
    std::size_t sum, term;
  };
  for (const auto& [to, from] : {Offsets{3, 1}, Offsets{8, 1}}) {
    INFO(to << ", " << from);
    DeviceTensor x(a), term(b);
    run_repeatedly(
        [&](codelets::Stream stream) {
          accumulate(40, floats(x) + to, floats(term) + from, Cuda{}, stream);
        },
        {&x});
    std::vector<float> sum = a;
    for (std::size_t i = 0; i < 40; ++i) sum[to + i] += b[from + i];
    require_tensor("sum of parts", x, sum, exactly);
  }
}

TEST_CASE("Means on a GPU agree with the CPU", "[cuda][buffers]") {
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

TEST_CASE("Clear on a GPU", "[cuda][buffers]") {
  NEEDS_GPUS(1);
  for (const std::size_t bytes : {1, 64, 1003}) {
    DeviceBuffer buffer(bytes);
    run_on_gpu(*plan(codelets::Clear{bytes}, Cuda{}), {&buffer}, {&buffer});
    REQUIRE((buffer.download() == Bytes(bytes)));
  }
}
