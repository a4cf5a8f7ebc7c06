// Pooling by its definition, and what to try it on.
#pragma once

#include <string>
#include <vector>

#include "codelets/pool2d.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::pool2d {

using codelets::Pool2d;
using codelets::PoolKind;

inline Pool2d make_pool(PoolKind kind, const Shape& src, const codelets::Window& window,
                        Layout layout = Layout::nchw, bool ceil_mode = false,
                        bool count_padding = false) {
  Pool2d pool;
  pool.kind = kind;
  pool.src = spec_of(src, layout);
  pool.dst = spec_of(codelets::pool2d_output(src, window, ceil_mode), layout);
  pool.window = window;
  pool.count_padding = count_padding, pool.ceil_mode = ceil_mode;
  return pool;
}

inline std::string to_string(const Pool2d& p) { return codelets::describe_op("pool2d", p); }

inline Pool2d in_layout(Pool2d pool, Layout layout) {
  pool.src.layout = pool.dst.layout = layout;
  return pool;
}

/// What the definition makes of `src` and `d_dst` in double precision. Of equal maxima the first
/// wins.
struct Expected {
  Expected(const Pool2d& p, std::span<const float> src, std::span<const float> d_dst)
      : dst(d_dst.size()), d_src(src.size()) {
    const Shape &in = p.src.shape, &out = p.dst.shape;
    const auto& [kernel, stride, padding, dilation] = p.window;
    std::size_t d = 0;
    for (std::int64_t plane = 0; plane < out.n * out.c; ++plane)
      for (std::int64_t y = 0; y < out.h; ++y)
        for (std::int64_t x = 0; x < out.w; ++x, ++d) {
          std::vector<std::size_t> window;
          std::size_t padded = 0;  // places of the window in the padded source
          for (int i = 0; i < kernel.h; ++i)
            for (int j = 0; j < kernel.w; ++j) {
              const std::int64_t sy = y * stride.h - padding.h + i;
              const std::int64_t sx = x * stride.w - padding.w + j;
              if (sy < in.h + padding.h && sx < in.w + padding.w) ++padded;
              if (sy < 0 || sy >= in.h || sx < 0 || sx >= in.w) continue;
              window.push_back(static_cast<std::size_t>((plane * in.h + sy) * in.w + sx));
            }
          if (p.kind == PoolKind::max) {
            std::size_t winner = window.at(0);
            for (const std::size_t s : window) {
              if (src[s] > src[winner]) winner = s;
            }
            dst[d] = static_cast<double>(src[winner]);
            d_src[winner] += static_cast<double>(d_dst[d]);
          } else {
            const double share =
                1.0 / static_cast<double>(p.count_padding ? padded : window.size());
            for (const std::size_t s : window) {
              dst[d] += static_cast<double>(src[s]) * share;
              d_src[s] += static_cast<double>(d_dst[d]) * share;
            }
          }
        }
  }
  std::vector<double> dst, d_src;
};

/// A case of pool2d.bin.
inline Pool2d golden_case(const GoldenFile& file, const std::string& name, Layout layout) {
  const auto numbers = file.at(name + "/geometry").values;
  const auto number = [&](std::size_t i) { return static_cast<int>(numbers.at(i)); };
  const auto pair = [&](std::size_t i) { return codelets::PerAxis(number(i), number(i + 1)); };
  return make_pool(number(0) == 0 ? PoolKind::max : PoolKind::average,
                   golden_shape(file.at(name + "/src")), {pair(1), pair(3), pair(5)}, layout,
                   number(7) != 0, number(0) == 2);
}

inline std::vector<Pool2d> cases() {
  return {
      make_pool(PoolKind::max, {2, 3, 5, 7}, {2, 2, 0}),
      make_pool(PoolKind::max, {2, 16, 8, 8}, {2, 2, 0}),
      make_pool(PoolKind::max, {2, 17, 7, 5}, {3, 2, 1}),
      make_pool(PoolKind::max, {3, 6, 6, 9}, {{3, 2}, 1, 1}),
      make_pool(PoolKind::max, {1, 32, 9, 9}, {3, 2, 0}),
      make_pool(PoolKind::max, {2, 5, 17, 17}, {17, 1, 0}),  // more positions than a byte counts
      make_pool(PoolKind::average, {2, 3, 5, 7}, {2, 2, 0}),
      make_pool(PoolKind::average, {1, 17, 7, 5}, {3, 2, 1}),
      make_pool(PoolKind::average, {3, 16, 6, 9}, {{2, 3}, 1, 1}),
      make_pool(PoolKind::average, {4, 64, 8, 8}, {8, 1, 0}),       // global
      make_pool(PoolKind::average, {1, 20, 7, 5}, {{7, 5}, 1, 0}),  // global
      make_pool(PoolKind::max, {2, 5, 7, 9}, {{1, 4}, {2, 3}, {0, 2}}),
      make_pool(PoolKind::max, {1, 16, 9, 6}, {{3, 2}, {1, 2}, {2, 0}}),
      make_pool(PoolKind::average, {2, 5, 9, 7}, {{4, 1}, {3, 1}, {3, 0}}),
      make_pool(PoolKind::average, {1, 16, 6, 9}, {{2, 3}, {2, 1}, {0, 2}}),
      make_pool(PoolKind::max, {2, 17, 6, 7}, {3, 2, 0}, Layout::nchw, true),
      make_pool(PoolKind::max, {1, 5, 7, 8}, {{3, 4}, {2, 3}, {1, 3}}, Layout::nchw, true),
      make_pool(PoolKind::max, {2, 16, 2, 2}, {3, 2, 0}, Layout::nchw, true),  // a single window
      make_pool(PoolKind::max, {2, 3, 5, 5}, {2, 4, 1}, Layout::nchw, true),   // leaves rows out
      make_pool(PoolKind::max, {1, 3, 3, 3}, {2, 2, 1}, Layout::nchw,
                true),  // one would begin at 3
      make_pool(PoolKind::average, {2, 17, 6, 8}, {3, 2, 1}, Layout::nchw, true),
      make_pool(PoolKind::average, {1, 16, 2, 4}, {{3, 2}, {2, 3}, 0}, Layout::nchw, true),
      make_pool(PoolKind::average, {2, 5, 7, 8}, {3, 2, 1}, Layout::nchw, false, true),
      make_pool(PoolKind::average, {1, 16, 6, 9}, {{2, 5}, {1, 2}, {1, 2}}, Layout::nchw, false,
                true),
      make_pool(PoolKind::average, {2, 17, 6, 8}, {3, 2, 1}, Layout::nchw, true, true),
      // Windows that reach beyond in one direction.
      make_pool(PoolKind::average, {1, 5, 7, 8}, {{4, 5}, {3, 4}, {0, 2}}, Layout::nchw, true,
                true),
      make_pool(PoolKind::average, {1, 5, 8, 9}, {{4, 5}, {3, 4}, {0, 2}}, Layout::nchw, true,
                true),
  };
}

}  // namespace stpt::testing::pool2d
