// Dropout (Srivastava et al. 2014), scaled while training so that nothing is left to do afterwards:
//   y[n,c,i,j] = x[n,c,i,j] * (kept ? 1 / (1 - rate) : 0), so that what is not finite is never lost
// What is kept is a pure function of the image's key, the layer and the place in the image,
// whatever the layout, batch and device:
//   kept where word >= rate * 2^32, rounded, with place = (i * width + j) * channels + c and
//   word = philox4x32_10({place / 4, layer, 0, 0}, keys[n])[place % 4]  (runtime/random.hpp)
// Where channels are dropped whole (Tompson et al. 2015), a channel is one place, its number; where
// images are, an image is one, 0: stochastic depth (Huang et al. 2016).
// The gradient is the same: d_x is what the op makes of d_y.
#pragma once

#include <cstdint>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

enum class Dropped { elements, images, channels };

/// run(x, keys, y); y may be x. keys: a runtime::PhiloxKey for each image. On CUDA x is in nhwc.
struct Dropout {
  TensorSpec x;
  double rate = 0;          ///< of those that are dropped, in [0, 1)
  std::uint32_t layer = 0;  ///< layers of other numbers drop others
  Dropped dropped = Dropped::elements;

  /// The least word of an element that is kept.
  [[nodiscard]] std::uint32_t threshold() const;
  /// What is kept times this.
  [[nodiscard]] float scale() const { return static_cast<float>(1 / (1 - rate)); }
};

[[nodiscard]] KernelPtr plan(const Dropout& op, Cpu);
[[nodiscard]] KernelPtr plan(const Dropout& op, Cuda);

/// What all implementations ask: throws std::invalid_argument, which begins with `what`.
void require_consistent(const std::string& what, const Dropout& op);

}  // namespace stpt::codelets
