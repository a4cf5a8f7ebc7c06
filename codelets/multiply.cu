#include <memory>
#include <string>
#include <utility>

#include "codelets/multiply.hpp"
#include "codelets/nhwc.cuh"

// The CUDA implementation, in nhwc. A block has an image's rows of a group of channels, whose
// factors its threads keep.

namespace stpt::codelets {
namespace {

template <class T, int width>
__global__ void multiply(const int rows, const int channels, const T* x,
                         const T* __restrict__ factors, T* y) {
  const int channel = cuda::own_channel<width>();
  if (channel >= channels) return;
  const std::int64_t image = blockIdx.x;
  const auto factor = cuda::load<width>(factors + image * channels + channel);
  for (int row = static_cast<int>(blockIdx.z * blockDim.y + threadIdx.y); row < rows;
       row += static_cast<int>(gridDim.z * blockDim.y)) {
    const std::int64_t at = (image * rows + row) * channels + channel;
    auto values = cuda::load<width>(x + at);
#pragma unroll
    for (int v = 0; v < width; ++v)
      values.values[v] =
          cuda::from_float<T>(cuda::to_float(values.values[v]) * cuda::to_float(factor.values[v]));
    cuda::store(y + at, values);
  }
}

template <class T, int width>
__global__ void multiply_backward(const int rows, const int channels, const T* __restrict__ x,
                                  const T* __restrict__ factors, const T* d_y, T* d_x,
                                  T* d_factors) {
  const int channel = cuda::own_channel<width>();
  const std::int64_t image = blockIdx.x;
  const bool has_channel = channel < channels;
  cuda::Sum sums[width] = {};
  if (has_channel) {
    const auto factor = cuda::load<width>(factors + image * channels + channel);
    for (int row = static_cast<int>(threadIdx.y); row < rows; row += static_cast<int>(blockDim.y)) {
      const std::int64_t at = (image * rows + row) * channels + channel;
      const auto inputs = cuda::load<width>(x + at);
      auto gradients = cuda::load<width>(d_y + at);
#pragma unroll
      for (int v = 0; v < width; ++v) {
        const float gradient = cuda::to_float(gradients.values[v]);
        sums[v].value += gradient * cuda::to_float(inputs.values[v]);
        gradients.values[v] = cuda::from_float<T>(gradient * cuda::to_float(factor.values[v]));
      }
      if (d_x != nullptr) cuda::store(d_x + at, gradients);
    }
  }
  cuda::add_over_rows(sums);
  if (!has_channel || threadIdx.y > 0) return;
  cuda::Vector<T, width> result;
#pragma unroll
  for (int v = 0; v < width; ++v) result.values[v] = cuda::from_float<T>(sums[v].value);
  cuda::store(d_factors + image * channels + channel, result);
}

/// Both ops: what they share is how blocks lie.
template <class T, int width, bool backward>
class Multiply final : public Kernel {
 public:
  Multiply(std::string what, const TensorSpec& x)
      : what_(std::move(what)), shape_(x.shape), groups_(x.shape.c, width) {}

  void run(std::span<void* const> args, void*, Stream stream) const override {
    const auto at = [&](std::size_t i) { return static_cast<T*>(args[i]); };
    const auto rows = static_cast<int>(shape_.spatial()), channels = static_cast<int>(shape_.c);
    const auto images = static_cast<unsigned>(shape_.n);
    if constexpr (backward) {
      cuda::launch(what_, multiply_backward<T, width>, dim3(images, groups_.count), groups_.threads,
                   stream, rows, channels, at(0), at(1), at(2), at(3), at(4));
    } else {
      constexpr unsigned rows_a_thread = 4;
      const unsigned parts = cuda::blocks_for(rows, groups_.threads.y * rows_a_thread);
      cuda::launch(what_, multiply<T, width>, dim3(images, groups_.count, parts), groups_.threads,
                   stream, rows, channels, at(0), at(1), at(2));
    }
  }

 private:
  std::string what_;
  runtime::Shape shape_;
  cuda::ChannelGroups groups_;
};

template <bool backward>
KernelPtr plan_multiply(const char* op, const TensorSpec& x) {
  const std::string what = std::string(op) + " " + x.to_string();
  cuda::require_nhwc(what, x);
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
