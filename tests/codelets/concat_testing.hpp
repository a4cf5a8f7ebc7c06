// Joined tensors by their definition.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "codelets/concat.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::concat {

using codelets::Concat;

struct Case {
  std::int64_t n, h, w;
  std::vector<std::int64_t> channels;  ///< of the parts
};

inline const std::vector<Case> cases = {
    {2, 3, 5, {16, 32}},         // whole blocks and vectors
    {2, 3, 5, {16, 8, 5}},       // a rest in the last one
    {1, 4, 3, {5, 3}},           // parts of a block
    {3, 1, 1, {1, 1, 1}},        // rows of one element
    {1, 2, 2, {300, 8, 16, 4}},  // more than a block of threads takes at once
    {2, 17, 19, {8}},            // one part
};

inline std::string to_string(const Case& c) {
  std::string text = std::to_string(c.n) + "x?x" + std::to_string(c.h) + "x" + std::to_string(c.w);
  for (const std::int64_t channels : c.channels) text += " " + std::to_string(channels);
  return text;
}

inline Concat make_concat(const Case& c, DataType type, Layout layout) {
  Concat concat;
  concat.whole = {{c.n, 0, c.h, c.w}, type, layout};
  for (const std::int64_t channels : c.channels) {
    concat.parts.push_back({{c.n, channels, c.h, c.w}, type, layout});
    concat.whole.shape.c += channels;
  }
  return concat;
}

/// Parts but the last fill their blocks of channels.
inline bool fits(const Case& c, Layout layout) {
  const int block = layout == Layout::nchw8c ? 8 : layout == Layout::nchw16c ? 16 : 1;
  for (std::size_t i = 0; i + 1 < c.channels.size(); ++i)
    if (c.channels[i] % block != 0) return false;
  return true;
}

/// In nchw.
struct Values {
  Values() = default;
  explicit Values(const Case& c) {
    unsigned seed = 1;
    for (const std::int64_t channels : c.channels) {
      parts.push_back(random_values(c.n * channels * c.h * c.w, seed++));
      d_parts.push_back(random_values(c.n * channels * c.h * c.w, seed++));
    }
    for (std::int64_t n = 0; n < c.n; ++n) {
      for (std::size_t i = 0; i < parts.size(); ++i) {
        const std::int64_t image = c.channels[i] * c.h * c.w;
        const auto append = [&](std::vector<float>& to, const std::vector<float>& from) {
          to.insert(to.end(), from.begin() + n * image, from.begin() + (n + 1) * image);
        };
        append(whole, parts[i]);
        append(d_whole, d_parts[i]);
      }
    }
  }

  std::vector<std::vector<float>> parts, d_parts;
  std::vector<float> whole, d_whole;
};

/// The whole with zeros where the part would be.
inline std::vector<float> without_part(const Case& c, const Values& values, std::size_t part) {
  const std::int64_t pixels = c.h * c.w, image = std::ssize(values.whole) / c.n;
  const std::int64_t first =
      pixels * std::accumulate(c.channels.begin(),
                               c.channels.begin() + static_cast<std::ptrdiff_t>(part),
                               std::int64_t{0});
  std::vector<float> whole = values.whole;
  for (std::int64_t n = 0; n < c.n; ++n)
    std::fill_n(whole.begin() + n * image + first, c.channels[part] * pixels, 0.0f);
  return whole;
}

/// PyTorch's.
inline std::vector<std::pair<Case, Values>> golden_values() {
  std::vector<std::pair<Case, Values>> all;
  const GoldenFile file = load_golden("concat.bin");
  for (const std::string& name : golden_cases(file)) {
    const Shape shape = golden_shape(file.at(name + "/whole"));
    auto& [c, values] = all.emplace_back(Case{shape.n, shape.h, shape.w, {}}, Values());
    for (std::size_t i = 0; file.contains(name + "/part" + std::to_string(i)); ++i) {
      const GoldenTensor& part = file.at(name + "/part" + std::to_string(i));
      c.channels.push_back(golden_shape(part).c);
      values.parts.push_back(part.values);
      values.d_parts.push_back(file.at(name + "/d_part" + std::to_string(i)).values);
    }
    values.whole = file.at(name + "/whole").values;
    values.d_whole = file.at(name + "/d_whole").values;
  }
  return all;
}

}  // namespace stpt::testing::concat
