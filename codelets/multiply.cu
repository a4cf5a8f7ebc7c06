#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "codelets/multiply.hpp"
#include "codelets/nhwc.cuh"

// The CUDA implementation, in nhwc. A block has a slice of an image's rows of a group of channels,
// whose factors its threads keep.

namespace stpt::codelets {
namespace {

using cuda::DoubleSum;
using cuda::load;
using cuda::Order;
using cuda::Slices;
using cuda::to_float;
using cuda::Vector;

constexpr int rows_at_once = 4;

/// y may be x.
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    multiply(const T* x, const T* __restrict__ factors, Slices slices, T* y) {
  const int channel = cuda::own_channel<width>();
  if (channel >= slices.channels) return;
  const auto factor = load<width>(factors + slices.of_set(channel));
  const auto product = [](float value, float by) { return value * by; };
  cuda::for_each_row<rows_at_once, Order::forwards>(
      slices, channel,
      [&](std::int64_t at, std::int64_t stride) {
        Vector<T, width> rows[rows_at_once];
#pragma unroll
        for (int k = 0; k < rows_at_once; ++k) rows[k] = load<width>(x + at + k * stride);
#pragma unroll
        for (int k = 0; k < rows_at_once; ++k)
          cuda::store(y + at + k * stride, cuda::map_vectors<T>(product, rows[k], factor));
      },
      [&](std::int64_t at) {
        cuda::store(y + at, cuda::map_vectors<T>(product, load<width>(x + at), factor));
      });
}

/// d_x may be d_y, or nullptr. The sums go to partials[slice][image and channel], where an image
/// has several slices, else to d_factors.
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    multiply_backward(const T* __restrict__ x, const T* __restrict__ factors, const T* d_y,
                      Slices slices, T* d_x, T* __restrict__ d_factors,
                      float* __restrict__ partials) {
  const int slice = cuda::own_slice<Order::forwards>(), channel = cuda::own_channel<width>();
  const bool has_channel = channel < slices.channels;
  cuda::Sum sums[width] = {};
  if (has_channel) {
    const auto factor = load<width>(factors + slices.of_set(channel));
    const auto take = [&](const Vector<T, width>& inputs, Vector<T, width> gradients,
                          std::int64_t at) {
#pragma unroll
      for (int v = 0; v < width; ++v) {
        const float gradient = to_float(gradients.values[v]);
        sums[v].value += gradient * to_float(inputs.values[v]);
        gradients.values[v] = cuda::from_float<T>(gradient * to_float(factor.values[v]));
      }
      if (d_x != nullptr) cuda::store(d_x + at, gradients);
    };
    cuda::for_each_row<rows_at_once, Order::forwards>(
        slices, channel,
        [&](std::int64_t at, std::int64_t stride) {
          Vector<T, width> inputs[rows_at_once], gradients[rows_at_once];
#pragma unroll
          for (int k = 0; k < rows_at_once; ++k) {
            inputs[k] = load<width>(x + at + k * stride);
            gradients[k] = load<width>(d_y + at + k * stride);
          }
#pragma unroll
          for (int k = 0; k < rows_at_once; ++k) take(inputs[k], gradients[k], at + k * stride);
        },
        [&](std::int64_t at) { take(load<width>(x + at), load<width>(d_y + at), at); });
  }
  cuda::add_over_rows(sums);
  if (!has_channel || threadIdx.y > 0) return;
  const std::int64_t own = slices.of_set(channel);
  if (slices.count() == 1) {
    Vector<T, width> result;
#pragma unroll
    for (int v = 0; v < width; ++v) result.values[v] = cuda::from_float<T>(sums[v].value);
    cuda::store(d_factors + own, result);
  } else {
    float* const of_slice = partials + std::int64_t{slice} * slices.sets * slices.channels + own;
#pragma unroll
    for (int v = 0; v < width; ++v) of_slice[v] = sums[v].value;
  }
}

/// `slices`: of the partial sums, whose channels are all images' ones.
template <class T>
__global__ void __launch_bounds__(cuda::finish_block_threads)
    sum_partials(const float* __restrict__ partials, Slices slices, T* __restrict__ d_factors) {
  const int i = cuda::finished_channel();
  const bool exists = i < slices.channels;
  const auto sum = cuda::sum_over_slices<DoubleSum>(slices, exists, [&](int slice) {
    return DoubleSum{static_cast<double>(partials[std::int64_t{slice} * slices.channels + i])};
  });
  if (threadIdx.y == 0 && exists) d_factors[i] = cuda::from_float<T>(static_cast<float>(sum.value));
}

/// Both ops: what they share is how blocks lie.
template <class T, int width, bool backward>
class Multiply final : public Kernel {
 public:
  Multiply(std::string what, const TensorSpec& x)
      : what_(std::move(what)),
        groups_(x.shape.c, width),
        slices_(Slices::of_images(x.shape, groups_)),
        partials_(slices_) {
    if (!backward || slices_.count() == 1) return;
    partials_.channels *= partials_.sets;
    partials_.sets = 1;
    workspace_bytes_ = sizeof(float) * static_cast<std::size_t>(partials_.count()) *
                       static_cast<std::size_t>(partials_.channels);
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    const auto at = [&](std::size_t i) { return static_cast<T*>(args[i]); };
    if constexpr (backward) {
      auto* partials = static_cast<float*>(workspace);
      cuda::launch_on_slices(what_, multiply_backward<T, width>, slices_, groups_, stream, at(0),
                             at(1), at(2), slices_, at(3), at(4), partials);
      if (slices_.count() > 1) {
        cuda::launch_finish(what_, sum_partials<T>, partials_, stream, partials, partials_, at(4));
      }
    } else {
      cuda::launch_on_slices(what_, multiply<T, width>, slices_, groups_, stream, at(0), at(1),
                             slices_, at(2));
    }
  }

 private:
  std::string what_;
  cuda::ChannelGroups groups_;
  Slices slices_, partials_;
};

template <bool backward>
KernelPtr plan_multiply(const char* op, const TensorSpec& x) {
  const std::string what = std::string(op) + " " + x.to_string();
  cuda::require_nhwc(what, x);
  if (x.shape.n > 0xffff) throw std::invalid_argument(what + ": at most 65535 images on CUDA");
  return cuda::with_vectors(x, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<Multiply<decltype(element), width, backward>>(what, x);
  });
}

}  // namespace

KernelPtr plan(const MultiplyForward& op, Cuda) {
  return plan_multiply<false>("MultiplyForward", op.x);
}
KernelPtr plan(const MultiplyBackward& op, Cuda) {
  return plan_multiply<true>("MultiplyBackward", op.x);
}

}  // namespace stpt::codelets
