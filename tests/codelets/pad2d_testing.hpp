// What the tests of padding share: values by definition, and PyTorch's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "codelets/pad2d.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::pad2d {

using codelets::Pad2d;
using codelets::PerAxis;

struct Values {
  Shape src, dst;
  PerAxis before;
  std::vector<float> x, y, d_y, d_x;

  [[nodiscard]] Pad2d op(DataType type, Layout layout) const {
    return {{src, type, layout}, {dst, type, layout}, before};
  }
};

inline Values values_of(const Shape& src, PerAxis before, PerAxis after, unsigned seed) {
  Values values{src, src, before, random_values(src.elements(), seed), {}, {}, {}};
  values.dst.h += before.h + after.h;
  values.dst.w += before.w + after.w;
  values.d_y = random_values(values.dst.elements(), seed + 1);
  values.y.resize(values.d_y.size());
  const std::int64_t pixels = src.spatial();
  for (std::int64_t i = 0; i < src.elements(); ++i) {
    const std::int64_t y = i % pixels / src.w + before.h, x = i % src.w + before.w;
    const auto at = static_cast<std::size_t>((i / pixels * values.dst.h + y) * values.dst.w + x);
    values.y[at] = values.x[static_cast<std::size_t>(i)];
    values.d_x.push_back(values.d_y[at]);
  }
  return values;
}

/// Nothing, one side, all; one channel, parts of blocks, vectors; more than a grid's first step.
inline std::vector<Values> all_values() {
  return {values_of({2, 3, 4, 5}, 0, 0, 1),
          values_of({1, 1, 1, 1}, {1, 0}, 0, 3),
          values_of({2, 16, 3, 4}, 0, {0, 2}, 5),
          values_of({2, 19, 4, 3}, {1, 2}, {3, 0}, 7),
          values_of({3, 24, 5, 5}, {0, 3}, {2, 1}, 9),
          values_of({2, 8, 30, 40}, 1, 2, 11)};
}

inline std::vector<Values> golden() {
  std::vector<Values> all;
  const GoldenFile file = load_golden("pad2d.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto tensor = [&](const char* of) { return file.at(name + "/" + of).values; };
    const auto before = tensor("before");
    all.push_back({golden_shape(file.at(name + "/x")),
                   golden_shape(file.at(name + "/y")),
                   {static_cast<int>(before[0]), static_cast<int>(before[1])},
                   tensor("x"),
                   tensor("y"),
                   tensor("d_y"),
                   tensor("d_x")});
  }
  return all;
}

/// Values are copied.
inline constexpr Tolerance exact{0, 0};

}  // namespace stpt::testing::pad2d
