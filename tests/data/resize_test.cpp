#include "data/resize.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/random.hpp"
#include "tests/catch.hpp"

namespace {

using namespace stpt::data;
using Bytes = std::vector<std::uint8_t>;

std::size_t area(Size size) {
  return static_cast<std::size_t>(size.width) * static_cast<std::size_t>(size.height);
}

Bytes noise(Size size) {
  stpt::runtime::Random random(1, stpt::runtime::stream_id("test"));
  Bytes pixels(area(size));
  for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random.below(256));
  return pixels;
}

Bytes resized(const Bytes& pixels, Size size, const Rectangle& part, Size to) {
  Bytes out(area(to));
  resize({pixels.data(), size, static_cast<std::size_t>(size.width)}, part, to, out.data());
  return out;
}

Rectangle whole(Size size) {
  return {0, 0, static_cast<double>(size.width), static_cast<double>(size.height)};
}

/// The definition in resize.hpp, without rounding in between, in double.
double expected(const Bytes& pixels, Size size, const Rectangle& part, Size to, int x, int y) {
  const auto weight = [](double start, double length, int outputs, int output, int input) {
    const double scale = length / outputs;
    const double centre = start + (output + 0.5) * scale;
    return std::max(0.0, 1 - std::abs(input + 0.5 - centre) / std::max(1.0, scale));
  };
  double sum = 0;
  double weights = 0;
  for (int v = 0; v < size.height; ++v) {
    const double of_row = weight(part.y, part.height, to.height, y, v);
    if (of_row == 0) continue;
    for (int u = 0; u < size.width; ++u) {
      const double w = of_row * weight(part.x, part.width, to.width, x, u);
      sum += w * pixels[static_cast<std::size_t>(v * size.width + u)];
      weights += w;
    }
  }
  return sum / weights;
}

}  // namespace

TEST_CASE("Resizing does what its definition says", "[resize]") {
  const auto [size, part, to] = GENERATE(table<Size, Rectangle, Size>({
      {{40, 30}, {0, 0, 40, 30}, {20, 15}},             // half
      {{40, 30}, {0, 0, 40, 30}, {17, 23}},             // no whole ratio
      {{100, 70}, {0, 0, 100, 70}, {131, 97}},          // larger, more than a block of columns
      {{40, 30}, {0, 0, 40, 30}, {40, 11}},             // rows alone
      {{40, 30}, {0, 0, 40, 30}, {11, 30}},             // columns alone
      {{90, 80}, {10.5, 3.25, 61.5, 70.75}, {32, 48}},  // a part
      {{1, 1}, {0, 0, 1, 1}, {5, 3}},
      {{3, 200}, {0, 0, 3, 200}, {64, 1}},
      {{700, 300}, {0, 0, 700, 300}, {2, 1}},  // hundreds of taps
  }));
  const Bytes pixels = noise(size);
  const Bytes out = resized(pixels, size, part, to);
  double worst = 0;
  for (int y = 0; y < to.height; ++y) {
    for (int x = 0; x < to.width; ++x) {
      const double error =
          out[static_cast<std::size_t>(y * to.width + x)] - expected(pixels, size, part, to, x, y);
      worst = std::max(worst, std::abs(error));
    }
  }
  CAPTURE(size.width, size.height, to.width, to.height);
  // Half a level from each of the two roundings, and up to half of 2^-8 for each tap, of which
  // those beyond 254 are not made up for on average.
  CHECK(worst < 2.0);
  if (size.width < 700) CHECK(worst < 1.2);
}

TEST_CASE("What is of one colour keeps it", "[resize]") {
  for (const std::uint8_t value : {0, 1, 127, 128, 254, 255}) {
    for (const int side : {1, 2, 3, 15, 16, 17, 63, 64, 65, 100, 255}) {
      const Size size{70, 33};
      const Bytes out = resized(Bytes(area(size), value), size, whole(size), {side, side});
      CAPTURE(value, side);
      CHECK(std::ranges::all_of(out, [value](std::uint8_t pixel) { return pixel == value; }));
    }
  }
}

TEST_CASE("What keeps its size is copied", "[resize]") {
  const Size size{70, 50};
  const Bytes pixels = noise(size);
  CHECK(resized(pixels, size, whole(size), size) == pixels);
  const Bytes part = resized(pixels, size, {3, 7, 20, 10}, {20, 10});
  Bytes cut;
  for (int y = 7; y < 17; ++y) {
    for (int x = 3; x < 23; ++x) cut.push_back(pixels[static_cast<std::size_t>(y * 70 + x)]);
  }
  CHECK(part == cut);
}
