// Shuffles the channels of an image, as ShuffleNet does between grouped convolutions (Zhang et al.
// 2018, section 3.1): `groups` groups of neighbouring channels are dealt out in turn.
//   y[n, c * groups + g, i, j] = x[n, g * (channels / groups) + c, i, j]
// The gradient, and the way back, is a shuffle of channels / groups groups.
#pragma once

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// run(x, y); y is not x.
struct ChannelShuffle {
  TensorSpec x;    ///< also the spec of y; on CUDA in nhwc
  int groups = 1;  ///< divides the channels
};

/// Throws std::invalid_argument unless the groups divide the channels.
void require_valid(const ChannelShuffle& shuffle);

/// The shuffle that undoes it.
[[nodiscard]] ChannelShuffle inverse(const ChannelShuffle& shuffle);

[[nodiscard]] KernelPtr plan(const ChannelShuffle& op, Cpu);
[[nodiscard]] KernelPtr plan(const ChannelShuffle& op, Cuda);

}  // namespace stpt::codelets
