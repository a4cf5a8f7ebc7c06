#include "codelets/dropout.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/codelets/dropout_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::dropout;
using codelets::Cpu;

namespace {

std::vector<float> dropped(const Case& c, const std::vector<float>& x, Layout layout) {
  const Dropout op = c.in(layout);
  std::vector<PhiloxKey> keys = c.keys;
  Tensor src(op.x, x), y(op.x);
  const auto kernel = plan(op, Cpu{});
  run_kernel(*kernel, {src.pointer(), keys.data(), y.pointer()});
  run_kernel(*kernel, {src.pointer(), keys.data(), src.pointer()});
  require_tensor("y in place", src, y.values(), {0, 0});
  REQUIRE(y.padding_is_zero());
  return y.values();
}

}  // namespace

TEST_CASE("dropout agrees with PyTorch in every layout", "[dropout][golden]") {
  for (const GoldenCase& c : golden()) {
    for (const Layout layout : all_layouts) {
      INFO(c.in(layout).x.to_string() << ", rate " << c.op.rate);
      require_close("y", dropped(c, c.x, layout), c.y, few_roundings);
      require_close("d_x", dropped(c, c.d_y, layout), c.d_x, few_roundings);
    }
  }
}

TEST_CASE("dropout is the same in every layout", "[dropout]") {
  for (const Case& c : cases()) {
    const std::vector<float> expected = dropped(c, c.x, Layout::nchw);
    for (const Layout layout : all_layouts) CHECK(dropped(c, c.x, layout) == expected);
  }
}

TEST_CASE("dropout keeps what its rate says, and the sum", "[dropout]") {
  constexpr std::int64_t places = 40000;
  Case c{{spec_of({1, places, 1, 1}), 0, 1}, {{5, 6}}, std::vector<float>(places, 1.0f)};
  const auto ones = [&](const Case& of) { return dropped(of, of.x, Layout::nhwc); };
  for (const double rate : {0.1, 0.5, 0.9}) {
    c.op.rate = rate;
    const std::vector<float> y = ones(c);
    const auto zeros = std::ranges::count(y, 0.0f);
    // Five standard deviations.
    CHECK(std::abs(static_cast<double>(zeros) / places - rate) <
          5 * std::sqrt(rate * (1 - rate) / places));
    CHECK(std::ranges::count(y, static_cast<float>(1 / (1 - rate))) + zeros == places);
  }
  // Independent of what other layers and images drop.
  c.op.rate = 0.5;
  const std::vector<float> y = ones(c);
  Case other_layer = c, other_image = c;
  other_layer.op.layer = 2;
  other_image.keys[0][1] ^= 1U;
  for (const Case& other : {other_layer, other_image}) {
    const std::vector<float> z = ones(other);
    std::int64_t same = 0;
    for (std::size_t i = 0; i < y.size(); ++i) same += y[i] == z[i] ? 1 : 0;
    CHECK(std::abs(static_cast<double>(same) / places - 0.5) < 5 * std::sqrt(0.25 / places));
  }
}

TEST_CASE("dropout loses nothing that is not finite", "[dropout]") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float values[] = {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity};
  Case c{{spec_of({1, 60, 1, 1}), 0.5, 1}, {{5, 6}}, {}};
  for (std::size_t i = 0; i < 60; ++i) c.x.push_back(values[i % 3]);
  const std::vector<float> y = dropped(c, c.x, Layout::nchw8c);
  CHECK(std::ranges::none_of(y, [](float value) { return std::isfinite(value); }));
  CHECK(std::ranges::count(y, infinity) > 0);
}

TEST_CASE("rates next to the ends are what they say", "[dropout]") {
  CHECK(Dropout{{}, 0, 1}.threshold() == 0);
  CHECK(Dropout{{}, 0.25, 1}.threshold() == 0x40000000U);
  CHECK(Dropout{{}, std::nextafter(1.0, 0.0), 1}.threshold() == 0xffffffffU);
}

TEST_CASE("dropout says what it cannot do", "[dropout]") {
  Dropout op{spec_of({2, 3, 4, 5}), 0.5, 1};
  for (const double rate : {-0.1, 1.0, std::nan("")}) {
    op.rate = rate;
    require_complaint([&] { (void)plan(op, Cpu{}); },
                      {"Dropout 2x3x4x5 float32 nchw: the rate must be at least 0 and below 1"});
  }
  op.rate = 0.5;
  op.x.type = DataType::float16;
  require_complaint([&] { (void)plan(op, Cpu{}); }, {"Dropout 2x3x4x5 float16", "float32 only"});
  op.x = spec_of({2, 0, 4, 5});
  require_complaint([&] { (void)plan(op, Cpu{}); }, {"Dropout", "at least 1"});
}
