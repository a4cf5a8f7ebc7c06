// 2-D convolution by its definition.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "codelets/conv2d.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::conv2d {

using codelets::Conv2d;

struct Case {
  Shape src;
  std::int64_t filters;
  codelets::Window window;
  bool bias;
  int groups = 1;
};

inline std::string to_string(const Case& c) {
  return c.src.to_string() + ", " + std::to_string(c.filters) + " filters, " + to_string(c.window) +
         (c.bias ? ", bias" : "") +
         (c.groups > 1 ? ", " + std::to_string(c.groups) + " groups" : "");
}

inline Conv2d make_conv(const Case& c, Layout src = Layout::nchw, Layout dst = Layout::nchw) {
  Conv2d conv;
  conv.src = spec_of(c.src, src);
  conv.dst = spec_of(codelets::conv2d_output(c.src, c.filters, c.window, c.groups), dst);
  conv.window = c.window, conv.bias = c.bias, conv.groups = c.groups;
  return conv;
}

/// A case of conv2d.bin.
inline Case golden_case(const GoldenFile& file, const std::string& name) {
  const auto numbers = file.at(name + "/geometry").values;
  const auto number = [&](std::size_t i) { return static_cast<int>(numbers.at(i)); };
  const auto pair = [&](std::size_t i) { return codelets::PerAxis(number(i), number(i + 1)); };
  return {golden_shape(file.at(name + "/src")),
          golden_shape(file.at(name + "/dst")).c,
          {pair(0), pair(2), pair(4), pair(6)},
          file.contains(name + "/bias"),
          number(8)};
}

inline std::int64_t weight_count(const Case& c) {
  return c.filters * (c.src.c / c.groups) * c.window.kernel.h * c.window.kernel.w;
}

/// Calls visit(index in src, index in weights, index in dst) for every product in the definition.
template <typename Visit>
void for_each_product(const Case& c, const Shape& dst, Visit visit) {
  const std::int64_t channels = c.src.c / c.groups, filters = c.filters / c.groups;
  const auto& [kernel, stride, padding, dilation] = c.window;
  for (std::int64_t n = 0; n < dst.n; ++n)
    for (std::int64_t k = 0; k < dst.c; ++k)
      for (std::int64_t y = 0; y < dst.h; ++y)
        for (std::int64_t x = 0; x < dst.w; ++x)
          for (std::int64_t ch = 0; ch < channels; ++ch)
            for (int i = 0; i < kernel.h; ++i)
              for (int j = 0; j < kernel.w; ++j) {
                const std::int64_t sy = y * stride.h - padding.h + i * dilation.h;
                const std::int64_t sx = x * stride.w - padding.w + j * dilation.w;
                if (sy < 0 || sy >= c.src.h || sx < 0 || sx >= c.src.w) continue;
                const std::int64_t plane = n * c.src.c + k / filters * channels + ch;
                visit(static_cast<std::size_t>((plane * c.src.h + sy) * c.src.w + sx),
                      static_cast<std::size_t>(((k * channels + ch) * kernel.h + i) * kernel.w + j),
                      static_cast<std::size_t>(((n * dst.c + k) * dst.h + y) * dst.w + x));
              }
}

/// Inputs, and what the definition makes of them in double precision. `round` is what the device
/// does to the weights; the other inputs are rounded already.
struct Reference {
  explicit Reference(const Case& c, const std::function<float(float)>& round = std::identity()) {
    const Shape dst_shape = make_conv(c).dst.shape;
    const auto rounded_values = [&](std::int64_t count, unsigned seed) {
      std::vector<float> values = random_values(count, seed);
      for (float& value : values) value = round(value);
      return values;
    };
    src = rounded_values(c.src.elements(), 1);
    weights = random_values(weight_count(c), 2);
    bias = random_values(c.filters, 3);
    d_dst = rounded_values(dst_shape.elements(), 4);
    dst.resize(d_dst.size());
    d_src.resize(src.size());
    d_weights.resize(weights.size());
    d_bias.resize(bias.size());
    for (std::size_t i = 0; i < dst.size(); ++i) {
      const std::size_t k = i / static_cast<std::size_t>(dst_shape.spatial()) % bias.size();
      if (c.bias) dst[i] = static_cast<double>(bias[k]);
      d_bias[k] += static_cast<double>(d_dst[i]);
    }
    std::vector<double> device_weights(weights.size());
    std::ranges::transform(weights, device_weights.begin(),
                           [&](float weight) { return static_cast<double>(round(weight)); });
    for_each_product(c, dst_shape, [&](std::size_t s, std::size_t w, std::size_t d) {
      const double weight = device_weights[w];
      dst[d] += static_cast<double>(src[s]) * weight;
      d_src[s] += static_cast<double>(d_dst[d]) * weight;
      d_weights[w] += static_cast<double>(src[s]) * static_cast<double>(d_dst[d]);
    });
  }

  std::vector<float> src, weights, bias, d_dst;
  std::vector<double> dst, d_src, d_weights, d_bias;
};

inline std::vector<double> relu(std::vector<double> values) {
  for (double& value : values) value = value > 0 ? value : 0;
  return values;
}

inline const std::vector<Case> small_cases = {
    {{2, 3, 5, 7}, 16, {3, 1, 1}, false},     // first layer
    {{1, 1, 9, 9}, 6, {5, 1, 2}, true},       // LeNet's first
    {{2, 6, 9, 7}, 16, {5, 1, 0}, true},      // LeNet's second
    {{2, 16, 5, 7}, 16, {3, 1, 1}, false},    // residual block
    {{2, 16, 7, 5}, 32, {3, 2, 1}, false},    // its strided form
    {{2, 16, 7, 6}, 32, {1, 2, 0}, false},    // its shortcut
    {{1, 17, 5, 4}, 18, {3, 1, 1}, true},     // a little more than a block
    {{1, 5, 4, 6}, 7, {{2, 3}, 2, 1}, true},  // kernel not square, padding wider than needed
    {{3, 8, 6, 5}, 24, {1, 1, 0}, true},
    {{1, 2, 3, 3}, 3, {3, 3, 2}, false},
    {{2, 4, 1, 1}, 5, {1, 1, 1}, true},        // outputs that see only padding
    {{2, 9, 4, 3}, 1, {3, 1, 1}, true},        // one filter
    {{2, 16, 5, 6}, 32, {3, 1, 1}, false, 4},  // groups smaller than a block of channels
    {{2, 32, 5, 4}, 32, {3, 2, 1}, true, 2},   // and as large as one
    {{2, 16, 6, 5}, 16, {3, 1, 1}, true, 16},  // depthwise
    {{1, 7, 5, 5}, 14, {3, 2, 1}, false, 7},   // with two filters a channel, no whole block
    {{2, 6, 4, 4}, 9, {1, 1, 0}, true, 3},
    {{2, 16, 4, 9}, 16, {{1, 7}, 1, {0, 3}}, false},  // Inception's pair
    {{2, 16, 9, 4}, 16, {{7, 1}, 1, {3, 0}}, true},
    {{2, 5, 8, 9}, 7, {3, {2, 1}, {0, 2}}, true},
    {{1, 16, 7, 9}, 18, {3, {1, 3}, 1}, false},
    {{2, 16, 9, 9}, 16, {3, 1, 2, 2}, false},  // dilated as in DeepLab
    {{2, 3, 11, 9}, 16, {3, 2, 1, 2}, true},
    {{1, 17, 9, 11}, 5, {{2, 3}, {2, 1}, {1, 4}, {3, 4}}, true},
    {{2, 16, 9, 7}, 32, {3, {1, 2}, 2, {2, 1}}, false, 4},
    {{2, 16, 8, 9}, 16, {3, {2, 1}, {2, 3}, {2, 3}}, true, 16},
};

/// Of such sizes that cuDNN computes them on an H200 by the engines that ResNets are trained with.
inline const std::vector<Case> engine_cases = {
    {{8, 64, 14, 14}, 128, {3, 2, 1}, false}, {{1, 256, 7, 7}, 256, {3, 1, 1}, false},
    {{8, 64, 8, 8}, 64, {3, 1, 1}, false},    {{4, 256, 14, 14}, 64, {1, 1, 0}, false},
    {{1, 16, 56, 56}, 16, {3, 1, 1}, false},  {{64, 16, 14, 14}, 32, {3, 2, 1}, false},
    {{1, 32, 16, 16}, 16, {3, 1, 1}, false},  {{32, 3, 14, 14}, 16, {3, 1, 1}, false},
    {{4, 16, 28, 28}, 64, {3, 2, 1}, false},  {{16, 3, 7, 7}, 16, {3, 1, 1}, false},
    {{16, 16, 14, 14}, 16, {3, 2, 1}, false}, {{128, 16, 32, 32}, 32, {3, 2, 1}, false},
};

/// What is checked on a GPU: the cases of every device, and the kinds of ResNet-50 in small, with
/// channels that make vectors or not.
inline std::vector<Case> gpu_cases() {
  std::vector<Case> cases = small_cases;
  for (const Case& c : {
           Case{{2, 3, 33, 31}, 16, {7, 2, 3}, true}, Case{{2, 64, 8, 8}, 24, {1, 1, 0}, true},
           Case{{3, 20, 9, 9}, 65, {3, 2, 1}, true},
           Case{{1, 8, 6, 6}, 320, {1, 2, 0}, true},  // several groups of channels
       })
    cases.push_back(c);
  cases.insert(cases.end(), engine_cases.begin(), engine_cases.end());
  return cases;
}

}  // namespace stpt::testing::conv2d
