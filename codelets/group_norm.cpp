#include "codelets/group_norm.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "codelets/cpu.hpp"
#include "codelets/normalisation.hpp"

namespace stpt::codelets {
namespace {

using namespace normalisation;

Geometry geometry_of_image(TensorSpec spec) {
  spec.shape.n = 1;
  return Geometry(spec);
}

/// What both directions have.
class GroupNormKernel : public Kernel {
 protected:
  GroupNormKernel(const GroupNorm& norm, int arrays)
      : norm_(norm),
        image_(geometry_of_image(norm.x)),
        images_(norm.x.shape.n),
        channels_(norm.x.shape.c),
        group_channels_(channels_ / norm.groups) {
    workspace_bytes_ = static_cast<std::size_t>(arrays * channels_) * sizeof(double);
  }

  /// The workspace's array of a number for each channel.
  [[nodiscard]] std::span<double> array(void* workspace, Index number) const {
    return {static_cast<double*>(workspace) + number * channels_,
            static_cast<std::size_t>(channels_)};
  }
  [[nodiscard]] double count() const {
    return static_cast<double>(group_channels_ * image_.spatial);
  }

  GroupNorm norm_;
  Geometry image_;
  Index images_, channels_, group_channels_;
};

class Forward final : public GroupNormKernel {
 public:
  explicit Forward(const GroupNormForward& op) : GroupNormKernel(op.norm, 2) {}

  void run(std::span<void* const> args, void* workspace, Stream) const override {
    with_width(image_, [&](auto width) { run_images<width()>(args, workspace); });
  }

 private:
  template <int W>
  void run_images(std::span<void* const> args, void* workspace) const {
    std::size_t next = 0;
    const auto argument = [&] { return static_cast<float*>(args[next++]); };
    const float* x = argument();
    const float* residual = norm_.residual ? argument() : nullptr;
    const float* gamma = argument();
    const float* beta = argument();
    float* y = argument();
    float* mean = argument();
    float* inverse_stddev = argument();

    const std::span<double> means = array(workspace, 0), squares = array(workspace, 1);
    for (Index image = 0; image < images_; ++image) {
      for (Index block = 0; block < image_.blocks; ++block) {
        Statistics<W> statistics;
        compute_statistics(image_, block, x, statistics);
        for_each_lane(image_, block, [&](int lane, Index channel) {
          means[static_cast<std::size_t>(channel)] = statistics.mean[lane];
          squares[static_cast<std::size_t>(channel)] = statistics.squares[lane];
        });
      }
      for (Index first = 0; first < channels_; first += group_channels_)
        join_group(means, squares, first, mean, inverse_stddev);
      for (Index block = 0; block < image_.blocks; ++block) {
        write_y<W>(image_, block, norm_, x, residual,
                   affine_of<W>(image_, block, mean, inverse_stddev, gamma, beta), y);
      }
      x += image_.image_stride;
      y += image_.image_stride;
      if (residual) residual += image_.image_stride;
      mean += channels_;
      inverse_stddev += channels_;
    }
  }

  /// From the statistics of the group's channels, which have equally many values.
  void join_group(std::span<const double> means, std::span<const double> squares, Index first,
                  float* mean, float* inverse_stddev) const {
    const auto begin = static_cast<std::size_t>(first),
               size = static_cast<std::size_t>(group_channels_);
    double sum = 0, deviations = 0;
    for (const double of_channel : means.subspan(begin, size)) sum += of_channel;
    const double joint = sum / static_cast<double>(group_channels_);
    for (std::size_t channel = begin; channel < begin + size; ++channel) {
      const double shift = means[channel] - joint;
      deviations += squares[channel] + static_cast<double>(image_.spatial) * shift * shift;
    }
    const double variance = deviations / count();
    std::fill_n(mean + first, group_channels_, static_cast<float>(joint));
    std::fill_n(inverse_stddev + first, group_channels_,
                static_cast<float>(1 / std::sqrt(variance + static_cast<double>(norm_.epsilon))));
  }
};

class Backward final : public GroupNormKernel {
 public:
  explicit Backward(const GroupNormBackward& op)
      : GroupNormKernel(op.norm, 4), two_parts_(op.two_parts) {}

  void run(std::span<void* const> args, void* workspace, Stream) const override {
    with_width(image_, [&](auto width) {
      with_derivative(norm_,
                      [&](auto function) { run_images<width(), function()>(args, workspace); });
    });
  }

 private:
  template <int W, Behind F>
  void run_images(std::span<void* const> args, void* workspace) const {
    auto [in, gamma, beta, mean, inverse_stddev, d_x, d_residual, d_gamma, d_beta] =
        BackwardArguments(args, norm_, two_parts_);

    // Of the image, and of all images so far.
    const std::span<double> sums = array(workspace, 0), products = array(workspace, 1);
    const std::span<double> all_sums = array(workspace, 2), all_products = array(workspace, 3);
    std::ranges::fill(all_sums, 0.0);
    std::ranges::fill(all_products, 0.0);
    for (Index image = 0; image < images_; ++image) {
      const GradientPasses<W, F> passes(image_, in, d_residual, d_x);
      const auto own_affine = [&](Index block) {
        return affine_of<W>(image_, block, mean, inverse_stddev, gamma, beta);
      };
      for (Index block = 0; block < image_.blocks; ++block) {
        std::array<double, W> sum{}, product{};
        passes.sum(block, own_affine(block), sum, product);
        for_each_lane(image_, block, [&](int lane, Index channel) {
          sums[static_cast<std::size_t>(channel)] = sum[lane];
          products[static_cast<std::size_t>(channel)] = product[lane];
        });
      }
      for (Index first = 0; first < channels_; first += group_channels_)
        join_group(sums, products, all_sums, all_products, first, gamma, inverse_stddev);
      for (Index block = 0; block < image_.blocks; ++block) {
        const Affine<W> affine = own_affine(block);
        Combination<W> combination;
        combination.on_gradient = affine.scale;
        for_each_lane(image_, block, [&](int lane, Index channel) {
          const auto at = static_cast<std::size_t>(channel);
          combination.on_centred[lane] = static_cast<float>(products[at]);
          combination.constant[lane] = static_cast<float>(sums[at]);
        });
        passes.write(block, affine, combination);
      }
      in.x += image_.image_stride;
      if constexpr (F == Behind::relu_in_y) in.y += image_.image_stride;
      in.d_y += image_.image_stride;
      if (in.d_y2) in.d_y2 += image_.image_stride;
      d_x += image_.image_stride;
      if (d_residual) d_residual += image_.image_stride;
      mean += channels_;
      inverse_stddev += channels_;
    }
    for (std::size_t channel = 0; channel < all_sums.size(); ++channel) {
      d_beta[channel] = static_cast<float>(all_sums[channel]);
      d_gamma[channel] = static_cast<float>(all_products[channel]);
    }
  }

  /// Adds the sums of the group's channels to those of all images, and puts what d_x has of the
  /// group's sums in their place: `sums` becomes the constant, `products` the factor of x - mean.
  void join_group(std::span<double> sums, std::span<double> products, std::span<double> all_sums,
                  std::span<double> all_products, Index first, const float* gamma,
                  const float* inverse_stddev) const {
    const auto begin = static_cast<std::size_t>(first),
               end = begin + static_cast<std::size_t>(group_channels_);
    const auto inverse = static_cast<double>(inverse_stddev[first]);
    double sum = 0, product = 0;
    for (std::size_t channel = begin; channel < end; ++channel) {
      all_sums[channel] += sums[channel];
      all_products[channel] += products[channel] * inverse;
      sum += static_cast<double>(gamma[channel]) * sums[channel];
      product += static_cast<double>(gamma[channel]) * products[channel];
    }
    const double constant = -inverse * sum / count();
    const double on_centred = -inverse * inverse * inverse * product / count();
    for (std::size_t channel = begin; channel < end; ++channel) {
      sums[channel] = constant;
      products[channel] = on_centred;
    }
  }

  bool two_parts_;
};

}  // namespace

void require_valid(const GroupNorm& norm) {
  const auto& shape = norm.x.shape;
  const auto fail = [&](const std::string& problem) {
    throw std::invalid_argument("group norm of " + shape.to_string() + " in " +
                                std::to_string(norm.groups) + " groups: " + problem);
  };
  if (!(norm.epsilon >= 0)) fail("epsilon must not be negative");
  require_fusible("group norm", norm);
  if (norm.groups < 1 || shape.c % norm.groups != 0) fail("groups must divide the channels");
  if (shape.c / norm.groups * shape.spatial() < 2)
    fail("a group needs more than one value of an image");
}

std::size_t group_norm_mask_bytes(const GroupNorm&, Cpu) { return 0; }

KernelPtr plan(const GroupNormForward& op, Cpu) {
  cpu::require_plain("GroupNormForward", op.norm.x);
  require_valid(op.norm);
  return std::make_unique<Forward>(op);
}

KernelPtr plan(const GroupNormBackward& op, Cpu) {
  cpu::require_plain("GroupNormBackward", op.norm.x);
  require_valid(op.norm);
  return std::make_unique<Backward>(op);
}

}  // namespace stpt::codelets
