// The arithmetic of the emulated cuDNN: 2D convolutions, forward and backward.
#pragma once

#include <array>
#include <cstdint>

#include "tests/emulated_cuda/numbers.hpp"

namespace emulated_cuda {

/// Four dimensions (n c h w, for weights k c r s) anywhere in memory.
struct ConvolutionTensor {
  Number type = Number::float32;
  std::array<std::int64_t, 4> dims{};
  std::array<std::int64_t, 4> strides{};
  std::int64_t id = 0;
  std::int64_t alignment = 1;

  [[nodiscard]] std::int64_t elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
  /// From the first element to behind the last.
  [[nodiscard]] std::size_t extent_bytes() const {
    std::int64_t last = 0;
    for (std::size_t i = 0; i < dims.size(); ++i) last += (dims[i] - 1) * strides[i];
    return static_cast<std::size_t>(last + 1) * bytes_of(type);
  }
};

enum class Direction { forward, backward_data, backward_filter };

struct Convolution {
  Direction direction = Direction::forward;
  ConvolutionTensor x, w, y;  ///< the output, too, is one of them
  std::array<std::int64_t, 2> pre_padding{}, post_padding{}, stride{}, dilation{};
  float alpha = 1, beta = 0;
  bool tf32 = false;  ///< rounds float32 inputs

  [[nodiscard]] const ConvolutionTensor& output() const {
    return direction == Direction::forward ? y : direction == Direction::backward_data ? x : w;
  }
  /// Channels in = groups * those of a filter; y's size follows from x's.
  [[nodiscard]] bool shapes_fit() const;
};

/// The output becomes alpha * convolution + beta * output.
void convolve(const Convolution& convolution, void* x, void* w, void* y);

}  // namespace emulated_cuda
