#include "codelets/layer_norm.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "codelets/cpu.hpp"

// The CPU implementation. A pixel's channels lie in blocks of `width` lanes, each of which is
// summed for itself. A few neighbouring pixels are taken at once, so that cache lines of a block
// that follow each other are read together.

namespace stpt::codelets {
namespace {

using Index = std::int64_t;

constexpr Index pixels_at_once = 8;

template <int W>
using Lanes = std::array<float, W>;
template <int W>
using Sums = std::array<Lanes<W>, pixels_at_once>;
using OfPixels = std::array<float, pixels_at_once>;

template <int W>
double sum_of(const Lanes<W>& lanes) {
  return std::accumulate(lanes.begin(), lanes.end(), 0.0);
}

class LayerNormKernel : public Kernel {
 protected:
  LayerNormKernel(const char* op, const LayerNorm& norm) : norm_(norm) {
    cpu::require_plain(op, norm.x);
    require_valid(norm);
    const runtime::Shape& shape = norm.x.shape;
    channels_ = shape.c;
    if (runtime::same_memory(norm.x, {shape, norm.x.type, runtime::Layout::nhwc})) {
      images_ = 1;
      pixels_ = shape.n * shape.spatial();
      width_ = block_stride_ = 16;
      pixel_stride_ = channels_;
    } else if (norm.x.layout == runtime::Layout::nchw) {
      throw std::invalid_argument(std::string(op) + " " + norm.x.to_string() +
                                  ": the layout must be nhwc, nchw8c or nchw16c");
    } else {
      images_ = shape.n;
      pixels_ = shape.spatial();
      width_ = pixel_stride_ = runtime::channel_block(norm.x.layout, channels_);
      block_stride_ = width_ * pixels_;
      padded_ = true;
    }
    blocks_ = (channels_ + width_ - 1) / width_;
    image_stride_ = norm.x.stored_elements() / images_;
  }

  /// visit(where the first pixel begins, its number among all, how many there are) for at most
  /// pixels_at_once neighbours each.
  template <class Visit>
  void for_each_tile(Visit visit) const {
    for (Index image = 0; image < images_; ++image) {
      for (Index pixel = 0; pixel < pixels_; pixel += pixels_at_once) {
        visit(image * image_stride_ + pixel * pixel_stride_, image * pixels_ + pixel,
              std::min(pixels_at_once, pixels_ - pixel));
      }
    }
  }

  /// visit(where it begins in a pixel, its first channel, its lanes) for each block; the lanes are
  /// a constant where all are there.
  template <int W, class Visit>
  void for_each_block(Visit visit) const {
    for (Index block = 0; block < blocks_; ++block) {
      const Index first = block * W;
      if (channels_ - first >= W) {
        visit(block * block_stride_, first, std::integral_constant<Index, W>{});
      } else {
        visit(block * block_stride_, first, channels_ - first);
      }
    }
  }

  template <int W>
  void pad(float* lanes, Index used) const {
    if (padded_) std::fill(lanes + used, lanes + W, 0.0f);
  }

  template <class Visit>
  void with_width(Visit visit) const {
    if (width_ == 8) return visit(std::integral_constant<int, 8>{});
    visit(std::integral_constant<int, 16>{});
  }

  LayerNorm norm_;
  Index channels_ = 0, images_ = 0, pixels_ = 0, blocks_ = 0;
  Index width_ = 0, block_stride_ = 0, pixel_stride_ = 0, image_stride_ = 0;
  bool padded_ = false;  ///< the last block has all lanes in memory
};

class Forward final : public LayerNormKernel {
 public:
  explicit Forward(const LayerNormForward& op) : LayerNormKernel("LayerNormForward", op.norm) {}

  void run(std::span<void* const> args, void*, Stream) const override {
    with_width([&](auto width) { run_tiles<width()>(args); });
  }

 private:
  template <int W>
  void run_tiles(std::span<void* const> args) const {
    const auto* x = static_cast<const float*>(args[0]);
    const auto* gamma = static_cast<const float*>(args[1]);
    const auto* beta = static_cast<const float*>(args[2]);
    auto* y = static_cast<float*>(args[3]);
    auto* mean = static_cast<float*>(args[4]);
    auto* inverse_stddev = static_cast<float*>(args[5]);
    for_each_tile([&](Index at, Index pixel, Index count) {
      normalise<W>(x + at, gamma, beta, count, y + at, mean + pixel, inverse_stddev + pixel);
    });
  }

  template <int W>
  void normalise(const float* x, const float* gamma, const float* beta, Index count, float* y,
                 float* mean, float* inverse_stddev) const {
    const auto channels = static_cast<double>(channels_);
    Sums<W> sums{};
    for_each_block<W>([&](Index at, Index, auto lanes) {
      for (Index pixel = 0; pixel < count; ++pixel) {
        const float* const in = x + at + pixel * pixel_stride_;
        Lanes<W>& sum = sums[static_cast<std::size_t>(pixel)];
        for (Index i = 0; i < lanes; ++i) sum[static_cast<std::size_t>(i)] += in[i];
      }
    });
    // About a mean that is rounded; what that leaves out is corrected below.
    OfPixels about{};
    for (std::size_t pixel = 0; pixel < pixels_at_once; ++pixel)
      about[pixel] = static_cast<float>(sum_of<W>(sums[pixel]) / channels);
    Sums<W> deviations{}, squares{};
    for_each_block<W>([&](Index at, Index, auto lanes) {
      for (Index pixel = 0; pixel < count; ++pixel) {
        const float* const in = x + at + pixel * pixel_stride_;
        const auto p = static_cast<std::size_t>(pixel);
        for (Index i = 0; i < lanes; ++i) {
          const float deviation = in[i] - about[p];
          deviations[p][static_cast<std::size_t>(i)] += deviation;
          squares[p][static_cast<std::size_t>(i)] += deviation * deviation;
        }
      }
    });
    for (Index pixel = 0; pixel < count; ++pixel) {
      const auto p = static_cast<std::size_t>(pixel);
      const double shift = sum_of<W>(deviations[p]) / channels;
      const double variance = sum_of<W>(squares[p]) / channels - shift * shift;
      mean[pixel] = static_cast<float>(static_cast<double>(about[p]) + shift);
      inverse_stddev[pixel] = static_cast<float>(
          1 / std::sqrt(std::max(variance, 0.0) + static_cast<double>(norm_.epsilon)));
      // max(NaN, 0) is 0.
      if (std::isnan(variance)) inverse_stddev[pixel] = static_cast<float>(variance);
    }
    for_each_block<W>([&](Index at, Index channel, auto lanes) {
      for (Index pixel = 0; pixel < count; ++pixel) {
        const float* const in = x + at + pixel * pixel_stride_;
        float* const out = y + at + pixel * pixel_stride_;
        const float own_mean = mean[pixel], own_inverse = inverse_stddev[pixel];
        for (Index i = 0; i < lanes; ++i)
          out[i] = (in[i] - own_mean) * own_inverse * gamma[channel + i] + beta[channel + i];
        pad<W>(out, lanes);
      }
    });
  }
};

class Backward final : public LayerNormKernel {
 public:
  explicit Backward(const LayerNormBackward& op) : LayerNormKernel("LayerNormBackward", op.norm) {
    workspace_bytes_ = static_cast<std::size_t>(2 * channels_) * sizeof(double);
  }

  void run(std::span<void* const> args, void* workspace, Stream) const override {
    with_width([&](auto width) { run_tiles<width()>(args, static_cast<double*>(workspace)); });
  }

 private:
  struct Inputs {
    const float *x, *d_y, *mean, *inverse_stddev;
  };

  template <int W>
  void run_tiles(std::span<void* const> args, double* sums) const {
    const auto argument = [&](std::size_t i) { return static_cast<float*>(args[i]); };
    const float* gamma = argument(1);
    double *const gamma_sums = sums, *const beta_sums = sums + channels_;
    std::fill_n(sums, 2 * channels_, 0.0);
    for_each_tile([&](Index at, Index pixel, Index count) {
      const Inputs in{argument(0) + at, argument(4) + at, argument(2) + pixel, argument(3) + pixel};
      differentiate<W>(in, gamma, count, argument(5) + at, gamma_sums, beta_sums);
    });
    std::transform(gamma_sums, gamma_sums + channels_, argument(6),
                   [](double sum) { return static_cast<float>(sum); });
    std::transform(beta_sums, beta_sums + channels_, argument(7),
                   [](double sum) { return static_cast<float>(sum); });
  }

  template <int W>
  void differentiate(const Inputs& in, const float* gamma, Index count, float* d_x,
                     double* gamma_sums, double* beta_sums) const {
    // Of the gradient of what gamma multiplies, and of its products with that.
    Sums<W> sums{}, products{};
    for_each_block<W>([&](Index at, Index channel, auto lanes) {
      Lanes<W> of_gamma{}, of_beta{};
      for (Index pixel = 0; pixel < count; ++pixel) {
        const auto p = static_cast<std::size_t>(pixel);
        const float* const x = in.x + at + pixel * pixel_stride_;
        const float* const d_y = in.d_y + at + pixel * pixel_stride_;
        for (Index i = 0; i < lanes; ++i) {
          const auto lane = static_cast<std::size_t>(i);
          const float normalised = (x[i] - in.mean[pixel]) * in.inverse_stddev[pixel];
          const float gradient = d_y[i] * gamma[channel + i];
          sums[p][lane] += gradient;
          products[p][lane] += gradient * normalised;
          of_gamma[lane] += d_y[i] * normalised;
          of_beta[lane] += d_y[i];
        }
      }
      for (Index i = 0; i < lanes; ++i) {
        gamma_sums[channel + i] += static_cast<double>(of_gamma[static_cast<std::size_t>(i)]);
        beta_sums[channel + i] += static_cast<double>(of_beta[static_cast<std::size_t>(i)]);
      }
    });
    const auto channels = static_cast<double>(channels_);
    OfPixels constant{}, on_normalised{};
    for (std::size_t pixel = 0; pixel < pixels_at_once; ++pixel) {
      constant[pixel] = static_cast<float>(sum_of<W>(sums[pixel]) / channels);
      on_normalised[pixel] = static_cast<float>(sum_of<W>(products[pixel]) / channels);
    }
    for_each_block<W>([&](Index at, Index channel, auto lanes) {
      for (Index pixel = 0; pixel < count; ++pixel) {
        const auto p = static_cast<std::size_t>(pixel);
        const float* const x = in.x + at + pixel * pixel_stride_;
        const float* const d_y = in.d_y + at + pixel * pixel_stride_;
        float* const out = d_x + at + pixel * pixel_stride_;
        for (Index i = 0; i < lanes; ++i) {
          const float normalised = (x[i] - in.mean[pixel]) * in.inverse_stddev[pixel];
          out[i] = in.inverse_stddev[pixel] *
                   (d_y[i] * gamma[channel + i] - constant[p] - normalised * on_normalised[p]);
        }
        pad<W>(out, lanes);
      }
    });
  }
};

}  // namespace

void require_valid(const LayerNorm& norm) {
  const auto fail = [&](const std::string& problem) {
    throw std::invalid_argument("layer norm of " + norm.x.shape.to_string() + ": " + problem);
  };
  if (!(norm.epsilon >= 0)) fail("epsilon must not be negative");
  if (norm.x.shape.c < 2) fail("a pixel needs more than one channel");
}

void choose_layout(LayerNorm& norm, Cpu) {
  if (norm.x.layout == runtime::Layout::nchw) norm.x.layout = runtime::Layout::nhwc;
}

KernelPtr plan(const LayerNormForward& op, Cpu) { return std::make_unique<Forward>(op); }
KernelPtr plan(const LayerNormBackward& op, Cpu) { return std::make_unique<Backward>(op); }

}  // namespace stpt::codelets
