// What a convolution or a pool sees of its source for a place of its result: every `dilation`-th of
// so many rows and columns, beginning `padding` before the source and then each `stride` further.
#pragma once

#include <compare>
#include <string>

#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

/// A number for height and one for width.
struct PerAxis {
  int h, w;

  constexpr PerAxis(int both) : h(both), w(both) {}
  constexpr PerAxis(int height, int width) : h(height), w(width) {}
  [[nodiscard]] constexpr int smallest() const { return h < w ? h : w; }
  friend auto operator<=>(const PerAxis&, const PerAxis&) = default;
  friend bool operator==(const PerAxis&, const PerAxis&) = default;  // nvcc 13 wants it said
};

struct Window {
  PerAxis kernel = 1, stride = 1, padding = 0, dilation = 1;

  /// Rows and columns from its first to its last.
  [[nodiscard]] constexpr PerAxis span() const {
    return {(kernel.h - 1) * dilation.h + 1, (kernel.w - 1) * dilation.w + 1};
  }
  friend auto operator<=>(const Window&, const Window&) = default;
  friend bool operator==(const Window&, const Window&) = default;
};

/// "2", or "2x1" where the two differ.
[[nodiscard]] std::string to_string(PerAxis numbers);

/// "kernel 3x3, stride 1, padding 1", and ", dilation 2" where that is not 1.
[[nodiscard]] std::string to_string(const Window& window);

/// "the padded source, 7x7": for errors about windows that are larger; of a dilated one "..., for
/// it spans 9x9".
[[nodiscard]] std::string describe_padded(const Window& window, const runtime::Shape& src);

/// `src` with as many rows and columns as the window has places in the source and its padding, on
/// both sides; 0 if it is larger than that. `ceil_mode`, as PyTorch has it: the last window may
/// reach beyond, but begins inside the source or before it.
[[nodiscard]] runtime::Shape slide(const Window& window, const runtime::Shape& src,
                                   bool ceil_mode = false);

}  // namespace stpt::codelets
