#include "codelets/batch_norm.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>

#include "codelets/cpu.hpp"
#include "codelets/normalisation.hpp"

namespace stpt::codelets {
namespace {

using namespace normalisation;

class Forward final : public Kernel {
 public:
  explicit Forward(const BatchNormForward& op) : op_(op), geometry_(op.norm.x) {}

  void run(std::span<void* const> args, void*, Stream) const override {
    with_width(geometry_, [&](auto width) { run_blocks<width()>(args); });
  }

 private:
  template <int W>
  void run_blocks(std::span<void* const> args) const {
    std::size_t next = 0;
    const auto argument = [&] { return static_cast<float*>(args[next++]); };
    const float* x = argument();
    const float* residual = op_.norm.residual ? argument() : nullptr;
    const float* gamma = argument();
    const float* beta = argument();
    float* running_mean = argument();
    float* running_variance = argument();
    float* y = argument();
    float* saved_mean = argument();
    float* saved_inverse = argument();

    const auto count = static_cast<double>(geometry_.count());
    const auto epsilon = static_cast<double>(op_.norm.epsilon);
    for (Index block = 0; block < geometry_.blocks; ++block) {
      Affine<W> affine;
      Statistics<W> statistics;
      const bool inference = op_.mode == BatchNormMode::inference;
      if (!inference) compute_statistics(geometry_, block, x, statistics);
      for_each_lane(geometry_, block, [&](int lane, Index channel) {
        double mean, variance;
        if (inference) {
          mean = static_cast<double>(running_mean[channel]);
          variance = static_cast<double>(running_variance[channel]);
        } else {
          mean = statistics.mean[lane];
          variance = statistics.squares[lane] / count;
        }
        const auto inverse = static_cast<float>(1 / std::sqrt(variance + epsilon));
        affine.mean[lane] = static_cast<float>(mean);
        affine.scale[lane] = gamma[channel] * inverse;
        affine.shift[lane] = beta[channel];
        const bool first = geometry_.lanes_are_channels || lane == 0;
        if (op_.mode == BatchNormMode::training && first) {
          saved_mean[channel] = affine.mean[lane];
          saved_inverse[channel] = inverse;
          update(running_mean[channel], mean);
          update(running_variance[channel], statistics.squares[lane] / (count - 1));
        }
      });
      write_y<W>(geometry_, block, op_.norm, x, residual, affine, y);
    }
  }

  void update(float& running, double batch) const {
    const auto momentum = static_cast<double>(op_.norm.momentum);
    // With a momentum of 1 nothing of what was there may count, not even NaN.
    const double kept = momentum == 1 ? 0 : (1 - momentum) * static_cast<double>(running);
    running = static_cast<float>(kept + momentum * batch);
  }

  BatchNormForward op_;
  Geometry geometry_;
};

class Backward final : public Kernel {
 public:
  explicit Backward(const BatchNormBackward& op) : op_(op), geometry_(op.norm.x) {}

  void run(std::span<void* const> args, void*, Stream) const override {
    with_width(geometry_, [&](auto width) {
      with_derivative(op_.norm, [&](auto function) { run_blocks<width(), function()>(args); });
    });
  }

 private:
  template <int W, Behind F>
  void run_blocks(std::span<void* const> args) const {
    const auto [in, gamma, beta, mean, inverse_stddev, d_x, d_residual, d_gamma, d_beta] =
        BackwardArguments(args, op_.norm, op_.two_parts);

    const GradientPasses<W, F> passes(geometry_, in, d_residual, d_x);
    const auto count = static_cast<double>(geometry_.count());
    for (Index block = 0; block < geometry_.blocks; ++block) {
      const Affine<W> affine = affine_of<W>(geometry_, block, mean, inverse_stddev, gamma, beta);
      std::array<double, W> sum{}, product{};
      passes.sum(block, affine, sum, product);

      Combination<W> combination;
      for_each_lane(geometry_, block, [&](int lane, Index channel) {
        const auto inverse = static_cast<double>(inverse_stddev[channel]);
        const auto scale = static_cast<double>(affine.scale[lane]);
        d_beta[channel] = static_cast<float>(sum[lane]);
        d_gamma[channel] = static_cast<float>(product[lane] * inverse);
        combination.on_gradient[lane] = affine.scale[lane];
        combination.on_centred[lane] =
            static_cast<float>(-scale * product[lane] * inverse * inverse / count);
        combination.constant[lane] = static_cast<float>(-scale * sum[lane] / count);
      });
      passes.write(block, affine, combination);
    }
  }

  BatchNormBackward op_;
  Geometry geometry_;
};

}  // namespace

void require_valid(const std::string& what, const BatchNorm& norm, BatchNormMode mode) {
  if (!(norm.epsilon >= 0)) throw std::invalid_argument(what + ": epsilon must not be negative");
  require_fusible(what, norm);
  if (mode != BatchNormMode::inference && norm.x.shape.n * norm.x.shape.spatial() < 2)
    throw std::invalid_argument(what +
                                ": batch statistics need more than one value for each channel");
}

std::size_t batch_norm_mask_bytes(const BatchNorm&, Cpu) { return 0; }

KernelPtr plan(const BatchNormForward& op, Cpu) {
  cpu::require_plain("BatchNormForward", op.norm.x);
  require_valid("BatchNormForward " + op.norm.x.to_string(), op.norm, op.mode);
  return std::make_unique<Forward>(op);
}

KernelPtr plan(const BatchNormBackward& op, Cpu) {
  cpu::require_plain("BatchNormBackward", op.norm.x);
  require_valid("BatchNormBackward " + op.norm.x.to_string(), op.norm, BatchNormMode::training);
  return std::make_unique<Backward>(op);
}

}  // namespace stpt::codelets
