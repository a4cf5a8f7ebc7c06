// What the tests of dropout share: PyTorch's tensors and others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "codelets/dropout.hpp"
#include "runtime/random.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::dropout {

using codelets::Dropout;
using runtime::PhiloxKey;

struct Case {
  Dropout op;  ///< in nchw
  std::vector<PhiloxKey> keys;
  std::vector<float> x;

  [[nodiscard]] Dropout in(Layout layout, DataType type = DataType::float32) const {
    Dropout result = op;
    result.x.layout = layout;
    result.x.type = type;
    return result;
  }
};

struct GoldenCase : Case {
  std::vector<float> y, d_y, d_x;
};

/// PyTorch's, with masks of a Philox in Python.
inline std::vector<GoldenCase> golden() {
  std::vector<GoldenCase> all;
  const GoldenFile file = load_golden("dropout.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto values = [&](const char* tensor) { return file.at(name + "/" + tensor).values; };
    GoldenCase& made = all.emplace_back();
    made.op = {spec_of(golden_shape(file.at(name + "/x"))), values("settings")[0],
               static_cast<std::uint32_t>(values("settings")[1]),
               static_cast<codelets::Dropped>(values("settings")[2])};
    const std::vector<float> keys = values("keys");
    for (std::size_t i = 0; i < keys.size(); i += 2)
      made.keys.push_back(
          {static_cast<std::uint32_t>(keys[i]), static_cast<std::uint32_t>(keys[i + 1])});
    made.x = values("x");
    made.y = values("y");
    made.d_y = values("d_y");
    made.d_x = values("d_x");
  }
  return all;
}

/// 1 / (1 - rate), which is itself rounded to float32 in the file, the product and the reference
/// are each rounded once.
inline constexpr Tolerance few_roundings{0x1p-22, 0};

/// All words of a Philox block and a rest, whole blocks, of channels, too, more than a GPU's block.
inline std::vector<Case> cases() {
  std::vector<Case> all;
  std::uint32_t seed = 0;
  for (const Shape& shape : {Shape{1, 1, 1, 1}, Shape{3, 7, 1, 1}, Shape{2, 16, 4, 4},
                             Shape{2, 19, 9, 5}, Shape{5, 300, 1, 1}}) {
    for (const double rate : {0.0, 0.3, 0.999}) {
      for (const auto dropped :
           {codelets::Dropped::elements, codelets::Dropped::images, codelets::Dropped::channels}) {
        ++seed;
        Case& made = all.emplace_back();
        made.op = {spec_of(shape), rate, seed, dropped};
        for (std::int64_t i = 0; i < shape.n; ++i)
          made.keys.push_back({seed, 0xfffffff0U - static_cast<std::uint32_t>(i)});
        made.x = random_values(shape.elements(), seed);
      }
    }
  }
  return all;
}

}  // namespace stpt::testing::dropout
