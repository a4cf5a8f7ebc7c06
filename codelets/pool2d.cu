#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "codelets/nhwc.cuh"
#include "codelets/pool2d.hpp"

// The CUDA implementation. Max pooling leaves the winner's position in its window, for each element
// of dst: in a byte where that is enough. Backward gathers, so that sums have a fixed order.

namespace stpt::codelets {
namespace {

using cuda::ChannelGroups;
using cuda::from_float;
using cuda::load;
using cuda::store;
using cuda::Sum;
using cuda::to_float;
using cuda::Vector;
using runtime::Shape;

/// Places [begin, end) along one axis.
struct Interval {
  int begin, end;
  __device__ int size() const { return end - begin; }
};

/// One axis of the image.
struct Axis {
  int src, dst, kernel, stride, padding;
  bool count_padding;

  /// What the window of place `at` of dst covers of src.
  __device__ Interval window(int at) const {
    const int begin = at * stride - padding;
    return {max(begin, 0), min(begin + kernel, src)};
  }
  /// How many of the window's places an average counts.
  __device__ int counted(int at) const {
    return count_padding ? min(kernel, src + 2 * padding - at * stride) : window(at).size();
  }
  /// Which windows cover place `at` of src.
  __device__ Interval windows_over(int at) const {
    const int last = at + padding,
              first = last - kernel;  // of the windows' beginnings: (first, last]
    return {first < 0 ? 0 : first / stride + 1, min(last / stride + 1, dst)};
  }
  /// Where in its window place `at` of src lies.
  __device__ int position(int window, int at) const { return at + padding - window * stride; }
};

struct Geometry {
  int images, channels;
  Axis y, x;

  __host__ __device__ std::int64_t src_rows() const { return std::int64_t{images} * y.src * x.src; }
  __host__ __device__ std::int64_t dst_rows() const { return std::int64_t{images} * y.dst * x.dst; }
  /// Where the channels of a pixel begin.
  __device__ std::int64_t src_at(int image, int at_y, int at_x) const {
    return ((std::int64_t{image} * y.src + at_y) * x.src + at_x) * channels;
  }
  __device__ std::int64_t dst_at(int image, int at_y, int at_x) const {
    return ((std::int64_t{image} * y.dst + at_y) * x.dst + at_x) * channels;
  }
};

struct Pixel {
  int image, y, x;
};

__device__ Pixel pixel_of(std::int64_t row, int height, int width) {
  const int at = static_cast<int>(row);
  return {at / width / height, at / width % height, at % width};
}

/// The thread's pixel, which may be beyond the last.
__device__ std::int64_t own_row() { return std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y; }

// ---- Maximum ------------------------------------------------------------------------------------

/// A thread for each vector of dst. The first maximum wins, or the first NaN.
template <class T, int width, class Index>
__global__ void __launch_bounds__(cuda::block_threads)
    max_forward(const T* __restrict__ src, T* __restrict__ dst, Index* __restrict__ indices,
                Geometry geometry) {
  const auto& [images, channels, y, x] = geometry;
  const int channel = cuda::own_channel<width>();
  const std::int64_t row = own_row();
  if (channel >= channels || row >= geometry.dst_rows()) return;
  const Pixel out = pixel_of(row, y.dst, x.dst);
  const Interval ys = y.window(out.y), xs = x.window(out.x);

  Vector<T, width> largest = {};
  Vector<Index, width> winner = {};
  bool first = true;
  for (int sy = ys.begin; sy < ys.end; ++sy) {
    for (int sx = xs.begin; sx < xs.end; ++sx) {
      const auto values = load<width>(src + geometry.src_at(out.image, sy, sx) + channel);
      const int position = y.position(out.y, sy) * x.kernel + x.position(out.x, sx);
#pragma unroll
      for (int v = 0; v < width; ++v) {
        const float value = to_float(values.values[v]), best = to_float(largest.values[v]);
        if (first || value > best || (std::isnan(value) && !std::isnan(best))) {
          largest.values[v] = values.values[v];
          winner.values[v] = static_cast<Index>(position);
        }
      }
      first = false;
    }
  }
  const std::int64_t at = row * channels + channel;
  store(dst + at, largest);
  if (indices) store(indices + at, winner);
}

/// A thread for each vector of src adds up what it won.
template <class T, int width, class Index>
__global__ void __launch_bounds__(cuda::block_threads)
    max_backward(const T* __restrict__ d_dst, const Index* __restrict__ indices,
                 T* __restrict__ d_src, Geometry geometry) {
  const auto& [images, channels, y, x] = geometry;
  const int channel = cuda::own_channel<width>();
  const std::int64_t row = own_row();
  if (channel >= channels || row >= geometry.src_rows()) return;
  const Pixel in = pixel_of(row, y.src, x.src);
  const Interval ys = y.windows_over(in.y), xs = x.windows_over(in.x);

  float sums[width] = {};
  for (int oy = ys.begin; oy < ys.end; ++oy) {
    for (int ox = xs.begin; ox < xs.end; ++ox) {
      const std::int64_t at = geometry.dst_at(in.image, oy, ox) + channel;
      const auto winners = load<width>(indices + at);
      const auto gradients = load<width>(d_dst + at);
      const auto position =
          static_cast<Index>(y.position(oy, in.y) * x.kernel + x.position(ox, in.x));
#pragma unroll
      for (int v = 0; v < width; ++v)
        if (winners.values[v] == position) sums[v] += to_float(gradients.values[v]);
    }
  }
  Vector<T, width> result;
#pragma unroll
  for (int v = 0; v < width; ++v) result.values[v] = from_float<T>(sums[v]);
  store(d_src + row * channels + channel, result);
}

// ---- Average ------------------------------------------------------------------------------------

/// A thread for each vector of dst.
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    average_forward(const T* __restrict__ src, T* __restrict__ dst, Geometry geometry) {
  const auto& [images, channels, y, x] = geometry;
  const int channel = cuda::own_channel<width>();
  const std::int64_t row = own_row();
  if (channel >= channels || row >= geometry.dst_rows()) return;
  const Pixel out = pixel_of(row, y.dst, x.dst);
  const Interval ys = y.window(out.y), xs = x.window(out.x);

  float sums[width] = {};
  for (int sy = ys.begin; sy < ys.end; ++sy) {
    for (int sx = xs.begin; sx < xs.end; ++sx) {
      const auto values = load<width>(src + geometry.src_at(out.image, sy, sx) + channel);
#pragma unroll
      for (int v = 0; v < width; ++v) sums[v] += to_float(values.values[v]);
    }
  }
  const float share = __frcp_rn(static_cast<float>(y.counted(out.y) * x.counted(out.x)));
  Vector<T, width> result;
#pragma unroll
  for (int v = 0; v < width; ++v) result.values[v] = from_float<T>(sums[v] * share);
  store(dst + row * channels + channel, result);
}

/// For large windows, above all the whole image: a block for each pixel of dst, whose threads share
/// out the window.
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    average_large_forward(const T* __restrict__ src, T* __restrict__ dst, Geometry geometry) {
  const auto& [images, channels, y, x] = geometry;
  const int channel = cuda::own_channel<width>();
  const std::int64_t row = blockIdx.x;
  const Pixel out = pixel_of(row, y.dst, x.dst);
  const Interval ys = y.window(out.y), xs = x.window(out.x);
  const int count = ys.size() * xs.size(), threads = static_cast<int>(blockDim.y);

  Sum sums[width] = {};
  if (channel < channels) {
    for (int i = static_cast<int>(threadIdx.y); i < count; i += threads) {
      const int sy = ys.begin + i / xs.size(), sx = xs.begin + i % xs.size();
      const auto values = load<width>(src + geometry.src_at(out.image, sy, sx) + channel);
#pragma unroll
      for (int v = 0; v < width; ++v) sums[v].value += to_float(values.values[v]);
    }
  }
  cuda::add_over_rows(sums);
  if (threadIdx.y > 0 || channel >= channels) return;
  const float share = __frcp_rn(static_cast<float>(y.counted(out.y) * x.counted(out.x)));
  Vector<T, width> result;
#pragma unroll
  for (int v = 0; v < width; ++v) result.values[v] = from_float<T>(sums[v].value * share);
  store(dst + row * channels + channel, result);
}

/// A thread for each vector of src adds up its shares.
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads)
    average_backward(const T* __restrict__ d_dst, T* __restrict__ d_src, Geometry geometry) {
  const auto& [images, channels, y, x] = geometry;
  const int channel = cuda::own_channel<width>();
  const std::int64_t row = own_row();
  if (channel >= channels || row >= geometry.src_rows()) return;
  const Pixel in = pixel_of(row, y.src, x.src);
  const Interval ys = y.windows_over(in.y), xs = x.windows_over(in.x);

  float sums[width] = {};
  for (int oy = ys.begin; oy < ys.end; ++oy) {
    for (int ox = xs.begin; ox < xs.end; ++ox) {
      const float share = __frcp_rn(static_cast<float>(y.counted(oy) * x.counted(ox)));
      const auto gradients = load<width>(d_dst + geometry.dst_at(in.image, oy, ox) + channel);
#pragma unroll
      for (int v = 0; v < width; ++v) sums[v] += to_float(gradients.values[v]) * share;
    }
  }
  Vector<T, width> result;
#pragma unroll
  for (int v = 0; v < width; ++v) result.values[v] = from_float<T>(sums[v]);
  store(d_src + row * channels + channel, result);
}

// ---- Planning -----------------------------------------------------------------------------------

Geometry checked_geometry(const std::string& what, const Pool2d& pool) {
  cuda::require_nhwc(what, pool.src);
  cuda::require_nhwc(what, pool.dst);
  const Shape &in = pool.src.shape, out = pool2d_output(in, pool.window, pool.ceil_mode);
  if (pool.dst.shape != out || pool.dst.type != pool.src.type)
    throw std::invalid_argument(what + ": dst must be " + out.to_string() + " " +
                                runtime::to_string(pool.src.type));
  const auto axis = [&pool](std::int64_t src, std::int64_t dst, int kernel, int stride,
                            int padding) {
    return Axis{static_cast<int>(src), static_cast<int>(dst), kernel, stride, padding,
                pool.count_padding};
  };
  const auto& [kernel, stride, padding, dilation] = pool.window;
  return {static_cast<int>(in.n), static_cast<int>(in.c),
          axis(in.h, out.h, kernel.h, stride.h, padding.h),
          axis(in.w, out.w, kernel.w, stride.w, padding.w)};
}

std::int64_t window_size(const Pool2d& pool) {
  return std::int64_t{pool.window.kernel.h} * pool.window.kernel.w;
}

bool byte_is_enough(const Pool2d& pool) { return window_size(pool) <= 256; }

template <class T, int width>
class Pooling : public Kernel {
 public:
  Pooling(std::string what, const Pool2d& pool, const Geometry& geometry)
      : what_(std::move(what)),
        pool_(pool),
        geometry_(geometry),
        groups_(pool.src.shape.c, width) {}

 protected:
  /// A thread for each vector of `rows` pixels.
  template <class... Parameters>
  void launch(void (*kernel)(Parameters...), std::int64_t rows, Stream stream,
              std::type_identity_t<Parameters>... arguments) const {
    const auto blocks = static_cast<unsigned>((rows + groups_.threads.y - 1) / groups_.threads.y);
    cuda::launch(what_, kernel, dim3(blocks, groups_.count), groups_.threads, stream, arguments...);
  }

  std::string what_;
  Pool2d pool_;
  Geometry geometry_;
  ChannelGroups groups_;
};

template <class T, int width>
class Forward final : public Pooling<T, width> {
 public:
  Forward(std::string what, const Pool2dForward& op, const Geometry& geometry)
      : Pooling<T, width>(std::move(what), op.pool, geometry), training_(op.training) {}

  void run(std::span<void* const> args, void*, Stream stream) const override {
    const auto* src = static_cast<const T*>(args[0]);
    auto* dst = static_cast<T*>(args[1]);
    if (this->pool_.kind == PoolKind::average) {
      average(src, dst, stream);
    } else if (byte_is_enough(this->pool_)) {
      maximum<std::uint8_t>(src, dst, args[2], stream);
    } else {
      maximum<std::int32_t>(src, dst, args[2], stream);
    }
  }

 private:
  template <class Index>
  void maximum(const T* src, T* dst, void* indices, Stream stream) const {
    this->launch(max_forward<T, width, Index>, this->geometry_.dst_rows(), stream, src, dst,
                 training_ ? static_cast<Index*>(indices) : nullptr, this->geometry_);
  }

  void average(const T* src, T* dst, Stream stream) const {
    constexpr std::int64_t worth_a_block = 32;
    const std::int64_t rows = this->geometry_.dst_rows();
    if (window_size(this->pool_) < worth_a_block) {
      this->launch(average_forward<T, width>, rows, stream, src, dst, this->geometry_);
    } else {
      cuda::launch(this->what_, average_large_forward<T, width>,
                   dim3(static_cast<unsigned>(rows), this->groups_.count), this->groups_.threads,
                   stream, src, dst, this->geometry_);
    }
  }

  bool training_;
};

template <class T, int width>
class Backward final : public Pooling<T, width> {
 public:
  using Pooling<T, width>::Pooling;

  void run(std::span<void* const> args, void*, Stream stream) const override {
    const auto* d_dst = static_cast<const T*>(args[0]);
    auto* d_src = static_cast<T*>(args[2]);
    if (this->pool_.kind == PoolKind::average) {
      this->launch(average_backward<T, width>, this->geometry_.src_rows(), stream, d_dst, d_src,
                   this->geometry_);
    } else if (byte_is_enough(this->pool_)) {
      maximum<std::uint8_t>(d_dst, args[1], d_src, stream);
    } else {
      maximum<std::int32_t>(d_dst, args[1], d_src, stream);
    }
  }

 private:
  template <class Index>
  void maximum(const T* d_dst, const void* indices, T* d_src, Stream stream) const {
    this->launch(max_backward<T, width, Index>, this->geometry_.src_rows(), stream, d_dst,
                 static_cast<const Index*>(indices), d_src, this->geometry_);
  }
};

}  // namespace

std::size_t pool2d_indices_bytes(const Pool2d& pool, Cuda) {
  checked_geometry(describe_op("pool2d", pool), pool);
  if (pool.kind == PoolKind::average) return 0;
  return static_cast<std::size_t>(pool.dst.shape.elements()) *
         (byte_is_enough(pool) ? sizeof(std::uint8_t) : sizeof(std::int32_t));
}

KernelPtr plan(const Pool2dForward& op, Cuda) {
  const std::string what = describe_op("pool2d forward", op.pool);
  const Geometry geometry = checked_geometry(what, op.pool);
  return cuda::with_vectors(op.pool.src, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<Forward<decltype(element), width()>>(what, op, geometry);
  });
}

KernelPtr plan(const Pool2dBackward& op, Cuda) {
  const std::string what = describe_op("pool2d backward", op.pool);
  const Geometry geometry = checked_geometry(what, op.pool);
  return cuda::with_vectors(op.pool.src, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<Backward<decltype(element), width()>>(what, op.pool, geometry);
  });
}

}  // namespace stpt::codelets
