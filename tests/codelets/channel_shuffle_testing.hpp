// What the tests of shuffled channels share: values by definition, and PyTorch's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "codelets/channel_shuffle.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::channel_shuffle {

struct Values {
  Shape shape;
  int groups;
  std::vector<float> x, y, d_y, d_x;
};

/// What lands where: channel c of group g at c * groups + g.
inline Values values_of(const Shape& shape, int groups, unsigned seed) {
  Values values{shape, groups, random_values(shape.elements(), seed), {}, {}, {}};
  values.d_y = random_values(shape.elements(), seed + 1);
  values.y.resize(values.x.size());
  values.d_x.resize(values.x.size());
  const std::int64_t pixels = shape.spatial(), of_group = shape.c / groups;
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const std::int64_t n = i / pixels / shape.c, channel = i / pixels % shape.c;
    const std::int64_t to = channel % of_group * groups + channel / of_group;
    const std::int64_t j = (n * shape.c + to) * pixels + i % pixels;
    values.y[static_cast<std::size_t>(j)] = values.x[static_cast<std::size_t>(i)];
    values.d_x[static_cast<std::size_t>(i)] = values.d_y[static_cast<std::size_t>(j)];
  }
  return values;
}

/// One channel, one group, as many as channels; vectors and parts of blocks; more channels than a
/// block of threads has side by side, more rows than it takes.
inline std::vector<Values> all_values() {
  return {values_of({1, 1, 1, 1}, 1, 1),     values_of({2, 6, 3, 2}, 1, 3),
          values_of({2, 6, 3, 2}, 6, 5),     values_of({3, 20, 2, 3}, 4, 7),
          values_of({2, 24, 4, 3}, 3, 9),    values_of({2, 116, 3, 3}, 2, 11),
          values_of({1, 528, 2, 2}, 16, 13), values_of({3, 16, 40, 40}, 2, 15)};
}

inline std::vector<Values> golden() {
  std::vector<Values> all;
  const GoldenFile file = load_golden("channel_shuffle.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto tensor = [&](const char* of) { return file.at(name + "/" + of).values; };
    all.push_back({golden_shape(file.at(name + "/x")), static_cast<int>(tensor("settings")[0]),
                   tensor("x"), tensor("y"), tensor("d_y"), tensor("d_x")});
  }
  return all;
}

/// Values are copied.
inline constexpr Tolerance exact{0, 0};

}  // namespace stpt::testing::channel_shuffle
