#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "codelets/bias_cuda.hpp"
#include "codelets/nhwc.cuh"

namespace stpt::codelets {
namespace {

using cuda::ChannelGroups;
using cuda::DoubleSum;
using cuda::load;
using cuda::Slices;
using cuda::Sum;
using cuda::to_float;
using cuda::Vector;

// ---- Bias ---------------------------------------------------------------------------------------

template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    add_bias(const float* __restrict__ bias, bool relu, Slices slices, T* __restrict__ x) {
  const int channel = cuda::own_channel<width>();
  if (channel >= slices.channels) return;
  float term[width];
  cuda::load_channels(bias + channel, term);
  const int slice = static_cast<int>(blockIdx.x);
  const std::int64_t end = slices.end(slice);
  for (std::int64_t row = slices.begin(slice) + threadIdx.y; row < end; row += blockDim.y) {
    T* const at = x + row * slices.channels + channel;
    auto values = load<width>(at);
#pragma unroll
    for (int v = 0; v < width; ++v) {
      const float sum = to_float(values.values[v]) + term[v];
      values.values[v] = cuda::from_float<T>(relu ? cuda::relu(sum) : sum);
    }
    cuda::store(at, values);
  }
}

template <class T, int width>
class AddBiasKernel final : public Kernel {
 public:
  AddBiasKernel(std::string what, const AddBias& op)
      : what_(std::move(what)),
        relu_(op.relu),
        groups_(op.x.shape.c, width),
        slices_(op.x.shape, groups_) {}

  void run(std::span<void* const> args, void*, Stream stream) const override {
    cuda::launch_on_slices(what_, add_bias<T, width>, slices_, groups_, stream,
                           static_cast<const float*>(args[0]), relu_, slices_,
                           static_cast<T*>(args[1]));
  }

 private:
  std::string what_;
  bool relu_;
  ChannelGroups groups_;
  Slices slices_;
};

// ---- Sums ---------------------------------------------------------------------------------------

/// partials[slice][channel]
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    sum_slices(const T* __restrict__ x, Slices slices, float* __restrict__ partials) {
  const int slice = cuda::own_slice<cuda::Order::forwards>(), channel = cuda::own_channel<width>();
  const bool has_channel = channel < slices.channels;
  Sum sums[width] = {};
  if (has_channel) {
    constexpr int rows_at_once = 4;
    const auto add = [&](const Vector<T, width>& row) {
#pragma unroll
      for (int v = 0; v < width; ++v) sums[v].value += to_float(row.values[v]);
    };
    cuda::for_each_row<rows_at_once, cuda::Order::forwards>(
        slices, channel,
        [&](std::int64_t at, std::int64_t stride) {
          Vector<T, width> rows[rows_at_once];
#pragma unroll
          for (int k = 0; k < rows_at_once; ++k) rows[k] = load<width>(x + at + k * stride);
#pragma unroll
          for (int k = 0; k < rows_at_once; ++k) add(rows[k]);
        },
        [&](std::int64_t at) { add(load<width>(x + at)); });
  }
  cuda::add_over_rows(sums);
  if (threadIdx.y > 0 || !has_channel) return;
#pragma unroll
  for (int v = 0; v < width; ++v)
    partials[std::int64_t{slice} * slices.channels + channel + v] = sums[v].value;
}

__global__ void __launch_bounds__(cuda::finish_block_threads)
    sum_partials(const float* __restrict__ partials, Slices slices, float* __restrict__ sums) {
  const int channel = cuda::finished_channel();
  const bool has_channel = channel < slices.channels;
  const auto sum = cuda::sum_over_slices<DoubleSum>(slices, has_channel, [&](int slice) {
    return DoubleSum{
        static_cast<double>(partials[std::int64_t{slice} * slices.channels + channel])};
  });
  if (threadIdx.y == 0 && has_channel) sums[channel] = static_cast<float>(sum.value);
}

template <class T, int width>
class ChannelSumsKernel final : public Kernel {
 public:
  ChannelSumsKernel(std::string what, const ChannelSums& op)
      : what_(std::move(what)), groups_(op.x.shape.c, width), slices_(op.x.shape, groups_) {
    workspace_bytes_ = sizeof(float) * static_cast<std::size_t>(slices_.count()) *
                       static_cast<std::size_t>(slices_.channels);
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    auto* partials = static_cast<float*>(workspace);
    cuda::launch_on_slices(what_, sum_slices<T, width>, slices_, groups_, stream,
                           static_cast<const T*>(args[0]), slices_, partials);
    cuda::launch_finish(what_, sum_partials, slices_, stream, partials, slices_,
                        static_cast<float*>(args[1]));
  }

 private:
  std::string what_;
  ChannelGroups groups_;
  Slices slices_;
};

}  // namespace

KernelPtr plan(const AddBias& op, Cuda) {
  const std::string what = "AddBias " + op.x.to_string();
  cuda::require_nhwc(what, op.x);
  return cuda::with_vectors(op.x, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<AddBiasKernel<decltype(element), width>>(what, op);
  });
}

KernelPtr plan(const ChannelSums& op, Cuda) {
  const std::string what = "ChannelSums " + op.x.to_string();
  cuda::require_nhwc(what, op.x);
  return cuda::with_vectors(op.x, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<ChannelSumsKernel<decltype(element), width>>(what, op);
  });
}

}  // namespace stpt::codelets
