// What normalisations do on GPUs, in nhwc. They are bound by memory traffic: each direction reads
// its tensors once for sums and once for the results, in reverse order, so that the end of the
// first pass is still in the cache. The rows are cut into slices. A block sums one slice of a group
// of channels in float and leaves the partial sums in the workspace, where a kernel of the op adds
// them in double, always in the same order. The slices depend on the shape only, not on the GPU. In
// .cu files only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "codelets/elementwise.hpp"
#include "codelets/nhwc.cuh"
#include "runtime/tensor.hpp"

namespace stpt::codelets::normalisation {

using cuda::Slices;

/// Of a slice of a channel. The mean is relative to the pivot, a value of the slice: so it is
/// accurate however far from zero the values are.
struct SliceMoments {
  float pivot, mean, squares;

  __device__ double whole_mean() const {
    return static_cast<double>(pivot) + static_cast<double>(mean);
  }
};

/// Over a slice of a channel: of the gradient g, and of g * (x - mean).
struct GradientSums {
  float sum, product;

  __device__ void add(const GradientSums& other) {
    sum += other.sum;
    product += other.product;
  }
};

/// Two sums over slices at once.
struct TwoSums {
  double a, b;
  __device__ void add(const TwoSums& other) {
    a += other.a;
    b += other.b;
  }
};

/// What is normalised with: a mean and an inverse standard deviation for each set (cuda::Slices)
/// and channel, gamma and beta for each channel.
struct Parameters {
  const float *mean, *inverse_stddev, *gamma, *beta;
};

/// d_x = scale * g + on_centred * (x - mean) + constant, for each channel.
struct Combination {
  float *on_centred, *constant;
};

/// What backward is given.
struct Gradients {
  const void *x, *mask, *d_y;
  const void* d_y2;  ///< nullptr unless the gradient comes in two parts
  void* d_residual;  ///< nullptr if nobody wants it; may be d_y or d_y2
  void* d_x;         ///< may be d_y or d_y2
};

/// What the backward op of a BatchNorm or GroupNorm is given, in the order of its arguments.
struct BackwardArguments {
  Gradients gradients{};
  Parameters parameters{};
  float *d_gamma, *d_beta;

  BackwardArguments(std::span<void* const> args, bool residual, bool two_parts) {
    std::size_t next = 0;
    const auto vector = [&] { return static_cast<float*>(args[next++]); };
    gradients.x = args[next++];
    gradients.mask = args[next++];
    parameters.gamma = vector();
    parameters.beta = vector();
    parameters.mean = vector();
    parameters.inverse_stddev = vector();
    gradients.d_y = args[next++];
    gradients.d_y2 = two_parts ? args[next++] : nullptr;
    gradients.d_x = args[next++];
    gradients.d_residual = residual ? args[next++] : nullptr;
    d_gamma = vector();
    d_beta = vector();
  }
};

/// The tensor of a normalisation, with what is fused into it.
struct Fused {
  runtime::TensorSpec x;
  bool relu, residual;
  std::optional<Activation> function;
  float slope;
};

/// Of a BatchNorm or GroupNorm.
template <class Norm>
Fused fused(const Norm& norm) {
  return {norm.x, norm.relu, norm.residual, norm.function, norm.slope};
}

/// What forward leaves of the ReLU for backward.
[[nodiscard]] std::size_t mask_bytes(const std::string& what, const Fused& fused);

/// The passes over tensors, each one kernel.
class Passes {
 public:
  explicit Passes(const Slices& slices) : slices_(slices) {}
  virtual ~Passes() = default;

  [[nodiscard]] const Slices& slices() const { return slices_; }
  /// Of SliceMoments or GradientSums: partials[set][slice][channel].
  [[nodiscard]] std::int64_t partials() const {
    return std::int64_t{slices_.all()} * slices_.channels;
  }

  virtual void sum_moments(const void* x, SliceMoments* partials, Stream stream) const = 0;
  /// `mask` may be nullptr.
  virtual void normalise(const void* x, const void* residual, const Parameters& parameters, void* y,
                         void* mask, Stream stream) const = 0;
  /// Also writes d_residual.
  virtual void sum_gradients(const Gradients& gradients, const Parameters& parameters,
                             GradientSums* partials, Stream stream) const = 0;
  /// Writes d_x.
  virtual void combine_gradients(const Gradients& gradients, const Parameters& parameters,
                                 const Combination& combination, Stream stream) const = 0;

 private:
  Slices slices_;
};

/// For a tensor in nhwc. `what` begins the errors; throws std::invalid_argument for a type that
/// CUDA does not compute in.
[[nodiscard]] std::unique_ptr<const Passes> over_batch(const std::string& what, const Fused& fused);
/// The same with a set of sums for each image.
[[nodiscard]] std::unique_ptr<const Passes> over_images(const std::string& what,
                                                        const Fused& fused);

/// Cuts a workspace into parts; without memory it only adds up their sizes.
class Parts {
 public:
  explicit Parts(void* memory = nullptr) : memory_(static_cast<std::byte*>(memory)) {}

  template <class T>
  T* take(std::int64_t count) {
    std::byte* part = memory_ ? memory_ + bytes_ : nullptr;
    bytes_ +=
        runtime::align_up(static_cast<std::size_t>(count) * sizeof(T), cuda::workspace_alignment);
    return reinterpret_cast<T*>(part);
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  std::size_t bytes_ = 0;
};

}  // namespace stpt::codelets::normalisation
