#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "codelets/depthwise_cuda.hpp"
#include "codelets/nhwc.cuh"

// Memory traffic is to bound these kernels. A thread has a vector of channels and computes a short
// run of neighbouring results, so that what it loads serves several of them; other rows' loads are
// left to the caches. Square kernels of 1 and 7 with a stride of 1, of 3 and 5 with strides of 1
// and 2, are compiled with all of that in registers, others, and dilated ones, take one tap at a
// time.

namespace stpt::codelets::depthwise {
namespace {

using cuda::ChannelGroups;
using cuda::load;
using cuda::Slices;
using cuda::store;
using cuda::Sum;
using cuda::to_float;
using cuda::Vector;

/// One axis: tap i of place `at` of `to` is at (at * step - padding + i * dilation) / gap of
/// `from`, where that is a place.
struct Axis {
  int from, to, kernel, padding, dilation;
  int step, gap;  ///< one of them is 1
};

/// Forward steps by the stride. Backward data goes from d_dst to d_src: with the kernel mirrored
/// (and other padding), it is the same, but for gaps between d_dst's places as wide as the stride.
struct Geometry {
  int channels;
  Axis y, x;
  bool mirrored;
  int first_x;  ///< where a row's first run begins, up to a gap before the row
  int runs;     ///< in a row

  Geometry(const Conv2d& conv, bool backward, int run)
      : channels(static_cast<int>(conv.src.shape.c)), mirrored(backward) {
    const auto axis = [backward](std::int64_t src, std::int64_t dst, int kernel, int stride,
                                 int padding, int dilation) {
      const int in = static_cast<int>(src), out = static_cast<int>(dst);
      return backward
                 ? Axis{out, in, kernel, (kernel - 1) * dilation - padding, dilation, 1, stride}
                 : Axis{in, out, kernel, padding, dilation, stride, 1};
    };
    const runtime::Shape &src = conv.src.shape, &dst = conv.dst.shape;
    const auto& [kernel, stride, padding, dilation] = conv.window;
    y = axis(src.h, dst.h, kernel.h, stride.h, padding.h, dilation.h);
    x = axis(src.w, dst.w, kernel.w, stride.w, padding.w, dilation.w);
    // Runs of several begin where the first tap is not in a gap.
    first_x = run == 1 ? 0 : (x.padding % x.gap - x.gap) % x.gap;
    runs = (x.to - first_x + run - 1) / run;
  }

  __host__ __device__ int taps() const { return y.kernel * x.kernel; }
  __device__ std::int64_t from_at(int image, int at_y, int at_x) const {
    return ((std::int64_t{image} * y.from + at_y) * x.from + at_x) * channels;
  }
  __device__ std::int64_t to_at(int image, int at_y, int at_x) const {
    return ((std::int64_t{image} * y.to + at_y) * x.to + at_x) * channels;
  }
};

/// Neighbouring places of `to`; the first and the last ones may be outside.
struct Run {
  int image, y, x;

  template <int length>
  static __device__ Run of(std::int64_t number, const Geometry& geometry) {
    const int at = static_cast<int>(number), row = at / geometry.runs;
    return {row / geometry.y.to, row % geometry.y.to,
            at % geometry.runs * length + geometry.first_x};
  }
};

/// What a kernel is compiled for: square kernels of `side` without dilation, or, if that is 0, all;
/// this step and gap in both axes, or, if one is 0, any.
template <int side_, int step_, int gap_>
struct Compiled {
  static constexpr int side = side_, step = step_, gap = gap_;
  static constexpr int taps = side > 0 ? side : 1;  ///< of a row that are taken at once
  /// ConvNeXt's images, which kernels of 7 are for, are 56, 28, 14 and 7 wide.
  static constexpr int run = side == 0 ? 1 : step != 1 ? 2 : side == 7 ? 7 : 4;
  /// That taps see.
  static constexpr int columns = side == 0 ? 1 : ((run - 1) * step + taps - 1) / gap + 1;
  /// Rows of taps that follow each other without a loop: of 7 they would be too much code.
  static constexpr int rows = side < 7 ? taps : 1;

  /// The axis with what is known of it.
  static __device__ Axis of(Axis axis) {
    if constexpr (side > 0) axis.kernel = side, axis.dilation = 1;
    if constexpr (step > 0) axis.step = step;
    if constexpr (gap > 0) axis.gap = gap;
    return axis;
  }

  /// The place in the run that sees a column by a tap; none if it is negative.
  static __host__ __device__ constexpr int place(int column, int tap) {
    if constexpr (side == 0) {
      return 0;
    } else {
      const int at = column * gap - tap;
      return at >= 0 && at % step == 0 && at / step < run ? at / step : -1;
    }
  }
};

/// The columns from `first` on of a row whose first pixel is at `row`; 0 outside.
template <class T, int width, int columns>
__device__ void load_columns(const T* row, int channels, int first, int end,
                             Vector<T, width> (&to)[columns]) {
#pragma unroll
  for (int k = 0; k < columns; ++k) {
    const int at = first + k;
    to[k] =
        at >= 0 && at < end ? load<width>(row + std::int64_t{at} * channels) : Vector<T, width>{};
  }
}

template <class T, int width>
__device__ void to_floats(const Vector<T, width>& from, float (&to)[width]) {
#pragma unroll
  for (int v = 0; v < width; ++v) to[v] = to_float(from.values[v]);
}

// ---- Forward and backward data ------------------------------------------------------------------

/// The weights of the block's channels as float32, as the taps of a Geometry: in shared memory
/// where there is room for them, else where they are.
template <class T, int width, class Known>
class Weights {
 public:
  /// To be called by all threads, once in a kernel.
  __device__ Weights(const T* weights, const Geometry& geometry)
      : weights_(weights),
        taps_(Known::side > 0 ? most_taps : geometry.taps()),
        mirrored_(geometry.mirrored) {
    if (are_shared()) {
      const int taps = taps_, across = static_cast<int>(blockDim.x) * width;
      const int first = static_cast<int>(blockIdx.y) * across;
      const int count = min(across, geometry.channels - first) * taps;
      const int threads = static_cast<int>(blockDim.x * blockDim.y);
      for (int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); i < count;
           i += threads) {
        const int channel = i / taps, part = channel % width / part_width;
        shared()[place(i % taps)].parts[part][channel / width].values[channel % part_width] =
            to_float(weights[std::int64_t{first} * taps + i]);
      }
      __syncthreads();
    }
  }

  /// Of the thread's channels.
  __device__ void load(int channel, int tap, float (&to)[width]) const {
#pragma unroll
    for (int v = 0; v < width; v += part_width) {
      if (are_shared()) {
        const Part some = shared()[tap].parts[v / part_width][threadIdx.x];
#pragma unroll
        for (int k = 0; k < part_width; ++k) to[v + k] = some.values[k];
      } else {
#pragma unroll
        for (int k = 0; k < part_width; ++k)
          to[v + k] = to_float(weights_[std::int64_t{channel + v + k} * taps_ + place(tap)]);
      }
    }
  }

 private:
  /// What neighbouring threads load at once lies side by side.
  static constexpr int part_width = width < 4 ? width : 4;
  using Part = Vector<float, part_width>;
  struct OfTap {
    Part parts[width / part_width][cuda::most_vectors];
    Part unused;  // or all taps of a channel, which neighbouring threads write, are in one bank
  };
  static constexpr int most_taps = Known::side > 0 ? (Known::taps* Known::taps) : 49;

  static __device__ OfTap* shared() {
    __shared__ OfTap taps[most_taps];
    return taps;
  }
  __device__ bool are_shared() const { return Known::side > 0 || taps_ <= most_taps; }
  __device__ int place(int tap) const { return mirrored_ ? taps_ - 1 - tap : tap; }

  const T* weights_;
  int taps_;
  bool mirrored_;
};

/// A thread takes some runs of `to`. `bias` may be nullptr.
template <class T, int width, class Known>
__global__ void __launch_bounds__(cuda::block_threads, 2)
    correlate(const T* __restrict__ from, const T* __restrict__ weights,
              const float* __restrict__ bias, bool relu, Geometry geometry, Slices slices,
              T* __restrict__ to) {
  const int channels = geometry.channels;
  const Axis y = Known::of(geometry.y), x = Known::of(geometry.x);
  const Weights<T, width, Known> all_weights(weights, geometry);
  const int slice = static_cast<int>(blockIdx.x), channel = cuda::own_channel<width>();
  if (channel >= channels) return;

  const std::int64_t end = slices.end(slice);
  for (std::int64_t i = slices.begin(slice) + threadIdx.y; i < end; i += blockDim.y) {
    const Run run = Run::of<Known::run>(i, geometry);
    float sums[Known::run][width] = {};
#pragma unroll Known::rows
    for (int tap_y = 0; tap_y < y.kernel; ++tap_y) {
      const int at_y = run.y * y.step - y.padding + tap_y * y.dilation;
      if (at_y % y.gap != 0 || at_y < 0 || at_y / y.gap >= y.from) continue;
      const T* const row = from + geometry.from_at(run.image, at_y / y.gap, 0) + channel;
      for (int tap_x = 0; tap_x < x.kernel; tap_x += Known::taps) {
        const int at_x = run.x * x.step - x.padding + tap_x * x.dilation;
        if (Known::side == 0 && at_x % x.gap != 0) continue;
        Vector<T, width> values[Known::columns];
        load_columns(row, channels, at_x / x.gap, x.from, values);
        float own_weights[Known::taps][width];
#pragma unroll
        for (int tap = 0; tap < Known::taps; ++tap)
          all_weights.load(channel, tap_y * x.kernel + tap_x + tap, own_weights[tap]);
#pragma unroll
        for (int column = 0; column < Known::columns; ++column) {
          float column_values[width];
          to_floats(values[column], column_values);
#pragma unroll
          for (int tap = 0; tap < Known::taps; ++tap) {
            const int place = Known::place(column, tap);
            if (place < 0) continue;
#pragma unroll
            for (int v = 0; v < width; ++v)
              sums[place][v] = fmaf(own_weights[tap][v], column_values[v], sums[place][v]);
          }
        }
      }
    }
    float term[width] = {};
    if (bias) cuda::load_channels(bias + channel, term);
#pragma unroll
    for (int place = 0; place < Known::run; ++place) {
      if (run.x + place < 0 || run.x + place >= x.to) continue;
      Vector<T, width> result;
#pragma unroll
      for (int v = 0; v < width; ++v) {
        const float sum = sums[place][v] + term[v];
        result.values[v] = cuda::from_float<T>(relu ? cuda::relu(sum) : sum);
      }
      store(to + geometry.to_at(run.image, run.y, run.x + place) + channel, result);
    }
  }
}

/// Slices of runs.
Slices slices_of(const Conv2d& conv, const Geometry& geometry, const ChannelGroups& groups,
                 std::int64_t most_blocks, std::int64_t least_runs) {
  return {{conv.src.shape.n, geometry.channels, geometry.y.to, geometry.runs},
          groups,
          most_blocks,
          least_runs};
}

template <class T, int width, class Known>
class Correlation final : public Kernel {
 public:
  Correlation(std::string what, const Conv2d& conv, bool backward, bool relu)
      : what_(std::move(what)),
        backward_(backward),
        bias_(conv.bias && !backward),
        relu_(relu),
        geometry_(conv, backward, Known::run),
        groups_(geometry_.channels, width),
        slices_(slices_of(conv, geometry_, groups_, Slices::usual_blocks, least_runs)) {}

  void run(std::span<void* const> args, void*, Stream stream) const override {
    const auto* src = static_cast<const T*>(args[backward_ ? 1 : 0]);
    const auto* weights = static_cast<const T*>(args[backward_ ? 0 : 1]);
    const auto* bias = bias_ ? static_cast<const float*>(args[2]) : nullptr;
    cuda::launch_on_slices(what_, correlate<T, width, Known>, slices_, groups_, stream, src,
                           weights, bias, relu_, geometry_, slices_, static_cast<T*>(args.back()));
  }

 private:
  static constexpr std::int64_t least_runs = 4;

  std::string what_;
  bool backward_, bias_, relu_;
  Geometry geometry_;
  ChannelGroups groups_;
  Slices slices_;
};

// ---- Backward weights ---------------------------------------------------------------------------

/// A block sums over some runs of d_dst, and a thread for some taps of a row: of row threadIdx.z,
/// or, where the size is not known, tap blockIdx.z alone. partials[slice][tap][channel]
template <class T, int width, class Known>
__global__ void __launch_bounds__(cuda::block_threads, 2)
    sum_products(const T* __restrict__ src, const T* __restrict__ d_dst, Geometry geometry,
                 Slices slices, float* __restrict__ partials) {
  const int channels = geometry.channels;
  const Axis y = Known::of(geometry.y), x = Known::of(geometry.x);
  const int first_tap = static_cast<int>(Known::side == 0 ? blockIdx.z : threadIdx.z * Known::taps);
  const int tap_y = first_tap / x.kernel, tap_x = first_tap % x.kernel;
  const int slice = static_cast<int>(blockIdx.x), channel = cuda::own_channel<width>();
  const bool has_channel = channel < channels;

  Sum sums[Known::taps * width] = {};
  if (has_channel) {
    const std::int64_t end = slices.end(slice);
    for (std::int64_t i = slices.begin(slice) + threadIdx.y; i < end; i += blockDim.y) {
      const Run run = Run::of<Known::run>(i, geometry);
      const int at_y = run.y * y.step - y.padding + tap_y * y.dilation;
      if (at_y < 0 || at_y >= y.from) continue;
      Vector<T, width> gradients[Known::run], values[Known::columns];
      load_columns(d_dst + geometry.to_at(run.image, run.y, 0) + channel, channels, run.x, x.to,
                   gradients);
      load_columns(src + geometry.from_at(run.image, at_y, 0) + channel, channels,
                   run.x * x.step - x.padding + tap_x * x.dilation, x.from, values);
      float place_gradients[Known::run][width];
#pragma unroll
      for (int place = 0; place < Known::run; ++place)
        to_floats(gradients[place], place_gradients[place]);
#pragma unroll
      for (int column = 0; column < Known::columns; ++column) {
        float column_values[width];
        to_floats(values[column], column_values);
#pragma unroll
        for (int tap = 0; tap < Known::taps; ++tap) {
          const int place = Known::place(column, tap);
          if (place < 0) continue;
#pragma unroll
          for (int v = 0; v < width; ++v) {
            float& sum = sums[tap * width + v].value;
            sum = fmaf(place_gradients[place][v], column_values[v], sum);
          }
        }
      }
    }
  }
  cuda::add_over_rows(sums);
  if (threadIdx.y > 0 || !has_channel) return;
#pragma unroll
  for (int tap = 0; tap < Known::taps; ++tap) {
    const std::int64_t row = std::int64_t{slice} * geometry.taps() + first_tap + tap;
#pragma unroll
    for (int v = 0; v < width; ++v)
      partials[row * channels + channel + v] = sums[tap * width + v].value;
  }
}

/// `slices`: of the partial sums, whose channels are all taps' ones.
template <class T>
__global__ void __launch_bounds__(cuda::finish_block_threads)
    finish_weights(const float* __restrict__ partials, Slices slices, int taps,
                   T* __restrict__ d_weights) {
  const int i = cuda::finished_channel();
  const bool exists = i < slices.channels;
  const auto sum = cuda::sum_over_slices<cuda::DoubleSum>(slices, exists, [&](int slice) {
    return cuda::DoubleSum{
        static_cast<double>(partials[std::int64_t{slice} * slices.channels + i])};
  });
  if (threadIdx.y > 0 || !exists) return;
  const int channels = slices.channels / taps, tap = i / channels, channel = i % channels;
  d_weights[channel * taps + tap] = cuda::from_float<T>(static_cast<float>(sum.value));
}

template <class T, int width, class Known>
class WeightGradients final : public Kernel {
 public:
  WeightGradients(std::string what, const Conv2d& conv)
      : what_(std::move(what)),
        geometry_(conv, false, Known::run),
        groups_(geometry_.channels, width, Known::taps),
        slices_(slices_of(conv, geometry_, groups_, most_blocks, least_runs)),
        partials_(slices_) {
    partials_.channels = slices_.channels * geometry_.taps();
    workspace_bytes_ = sizeof(float) * static_cast<std::size_t>(partials_.count()) *
                       static_cast<std::size_t>(partials_.channels);
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    auto* partials = static_cast<float*>(workspace);
    const dim3 blocks(static_cast<unsigned>(slices_.count()), groups_.count,
                      Known::side > 0 ? 1U : static_cast<unsigned>(geometry_.taps()));
    cuda::launch(what_, sum_products<T, width, Known>, blocks, groups_.threads, stream,
                 static_cast<const T*>(args[0]), static_cast<const T*>(args[1]), geometry_, slices_,
                 partials);
    cuda::launch_finish(what_, finish_weights<T>, partials_, stream, partials, partials_,
                        geometry_.taps(), static_cast<T*>(args[2]));
  }

 private:
  // Each block leaves a float for each tap of its channels: few blocks, or that would be more than
  // the tensors.
  static constexpr std::int64_t most_blocks = Slices::usual_blocks / 3, least_runs = 8;

  std::string what_;
  Geometry geometry_;
  ChannelGroups groups_;
  Slices slices_, partials_;
};

// ---- Planning -----------------------------------------------------------------------------------

/// visit(T{}, width, side, stride) with what kernels are compiled for; 0 where that is anything.
template <class Visit>
KernelPtr with_compiled(const Conv2d& conv, const std::string& what, Visit visit) {
  cuda::require_nhwc(what, conv.src);
  cuda::require_nhwc(what, conv.dst);
  constexpr std::int64_t most_taps = 0x7fff;  // times channels, and as blocks in z
  if (conv.weights().spatial() > most_taps)
    throw std::invalid_argument(what + ": a channel's weights must be below 2^15 on CUDA");
  return cuda::with_vectors(conv.src, what, [&](auto element, auto width) -> KernelPtr {
    const auto known = [&]<int side, int stride>() -> KernelPtr {
      // Registers and shared memory have room for all taps of a few channels.
      constexpr int most = side == 0 || side == 7 ? 4 : width();
      return visit(element, std::integral_constant<int, std::min(width(), most)>{},
                   std::integral_constant<int, side>{}, std::integral_constant<int, stride>{});
    };
    if constexpr (width() > 1) {
      const auto is = [&](int side, int stride) {
        return conv.window == Window{side, stride, conv.window.padding};
      };
      if (is(1, 1)) return known.template operator()<1, 1>();
      if (is(3, 1)) return known.template operator()<3, 1>();
      if (is(3, 2)) return known.template operator()<3, 2>();
      if (is(5, 1)) return known.template operator()<5, 1>();
      if (is(5, 2)) return known.template operator()<5, 2>();
      if (is(7, 1)) return known.template operator()<7, 1>();
    }
    if (conv.window.stride == PerAxis(1)) return known.template operator()<0, 1>();
    return known.template operator()<0, 0>();
  });
}

}  // namespace

bool is_depthwise(const Conv2d& conv) {
  return conv.groups == conv.src.shape.c && conv.groups == conv.dst.shape.c;
}

KernelPtr plan_forward(const Conv2d& conv, bool relu, const std::string& what) {
  return with_compiled(conv, what,
                       [&](auto element, auto width, auto side, auto stride) -> KernelPtr {
                         using Known = Compiled<side(), side() == 0 ? 0 : stride(), 1>;
                         return std::make_unique<Correlation<decltype(element), width(), Known>>(
                             what, conv, false, relu);
                       });
}

KernelPtr plan_backward_data(const Conv2d& conv, const std::string& what) {
  return with_compiled(conv, what,
                       [&](auto element, auto width, auto side, auto stride) -> KernelPtr {
                         using Known = Compiled<side(), side() == 0 ? 0 : 1, stride()>;
                         return std::make_unique<Correlation<decltype(element), width(), Known>>(
                             what, conv, true, false);
                       });
}

KernelPtr plan_backward_weights(const Conv2d& conv, const std::string& what) {
  return with_compiled(
      conv, what, [&](auto element, auto width, auto side, auto stride) -> KernelPtr {
        using Known = Compiled<side(), side() == 0 ? 0 : stride(), 1>;
        return std::make_unique<WeightGradients<decltype(element), width(), Known>>(what, conv);
      });
}

}  // namespace stpt::codelets::depthwise
