#include "codelets/buffers.hpp"

#include <array>
#include <cmath>
#include <vector>

#include "tests/codelets/kernel_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::MeanBuffer;

namespace {

/// Sizes around the vectors of any machine.
constexpr std::array sizes = {0, 1, 7, 16, 33, 1000};

}  // namespace

TEST_CASE("Sums", "[buffers]") {
  for (const int size : sizes) {
    const auto count = static_cast<std::size_t>(size);
    const std::vector<float> a = random_values(size, 1), b = random_values(size, 2);
    std::vector<float> sum = a, doubled = a;
    for (std::size_t i = 0; i < count; ++i) sum[i] += b[i], doubled[i] *= 2;

    Flat x(a), term(b);
    auto* pointer = static_cast<float*>(x.pointer());
    accumulate(count, pointer, static_cast<float*>(term.pointer()), Cpu{}, nullptr);
    require_flat("sum", x, sum, {0, 0});
    x.set(a);
    accumulate(count, pointer, pointer, Cpu{}, nullptr);
    require_flat("sum with itself", x, doubled, {0, 0});
  }
}

TEST_CASE("The mean over several moments", "[buffers]") {
  for (const int size : sizes) {
    const auto count = static_cast<std::size_t>(size);
    Flat mean(std::vector<float>(count, NAN)), other(std::vector<float>(1, NAN));
    std::vector<double> sum(count, 0.0);
    for (int moment = 1; moment <= 4; ++moment) {
      const std::vector<float> values = random_values(size, static_cast<unsigned>(moment));
      Flat value(values);
      for (std::size_t i = 0; i < count; ++i) sum[i] += values[i];
      const auto floats = [](Flat& flat) { return static_cast<float*>(flat.pointer()); };
      const MeanBuffer buffers[] = {{count, floats(mean), floats(value)},
                                    {0, floats(other), floats(value)}};
      update_mean(buffers, 1.0f / static_cast<float>(moment), Cpu{}, nullptr);
      // Values below 1 in size: two roundings a moment, 6e-8 each at most.
      for (std::size_t i = 0; i < count; ++i)
        REQUIRE(std::abs(mean.values()[i] - sum[i] / moment) <= 1e-6);
    }
    CHECK(std::isnan(other.values()[0]));
    CHECK(mean.guard_intact());
  }
}
