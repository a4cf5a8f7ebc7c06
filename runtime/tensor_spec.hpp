// What a tensor is, apart from where it lives: shape, data type and memory layout.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

namespace stpt::runtime {

/// Logical dimensions, always in the order batch, channels, height, width. A matrix of n rows and c
/// columns is {n, c, 1, 1}; a vector of c elements is {1, c, 1, 1}.
struct Shape {
  std::int64_t n = 1;
  std::int64_t c = 1;
  std::int64_t h = 1;
  std::int64_t w = 1;

  [[nodiscard]] std::int64_t elements() const { return n * c * h * w; }
  [[nodiscard]] std::int64_t spatial() const { return h * w; }
  [[nodiscard]] std::int64_t smallest() const { return std::min({n, c, h, w}); }
  [[nodiscard]] std::string to_string() const;  ///< "64x16x32x32"
  friend auto operator<=>(const Shape&, const Shape&) = default;
  friend bool operator==(const Shape&, const Shape&) = default;  // nvcc 13 wants it said
};

enum class DataType : std::uint8_t { float32, bfloat16, float16, int32, uint8 };

[[nodiscard]] std::size_t size_of(DataType type);    ///< bytes per element
[[nodiscard]] const char* to_string(DataType type);  ///< "float32", ...

/// Order of the elements in memory, outermost dimension first. In the blocked layouts channels are
/// split into blocks of 8 or 16; the last block is padded with zeros, which every writer keeps
/// zero.
enum class Layout : std::uint8_t {
  any,      ///< not chosen yet: the op that writes the tensor chooses
  nchw,     ///< n c h w
  nhwc,     ///< n h w c
  nchw8c,   ///< n c/8 h w 8c
  nchw16c,  ///< n c/16 h w 16c
};

[[nodiscard]] const char* to_string(Layout layout);
/// Channels that lie together innermost: 1 for nchw, 8 and 16 for the blocked ones, c for nhwc.
[[nodiscard]] std::int64_t channel_block(Layout layout, std::int64_t channels);

struct TensorSpec {
  Shape shape;
  DataType type = DataType::float32;
  Layout layout = Layout::nchw;

  /// Elements in memory, with the padding of blocked layouts.
  [[nodiscard]] std::int64_t stored_elements() const;
  [[nodiscard]] std::size_t bytes() const;
  [[nodiscard]] std::string to_string() const;  ///< "64x16x32x32 float32 nchw16c"
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

/// Whether both describe the same memory, element by element.
[[nodiscard]] bool same_memory(const TensorSpec& a, const TensorSpec& b);

}  // namespace stpt::runtime
