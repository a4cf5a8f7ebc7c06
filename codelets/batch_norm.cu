#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "codelets/batch_norm.hpp"
#include "codelets/normalisation.cuh"

namespace stpt::codelets {
namespace {

using namespace normalisation;

/// The running statistics, nullptr where they are not to be updated, and what backward needs.
struct Kept {
  float *running_mean, *running_variance, *mean, *inverse_stddev;
  double momentum;

  __device__ void update(float& running, double batch) const {
    // With a momentum of 1 nothing of what was there may count, not even NaN.
    const double kept = momentum == 1 ? 0 : (1 - momentum) * static_cast<double>(running);
    running = static_cast<float>(kept + momentum * batch);
  }
};

__global__ void __launch_bounds__(cuda::finish_block_threads)
    finish_moments(const SliceMoments* __restrict__ partials, Slices slices, double epsilon,
                   float* __restrict__ mean, float* __restrict__ inverse_stddev, Kept kept) {
  const int channel = cuda::finished_channel();
  const bool has_channel = channel < slices.channels;
  // Relative to one slice's mean, so that squares of far means do not drown the rest.
  const double base = has_channel ? partials[channel].whole_mean() : 0;
  const auto [sum, second] = cuda::sum_over_slices<TwoSums>(slices, has_channel, [&](int slice) {
    const SliceMoments part = partials[std::int64_t{slice} * slices.channels + channel];
    const auto weight = static_cast<double>(slices.end(slice) - slices.begin(slice));
    const double delta = part.whole_mean() - base;
    return TwoSums{weight * delta, static_cast<double>(part.squares) + weight * delta * delta};
  });
  if (threadIdx.y > 0 || !has_channel) return;
  const auto count = static_cast<double>(slices.rows);
  const double whole_mean = base + sum / count;
  const double rest = second - sum * sum / count;
  const double squares = rest < 0 ? 0 : rest;  // by rounding; NaN stays
  mean[channel] = static_cast<float>(whole_mean);
  inverse_stddev[channel] = static_cast<float>(1 / sqrt(squares / count + epsilon));
  if (!kept.mean) return;
  kept.mean[channel] = mean[channel];
  kept.inverse_stddev[channel] = inverse_stddev[channel];
  kept.update(kept.running_mean[channel], whole_mean);
  kept.update(kept.running_variance[channel], squares / (count - 1));
}

__global__ void running_moments(const float* __restrict__ running_mean,
                                const float* __restrict__ running_variance, int channels,
                                double epsilon, float* __restrict__ mean,
                                float* __restrict__ inverse_stddev) {
  const int channel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= channels) return;
  mean[channel] = running_mean[channel];
  inverse_stddev[channel] =
      static_cast<float>(1 / sqrt(static_cast<double>(running_variance[channel]) + epsilon));
}

__global__ void __launch_bounds__(cuda::finish_block_threads)
    finish_gradients(const GradientSums* __restrict__ partials, Slices slices,
                     Parameters parameters, Combination combination, float* __restrict__ d_gamma,
                     float* __restrict__ d_beta) {
  const int channel = cuda::finished_channel();
  const bool has_channel = channel < slices.channels;
  const auto [sum, product] = cuda::sum_over_slices<TwoSums>(slices, has_channel, [&](int slice) {
    const GradientSums part = partials[std::int64_t{slice} * slices.channels + channel];
    return TwoSums{static_cast<double>(part.sum), static_cast<double>(part.product)};
  });
  if (threadIdx.y > 0 || !has_channel) return;
  const auto inverse = static_cast<double>(parameters.inverse_stddev[channel]);
  const double scale = static_cast<double>(parameters.gamma[channel]) * inverse;
  const auto count = static_cast<double>(slices.rows);
  d_beta[channel] = static_cast<float>(sum);
  d_gamma[channel] = static_cast<float>(product * inverse);
  combination.on_centred[channel] =
      static_cast<float>(-scale * product * inverse * inverse / count);
  combination.constant[channel] = static_cast<float>(-scale * sum / count);
}

class Forward final : public Kernel {
 public:
  Forward(std::string what, const BatchNormForward& op)
      : what_(std::move(what)), op_(op), passes_(over_batch(what_, fused(op.norm))) {
    workspace_bytes_ = Workspace(*this, nullptr).bytes;
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    std::size_t next = 0;
    const auto vector = [&] { return static_cast<float*>(args[next++]); };
    const void* x = args[next++];
    const void* residual = op_.norm.residual ? args[next++] : nullptr;
    const float* gamma = vector();
    const float* beta = vector();
    float* running_mean = vector();
    float* running_variance = vector();
    void* y = args[next++];
    float* saved_mean = vector();
    float* saved_inverse = vector();
    void* mask = op_.mode == BatchNormMode::training && batch_norm_mask_bytes(op_.norm, Cuda{}) > 0
                     ? args[next]
                     : nullptr;

    const Workspace parts(*this, workspace);
    const Slices& slices = passes_->slices();
    const auto epsilon = static_cast<double>(op_.norm.epsilon);
    if (op_.mode == BatchNormMode::inference) {
      constexpr unsigned threads = 128;
      cuda::launch(what_, running_moments, cuda::blocks_for(slices.channels, threads), threads,
                   stream, running_mean, running_variance, slices.channels, epsilon, parts.mean,
                   parts.inverse_stddev);
    } else {
      Kept kept{};
      if (op_.mode == BatchNormMode::training)
        kept = {running_mean, running_variance, saved_mean, saved_inverse,
                static_cast<double>(op_.norm.momentum)};
      passes_->sum_moments(x, parts.partials, stream);
      cuda::launch_finish(what_, finish_moments, slices, stream, parts.partials, slices, epsilon,
                          parts.mean, parts.inverse_stddev, kept);
    }
    passes_->normalise(x, residual, {parts.mean, parts.inverse_stddev, gamma, beta}, y, mask,
                       stream);
  }

 private:
  struct Workspace {
    SliceMoments* partials = nullptr;
    float *mean, *inverse_stddev;
    std::size_t bytes;

    Workspace(const Forward& forward, void* memory) {
      Parts parts(memory);
      const auto& passes = *forward.passes_;
      if (forward.op_.mode != BatchNormMode::inference)
        partials = parts.take<SliceMoments>(passes.partials());
      mean = parts.take<float>(passes.slices().channels);
      inverse_stddev = parts.take<float>(passes.slices().channels);
      bytes = parts.bytes();
    }
  };

  std::string what_;
  BatchNormForward op_;
  std::unique_ptr<const Passes> passes_;
};

class Backward final : public Kernel {
 public:
  Backward(std::string what, const BatchNormBackward& op)
      : what_(std::move(what)), op_(op), passes_(over_batch(what_, fused(op.norm))) {
    workspace_bytes_ = Workspace(*passes_, nullptr).bytes;
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    const auto [gradients, parameters, d_gamma, d_beta] =
        BackwardArguments(args, op_.norm.residual, op_.two_parts);

    const Workspace parts(*passes_, workspace);
    passes_->sum_gradients(gradients, parameters, parts.partials, stream);
    cuda::launch_finish(what_, finish_gradients, passes_->slices(), stream, parts.partials,
                        passes_->slices(), parameters, parts.combination, d_gamma, d_beta);
    passes_->combine_gradients(gradients, parameters, parts.combination, stream);
  }

 private:
  struct Workspace {
    GradientSums* partials;
    Combination combination;
    std::size_t bytes;

    Workspace(const Passes& passes, void* memory) {
      Parts parts(memory);
      partials = parts.take<GradientSums>(passes.partials());
      combination.on_centred = parts.take<float>(passes.slices().channels);
      combination.constant = parts.take<float>(passes.slices().channels);
      bytes = parts.bytes();
    }
  };

  std::string what_;
  BatchNormBackward op_;
  std::unique_ptr<const Passes> passes_;
};

}  // namespace

std::size_t batch_norm_mask_bytes(const BatchNorm& norm, Cuda) {
  return mask_bytes("batch norm " + norm.x.to_string(), fused(norm));
}

KernelPtr plan(const BatchNormForward& op, Cuda) {
  const std::string what = "BatchNormForward " + op.norm.x.to_string();
  cuda::require_nhwc(what, op.norm.x);
  require_valid(what, op.norm, op.mode);
  return std::make_unique<Forward>(what, op);
}

KernelPtr plan(const BatchNormBackward& op, Cuda) {
  const std::string what = "BatchNormBackward " + op.norm.x.to_string();
  cuda::require_nhwc(what, op.norm.x);
  require_valid(what, op.norm, BatchNormMode::training);
  return std::make_unique<Backward>(what, op);
}

}  // namespace stpt::codelets
