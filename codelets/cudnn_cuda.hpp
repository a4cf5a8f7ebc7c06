// cuDNN's convolutions as kernels. Its frontend's headers are heavy: only cudnn_cuda.cpp includes
// them.
#pragma once

#include <compare>
#include <cstddef>
#include <string>

#include "codelets/kernel.hpp"
#include "codelets/window.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::cudnn {

enum class Pass { forward, backward_data, backward_weights };

/// All tensors, the weights too, are of one type and in nhwc (weights: filters, height, width,
/// channels of a filter: as many as the source's, or of one of its groups). Sums are float32.
///   forward:          run(src, weights, dst)
///   backward_data:    run(weights, d_dst, d_src)
///   backward_weights: run(src, d_dst, d_weights)
struct Convolution {
  Pass pass = Pass::forward;
  runtime::DataType type = runtime::DataType::float32;
  runtime::Shape src, weights, dst;
  Window window;      ///< its kernel is that of the weights
  bool tf32 = false;  ///< matters for float32 only
  friend auto operator<=>(const Convolution&, const Convolution&) = default;
};

/// A kernel for the current device that gives the same bits at each run. Kernels of the same
/// convolution share what cuDNN makes for it. On another device it makes that at its first run,
/// which must not be captured into a graph. `what` names the op in errors: std::invalid_argument if
/// cuDNN has no such convolution, else std::runtime_error.
[[nodiscard]] KernelPtr plan(const Convolution& convolution, const std::string& what);

/// What a plan was made of.
struct Choice {
  std::string engine;  ///< cuDNN's name, as "eng0_k1=2"
  std::size_t workspace_bytes = 0;
};

/// The choice that a GPU of these properties would get; std::invalid_argument if it would get none.
/// Asks the installed cuDNN, and needs no GPU. `properties`: JSON, as cuDNN serializes a device's;
/// `architecture`: 90 for Hopper.
[[nodiscard]] Choice choice_on(const Convolution& convolution, const std::string& properties,
                               int architecture, const std::string& what);

/// How many different convolutions there are kernels of.
[[nodiscard]] std::size_t planned_convolutions();

}  // namespace stpt::codelets::cudnn
