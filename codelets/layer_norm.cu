#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "codelets/layer_norm.hpp"
#include "codelets/nhwc.cuh"

// The CUDA implementation, in nhwc: a pixel is a row of channels, which some neighbouring threads
// of a warp share. A row is read again where it is needed again: it is in the cache.

namespace stpt::codelets {
namespace {

using cuda::ChannelGroups;
using cuda::load;
using cuda::Slices;
using cuda::Sum;
using cuda::to_float;

constexpr unsigned warp = 32;

/// Threads of a block: so many share a row, a power of two, and so many rows.
dim3 row_threads(std::int64_t vectors) {
  unsigned lanes = 1;
  while (lanes < warp && lanes < vectors) lanes *= 2;
  return {lanes, cuda::block_threads / lanes};
}

/// The sum over the threads of a row, for all of them; to be called by whole warps.
__device__ float sum_over_row(float value) {
  for (unsigned lanes = blockDim.x / 2; lanes > 0; lanes /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, static_cast<int>(lanes));
  return value;
}

/// The rows of a block, in steps of the grid: visit(row, whether it is there), by whole warps.
template <class Visit>
__device__ void for_each_row_of_block(std::int64_t rows, Visit visit) {
  const auto step = std::int64_t{gridDim.x} * blockDim.y;
  for (std::int64_t first = std::int64_t{blockIdx.x} * blockDim.y; first < rows; first += step)
    visit(first + threadIdx.y, first + threadIdx.y < rows);
}

/// visit(channel) for the first of each of the thread's vectors in a row.
template <int width, class Visit>
__device__ void for_each_vector(int channels, Visit visit) {
  const int step = static_cast<int>(blockDim.x) * width;
  for (int channel = static_cast<int>(threadIdx.x) * width; channel < channels; channel += step)
    visit(channel);
}

template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    normalise(const std::int64_t rows, const int channels, const float epsilon, const T* x,
              const float* __restrict__ gamma, const float* __restrict__ beta, T* y,
              float* __restrict__ mean, float* __restrict__ inverse_stddev) {
  for_each_row_of_block(rows, [&](std::int64_t row, bool there) {
    const T* const in = x + row * channels;
    float sum = 0;
    if (there) {
      for_each_vector<width>(channels, [&](int channel) {
        const auto values = load<width>(in + channel);
#pragma unroll
        for (int v = 0; v < width; ++v) sum += to_float(values.values[v]);
      });
    }
    const float count = static_cast<float>(channels);
    // About a mean that is rounded; what that leaves out is corrected below.
    const float about = sum_over_row(sum) / count;
    float deviations = 0, squares = 0;
    if (there) {
      for_each_vector<width>(channels, [&](int channel) {
        const auto values = load<width>(in + channel);
#pragma unroll
        for (int v = 0; v < width; ++v) {
          const float deviation = to_float(values.values[v]) - about;
          deviations += deviation;
          squares += deviation * deviation;
        }
      });
    }
    const float shift = sum_over_row(deviations) / count;
    const float variance = sum_over_row(squares) / count - shift * shift;
    const float own_mean = about + shift;
    // Below 0 by rounding; a NaN stays one.
    const float own_inverse = 1 / sqrtf((variance < 0 ? 0 : variance) + epsilon);
    if (!there) return;
    if (threadIdx.x == 0) {
      mean[row] = own_mean;
      inverse_stddev[row] = own_inverse;
    }
    for_each_vector<width>(channels, [&](int channel) {
      auto values = load<width>(in + channel);
      float scale[width], offset[width];
      cuda::load_channels(gamma + channel, scale);
      cuda::load_channels(beta + channel, offset);
#pragma unroll
      for (int v = 0; v < width; ++v) {
        const float normalised = (to_float(values.values[v]) - own_mean) * own_inverse;
        values.values[v] = cuda::from_float<T>(normalised * scale[v] + offset[v]);
      }
      cuda::store(y + row * channels + channel, values);
    });
  });
}

/// d_y may be d_x.
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    differentiate(const std::int64_t rows, const int channels, const T* __restrict__ x,
                  const float* __restrict__ gamma, const float* __restrict__ mean,
                  const float* __restrict__ inverse_stddev, const T* d_y, T* d_x) {
  for_each_row_of_block(rows, [&](std::int64_t row, bool there) {
    const float own_mean = there ? mean[row] : 0, own_inverse = there ? inverse_stddev[row] : 0;
    const std::int64_t begin = row * channels;
    /// visit(channel, d_y, normalised x, gradient of what gamma multiplies)
    const auto for_each = [&](auto visit) {
      for_each_vector<width>(channels, [&](int channel) {
        const auto inputs = load<width>(x + begin + channel);
        auto gradients = load<width>(d_y + begin + channel);
        float scale[width], normalised[width], scaled[width];
        cuda::load_channels(gamma + channel, scale);
#pragma unroll
        for (int v = 0; v < width; ++v) {
          normalised[v] = (to_float(inputs.values[v]) - own_mean) * own_inverse;
          scaled[v] = to_float(gradients.values[v]) * scale[v];
        }
        visit(channel, gradients, normalised, scaled);
      });
    };
    float sum = 0, products = 0;
    if (there) {
      for_each([&](int, auto&, const auto& normalised, const auto& scaled) {
#pragma unroll
        for (int v = 0; v < width; ++v) {
          sum += scaled[v];
          products += scaled[v] * normalised[v];
        }
      });
    }
    const float constant = sum_over_row(sum) / static_cast<float>(channels);
    const float on_normalised = sum_over_row(products) / static_cast<float>(channels);
    if (!there) return;
    for_each([&](int channel, auto& gradients, const auto& normalised, const auto& scaled) {
#pragma unroll
      for (int v = 0; v < width; ++v)
        gradients.values[v] = cuda::from_float<T>(
            own_inverse * (scaled[v] - constant - normalised[v] * on_normalised));
      cuda::store(d_x + begin + channel, gradients);
    });
  });
}

/// partials[of gamma, of beta][slice][channel]
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    sum_slices(const T* __restrict__ x, const float* __restrict__ mean,
               const float* __restrict__ inverse_stddev, const T* __restrict__ d_y, Slices slices,
               float* __restrict__ partials) {
  const int slice = cuda::own_slice<cuda::Order::forwards>(), channel = cuda::own_channel<width>();
  const bool has_channel = channel < slices.channels;
  Sum sums[2 * width] = {};
  if (has_channel) {
    const std::int64_t end = slices.end(slice);
#pragma unroll 4
    for (std::int64_t row = slices.begin(slice) + threadIdx.y; row < end; row += blockDim.y) {
      const std::int64_t at = row * slices.channels + channel;
      const auto inputs = load<width>(x + at), gradients = load<width>(d_y + at);
      const float own_mean = mean[row], own_inverse = inverse_stddev[row];
#pragma unroll
      for (int v = 0; v < width; ++v) {
        const float gradient = to_float(gradients.values[v]);
        sums[v].value += gradient * (to_float(inputs.values[v]) - own_mean) * own_inverse;
        sums[width + v].value += gradient;
      }
    }
  }
  cuda::add_over_rows(sums);
  if (threadIdx.y > 0 || !has_channel) return;
  float* const of_slice = partials + std::int64_t{slice} * slices.channels + channel;
  const std::int64_t all = std::int64_t{slices.count()} * slices.channels;
#pragma unroll
  for (int v = 0; v < width; ++v) {
    of_slice[v] = sums[v].value;
    of_slice[all + v] = sums[width + v].value;
  }
}

struct TwoSums {
  double gamma, beta;
  __device__ void add(const TwoSums& other) {
    gamma += other.gamma;
    beta += other.beta;
  }
};

__global__ void __launch_bounds__(cuda::finish_block_threads)
    sum_partials(const float* __restrict__ partials, Slices slices, float* __restrict__ d_gamma,
                 float* __restrict__ d_beta) {
  const int channel = cuda::finished_channel();
  const bool has_channel = channel < slices.channels;
  const std::int64_t all = std::int64_t{slices.count()} * slices.channels;
  const auto sums = cuda::sum_over_slices<TwoSums>(slices, has_channel, [&](int slice) {
    const float* const at = partials + std::int64_t{slice} * slices.channels + channel;
    return TwoSums{static_cast<double>(at[0]), static_cast<double>(at[all])};
  });
  if (threadIdx.y > 0 || !has_channel) return;
  d_gamma[channel] = static_cast<float>(sums.gamma);
  d_beta[channel] = static_cast<float>(sums.beta);
}

template <class T, int width>
class LayerNormKernel : public Kernel {
 protected:
  LayerNormKernel(std::string what, const LayerNorm& norm)
      : what_(std::move(what)),
        rows_(norm.x.shape.n * norm.x.shape.spatial()),
        channels_(static_cast<int>(norm.x.shape.c)),
        threads_(row_threads(norm.x.shape.c / width)),
        blocks_(cuda::blocks_for(rows_, threads_.y)) {}

  std::string what_;
  std::int64_t rows_;
  int channels_;
  dim3 threads_, blocks_;
};

template <class T, int width>
class Forward final : public LayerNormKernel<T, width> {
 public:
  Forward(std::string what, const LayerNorm& norm)
      : LayerNormKernel<T, width>(std::move(what), norm), epsilon_(norm.epsilon) {}

  void run(std::span<void* const> args, void*, Stream stream) const override {
    const auto numbers = [&](std::size_t i) { return static_cast<float*>(args[i]); };
    cuda::launch(this->what_, normalise<T, width>, this->blocks_, this->threads_, stream,
                 this->rows_, this->channels_, epsilon_, static_cast<const T*>(args[0]), numbers(1),
                 numbers(2), static_cast<T*>(args[3]), numbers(4), numbers(5));
  }

 private:
  float epsilon_;
};

template <class T, int width>
class Backward final : public LayerNormKernel<T, width> {
 public:
  Backward(std::string what, const LayerNorm& norm)
      : LayerNormKernel<T, width>(std::move(what), norm),
        groups_(norm.x.shape.c, width),
        slices_(norm.x.shape, groups_) {
    this->workspace_bytes_ = 2 * sizeof(float) * static_cast<std::size_t>(slices_.count()) *
                             static_cast<std::size_t>(slices_.channels);
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    const auto numbers = [&](std::size_t i) { return static_cast<float*>(args[i]); };
    const auto* x = static_cast<const T*>(args[0]);
    auto* d_y = static_cast<T*>(args[4]);
    auto* partials = static_cast<float*>(workspace);
    cuda::launch_on_slices(this->what_, sum_slices<T, width>, slices_, groups_, stream, x,
                           numbers(2), numbers(3), d_y, slices_, partials);
    cuda::launch_finish(this->what_, sum_partials, slices_, stream, partials, slices_, numbers(6),
                        numbers(7));
    // Last: it may write over d_y.
    cuda::launch(this->what_, differentiate<T, width>, this->blocks_, this->threads_, stream,
                 this->rows_, this->channels_, x, numbers(1), numbers(2), numbers(3), d_y,
                 static_cast<T*>(args[5]));
  }

 private:
  ChannelGroups groups_;
  Slices slices_;
};

template <template <class, int> class Direction>
KernelPtr plan_norm(const char* op, const LayerNorm& norm) {
  std::string what = std::string(op) + " " + norm.x.to_string();
  cuda::require_nhwc(what, norm.x);
  require_valid(norm);
  return cuda::with_vectors(norm.x, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<Direction<decltype(element), width>>(what, norm);
  });
}

}  // namespace

void choose_layout(LayerNorm& norm, Cuda) { norm.x.layout = runtime::Layout::nhwc; }

KernelPtr plan(const LayerNormForward& op, Cuda) {
  return plan_norm<Forward>("LayerNormForward", op.norm);
}
KernelPtr plan(const LayerNormBackward& op, Cuda) {
  return plan_norm<Backward>("LayerNormBackward", op.norm);
}

}  // namespace stpt::codelets
