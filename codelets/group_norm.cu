#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "codelets/group_norm.hpp"
#include "codelets/normalisation.cuh"

namespace stpt::codelets {
namespace {

using namespace normalisation;

// ---- Sums of a group ----------------------------------------------------------------------------

/// A block of the kernels below has the group blockIdx.x of the image blockIdx.y, of which the
/// passes have left sums for each slice and channel.
constexpr unsigned group_threads = 128;

struct Group {
  int image, first_channel, channels;

  __device__ explicit Group(int channels_a_group)
      : image(static_cast<int>(blockIdx.y)),
        first_channel(static_cast<int>(blockIdx.x) * channels_a_group),
        channels(channels_a_group) {}

  /// The sum of of_partial(slice, channel, where it lies), known to all threads, always in the same
  /// order. To be called by all threads, once in a kernel.
  template <class OfPartial>
  __device__ TwoSums sum(const Slices& slices, OfPartial of_partial) const {
    TwoSums own{};
    const int count = slices.count() * channels;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      const int slice = i / channels, channel = first_channel + i % channels;
      own.add(
          of_partial(slice, channel,
                     (std::int64_t{image} * slices.count() + slice) * slices.channels + channel));
    }
    __shared__ TwoSums sums[group_threads];
    sums[threadIdx.x] = own;
    for (unsigned half = group_threads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) sums[threadIdx.x].add(sums[threadIdx.x + half]);
    }
    __syncthreads();
    return sums[0];
  }

  /// visit(where an image and channel's number lies) for the group's channels.
  template <class Visit>
  __device__ void for_each_channel(const Slices& slices, Visit visit) const {
    for (int i = static_cast<int>(threadIdx.x); i < channels; i += static_cast<int>(blockDim.x))
      visit(std::int64_t{image} * slices.channels + first_channel + i);
  }
};

__global__ void __launch_bounds__(group_threads)
    join_moments(const SliceMoments* __restrict__ partials, Slices slices, int channels_a_group,
                 double epsilon, float* __restrict__ mean, float* __restrict__ inverse_stddev) {
  const Group group(channels_a_group);
  // Relative to one slice's mean, so that squares of far means do not drown the rest.
  const double base =
      partials[std::int64_t{group.image} * slices.count() * slices.channels + group.first_channel]
          .whole_mean();
  const auto [sum, second] = group.sum(slices, [&](int slice, int, std::int64_t at) {
    const SliceMoments part = partials[at];
    const auto weight = static_cast<double>(slices.end(slice) - slices.begin(slice));
    const double delta = part.whole_mean() - base;
    return TwoSums{weight * delta, static_cast<double>(part.squares) + weight * delta * delta};
  });
  const double count = static_cast<double>(slices.rows) * group.channels;
  const double rest = second - sum * sum / count;
  const double squares = rest < 0 ? 0 : rest;  // by rounding; NaN stays
  const auto group_mean = static_cast<float>(base + sum / count);
  const auto inverse = static_cast<float>(1 / sqrt(squares / count + epsilon));
  group.for_each_channel(slices, [&](std::int64_t at) {
    mean[at] = group_mean;
    inverse_stddev[at] = inverse;
  });
}

__global__ void __launch_bounds__(group_threads)
    join_gradients(const GradientSums* __restrict__ partials, Slices slices, int channels_a_group,
                   Parameters parameters, Combination combination) {
  const Group group(channels_a_group);
  const auto [sum, product] = group.sum(slices, [&](int, int channel, std::int64_t at) {
    const auto gamma = static_cast<double>(parameters.gamma[channel]);
    return TwoSums{gamma * static_cast<double>(partials[at].sum),
                   gamma * static_cast<double>(partials[at].product)};
  });
  const double count = static_cast<double>(slices.rows) * group.channels;
  group.for_each_channel(slices, [&](std::int64_t at) {
    const auto inverse = static_cast<double>(parameters.inverse_stddev[at]);
    combination.on_centred[at] = static_cast<float>(-inverse * inverse * inverse * product / count);
    combination.constant[at] = static_cast<float>(-inverse * sum / count);
  });
}

/// Over all images.
__global__ void __launch_bounds__(cuda::finish_block_threads)
    finish_parameter_gradients(const GradientSums* __restrict__ partials, Slices slices,
                               const float* __restrict__ inverse_stddev,
                               float* __restrict__ d_gamma, float* __restrict__ d_beta) {
  const int channel = cuda::finished_channel();
  const bool has_channel = channel < slices.channels;
  const int slices_an_image = slices.count();
  const auto [sum, product] = cuda::sum_over_slices<TwoSums>(slices, has_channel, [&](int slice) {
    const GradientSums part = partials[std::int64_t{slice} * slices.channels + channel];
    const int image = slice / slices_an_image;
    const auto inverse =
        static_cast<double>(inverse_stddev[std::int64_t{image} * slices.channels + channel]);
    return TwoSums{static_cast<double>(part.sum), static_cast<double>(part.product) * inverse};
  });
  if (threadIdx.y > 0 || !has_channel) return;
  d_beta[channel] = static_cast<float>(sum);
  d_gamma[channel] = static_cast<float>(product);
}

// ---- Planning -----------------------------------------------------------------------------------

/// What both directions have.
class GroupNormKernel : public Kernel {
 protected:
  GroupNormKernel(std::string what, const GroupNorm& norm)
      : what_(std::move(what)), norm_(norm), passes_(over_images(what_, fused(norm))) {}

  /// Enqueues a kernel with a block for each group of each image.
  template <class... Parameters>
  void launch_on_groups(void (*kernel)(Parameters...), Stream stream,
                        std::type_identity_t<Parameters>... arguments) const {
    cuda::launch(what_, kernel,
                 {static_cast<unsigned>(norm_.groups), static_cast<unsigned>(norm_.x.shape.n)},
                 group_threads, stream, arguments...);
  }
  [[nodiscard]] int channels_a_group() const {
    return static_cast<int>(norm_.x.shape.c / norm_.groups);
  }

  std::string what_;
  GroupNorm norm_;
  std::unique_ptr<const Passes> passes_;
};

class Forward final : public GroupNormKernel {
 public:
  Forward(std::string what, const GroupNormForward& op)
      : GroupNormKernel(std::move(what), op.norm) {
    Parts parts;
    parts.take<SliceMoments>(passes_->partials());
    workspace_bytes_ = parts.bytes();
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    std::size_t next = 0;
    const auto vector = [&] { return static_cast<float*>(args[next++]); };
    const void* x = args[next++];
    const void* residual = norm_.residual ? args[next++] : nullptr;
    const float* gamma = vector();
    const float* beta = vector();
    void* y = args[next++];
    float* mean = vector();
    float* inverse_stddev = vector();
    void* mask = group_norm_mask_bytes(norm_, Cuda{}) > 0 ? args[next] : nullptr;

    auto* const partials = Parts(workspace).take<SliceMoments>(passes_->partials());
    passes_->sum_moments(x, partials, stream);
    launch_on_groups(join_moments, stream, partials, passes_->slices(), channels_a_group(),
                     static_cast<double>(norm_.epsilon), mean, inverse_stddev);
    passes_->normalise(x, residual, {mean, inverse_stddev, gamma, beta}, y, mask, stream);
  }
};

class Backward final : public GroupNormKernel {
 public:
  Backward(std::string what, const GroupNormBackward& op)
      : GroupNormKernel(std::move(what), op.norm), two_parts_(op.two_parts) {
    workspace_bytes_ = Workspace(*this, nullptr).bytes;
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    const auto [gradients, parameters, d_gamma, d_beta] =
        BackwardArguments(args, norm_.residual, two_parts_);

    const Workspace parts(*this, workspace);
    const Slices& slices = passes_->slices();
    passes_->sum_gradients(gradients, parameters, parts.partials, stream);
    cuda::launch_finish(what_, finish_parameter_gradients, slices, stream, parts.partials, slices,
                        parameters.inverse_stddev, d_gamma, d_beta);
    launch_on_groups(join_gradients, stream, parts.partials, slices, channels_a_group(), parameters,
                     parts.combination);
    passes_->combine_gradients(gradients, parameters, parts.combination, stream);
  }

 private:
  struct Workspace {
    GradientSums* partials;
    Combination combination;
    std::size_t bytes;

    Workspace(const Backward& backward, void* memory) {
      Parts parts(memory);
      const auto& shape = backward.norm_.x.shape;
      partials = parts.take<GradientSums>(backward.passes_->partials());
      combination.on_centred = parts.take<float>(shape.n * shape.c);
      combination.constant = parts.take<float>(shape.n * shape.c);
      bytes = parts.bytes();
    }
  };

  bool two_parts_;
};

template <class PlannedKernel, class Op>
KernelPtr plan_group_norm(const std::string& name, const Op& op) {
  const std::string what = name + " " + op.norm.x.to_string();
  cuda::require_nhwc(what, op.norm.x);
  require_valid(op.norm);
  if (op.norm.x.shape.n > 0xffff)
    throw std::invalid_argument(what + ": at most 65535 images on CUDA");
  return std::make_unique<PlannedKernel>(what, op);
}

}  // namespace

std::size_t group_norm_mask_bytes(const GroupNorm& norm, Cuda) {
  return mask_bytes("group norm " + norm.x.to_string(), fused(norm));
}

KernelPtr plan(const GroupNormForward& op, Cuda) {
  return plan_group_norm<Forward>("GroupNormForward", op);
}

KernelPtr plan(const GroupNormBackward& op, Cuda) {
  return plan_group_norm<Backward>("GroupNormBackward", op);
}

}  // namespace stpt::codelets
