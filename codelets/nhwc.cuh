// Tensors in nhwc as rows of channels. A block takes some rows of a group of channels: its threads
// lie side by side in x, each with a vector of neighbouring channels, and take different rows in y.
// In .cu files only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "codelets/launch.cuh"

namespace stpt::codelets::cuda {

inline constexpr unsigned block_threads = 256;

/// Throws std::invalid_argument, which begins with `what`, unless the memory is that of nhwc.
inline void require_nhwc(const std::string& what, const runtime::TensorSpec& spec) {
  require_plain(what, spec);
  const runtime::Shape& shape = spec.shape;
  if (!runtime::same_memory(spec, {shape, spec.type, runtime::Layout::nhwc}))
    throw std::invalid_argument(what + ": " + runtime::to_string(spec.layout) +
                                "; on CUDA the layout must be nhwc");
  if (shape.smallest() < 1)
    throw std::invalid_argument(what + ": every dimension must be at least 1");
  if (shape.n * shape.spatial() > 0x7fffffff || shape.c > 0xffff)
    throw std::invalid_argument(what + ": n*h*w must be below 2^31 and c below 2^16 on CUDA");
}

/// with_type for a tensor of rows of channels: visit(T{}, width) with the channels of a vector as a
/// std::integral_constant, 16 bytes where rows begin at multiples of that, else one channel.
template <class Visit>
auto with_vectors(const runtime::TensorSpec& spec, const std::string& what, Visit visit) {
  return with_type(spec.type, what, [&](auto element) {
    constexpr int widest = 16 / sizeof element;
    if (spec.shape.c % widest == 0) return visit(element, std::integral_constant<int, widest>{});
    return visit(element, std::integral_constant<int, 1>{});
  });
}

/// Vectors of channels that a block takes.
inline constexpr unsigned most_vectors = 32;

/// How blocks take groups of channels.
struct ChannelGroups {
  dim3 threads;  ///< of a block: vectors of channels, rows, and what `depth` threads share of a row
  unsigned count = 1;

  ChannelGroups(std::int64_t channels, int width, unsigned depth = 1) {
    const auto vectors = static_cast<unsigned>(channels / width);
    count = (vectors + most_vectors - 1) / most_vectors;
    threads.x = (vectors + count - 1) / count;
    threads.y = block_threads / (threads.x * depth);
    threads.z = depth;
  }
};

/// How a pass goes over its rows. One that goes backwards over what another has read or written
/// finds the end of it in the cache: blocks are started in ascending order.
enum class Order { forwards, backwards };

/// The thread's first channel, where blockIdx.y is the group, counted from the last one backwards;
/// in the last group it may be beyond the last channel.
template <int width, Order order = Order::forwards>
__device__ inline int own_channel() {
  const unsigned group = order == Order::forwards ? blockIdx.y : gridDim.y - 1 - blockIdx.y;
  return static_cast<int>(group * blockDim.x + threadIdx.x) * width;
}

/// Adds up the parts of the block's threads with the same x and z, always in the same order. The
/// result is that of the thread with y = 0, the parts of the others are left undefined. Part is
/// trivial and has add(const Part&). To be called by all threads, once in a kernel.
template <int width, class Part>
__device__ void add_over_rows(Part (&parts)[width]) {
  __shared__ Part shared[width][block_threads];
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
#pragma unroll
  for (int v = 0; v < width; ++v) shared[v][thread] = parts[v];
  unsigned half = 1;
  while (half < blockDim.y) half *= 2;
  for (half /= 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half && threadIdx.y + half < blockDim.y) {
#pragma unroll
      for (int v = 0; v < width; ++v) {
        parts[v].add(shared[v][thread + half * blockDim.x]);
        shared[v][thread] = parts[v];
      }
    }
  }
}

/// Of add_over_rows.
struct Sum {
  float value;
  __device__ void add(const Sum& other) { value += other.value; }
};

/// Of sum_over_slices.
struct DoubleSum {
  double value;
  __device__ void add(const DoubleSum& other) { value += other.value; }
};

/// The block's set of rows (Slices).
__device__ inline std::int64_t own_set() { return blockIdx.z; }

/// Rows of channels, cut into slices that depend on the shape only: what is summed over them shall
/// not depend on the GPU. A block has one of a group of channels (own_slice, own_channel). Where
/// images are summed one by one, each is a set of rows; else there is one set.
struct Slices {
  std::int64_t rows;  ///< of a set
  int channels;
  int rows_a_slice;
  int sets = 1;

  /// Whole waves on the 132 multiprocessors of a Hopper with 2, 3 or 4 blocks on each.
  static constexpr std::int64_t usual_blocks = 12 * 132;

  /// `least_rows`: of a thread; less would not pay for a block's beginning and end.
  Slices(const runtime::Shape& shape, const ChannelGroups& groups,
         std::int64_t most_blocks = usual_blocks, std::int64_t least_rows = 8)
      : rows(shape.n * shape.spatial()), channels(static_cast<int>(shape.c)) {
    constexpr std::int64_t multiple = 4;  // no odd rows for for_each_row
    const std::int64_t at_once = groups.threads.y;
    const std::int64_t most = std::max<std::int64_t>(1, most_blocks / groups.count);
    const std::int64_t of_thread = std::max(least_rows, (rows - 1) / (at_once * most) + 1);
    rows_a_slice = static_cast<int>((of_thread + multiple - 1) / multiple * multiple * at_once);
  }

  /// With a set for each image.
  [[nodiscard]] static Slices of_images(const runtime::Shape& shape, const ChannelGroups& groups) {
    Slices slices({1, shape.c, shape.h, shape.w}, groups, usual_blocks / shape.n);
    slices.sets = static_cast<int>(shape.n);
    return slices;
  }

  /// Slices of a set.
  __host__ __device__ int count() const {
    return static_cast<int>((rows + rows_a_slice - 1) / rows_a_slice);
  }
  __host__ __device__ int all() const { return sets * count(); }
  /// Where the own set has a number for each channel, the one for `channel`.
  __device__ std::int64_t of_set(int channel) const { return own_set() * channels + channel; }
  /// Where each slice of each set has, the one for the own set's slice and channel 0.
  __device__ std::int64_t partial(int slice) const {
    return (own_set() * count() + slice) * channels;
  }
  __device__ std::int64_t begin(int slice) const { return std::int64_t{slice} * rows_a_slice; }
  __device__ std::int64_t end(int slice) const { return min(begin(slice) + rows_a_slice, rows); }
};

/// Enqueues a kernel with a block for each slice of each set, and each group.
template <class... Parameters>
void launch_on_slices(const std::string& what, void (*kernel)(Parameters...), const Slices& slices,
                      const ChannelGroups& groups, Stream stream,
                      std::type_identity_t<Parameters>... arguments) {
  launch(what, kernel,
         {static_cast<unsigned>(slices.count()), groups.count, static_cast<unsigned>(slices.sets)},
         groups.threads, stream, arguments...);
}

// Kernels that add up what blocks have left for each slice: a block has 8 channels, and for each up
// to 128 threads, so that none waits for memory more than a few times.
inline constexpr unsigned finish_channels = 8, most_finish_rows = 128;
inline constexpr unsigned finish_block_threads = finish_channels * most_finish_rows;

/// Enqueues one of them, for all channels.
template <class... Parameters>
void launch_finish(const std::string& what, void (*kernel)(Parameters...), const Slices& slices,
                   Stream stream, std::type_identity_t<Parameters>... arguments) {
  constexpr int at_once = 4;  // slices that a thread has under way
  unsigned rows = 1;          // a power of two
  while (rows < most_finish_rows && static_cast<int>(rows) * at_once < slices.all()) rows *= 2;
  launch(what, kernel, blocks_for_all(static_cast<std::size_t>(slices.channels), finish_channels),
         {finish_channels, rows}, stream, arguments...);
}

/// The thread's channel; it may be beyond the last.
__device__ inline int finished_channel() {
  return static_cast<int>(blockIdx.x * finish_channels + threadIdx.x);
}

/// The sum over the slices of all sets of of_slice(slice), known to the channel's first thread (y =
/// 0), always in the same order. Part is as for add_over_rows, and zero when it is made of {}. To
/// be called by all threads, once in a kernel.
template <class Part, class OfSlice>
__device__ Part sum_over_slices(const Slices& slices, bool has_channel, OfSlice of_slice) {
  Part own{};
  if (has_channel) {
    const int count = slices.all();
#pragma unroll 4
    for (int slice = static_cast<int>(threadIdx.y); slice < count;
         slice += static_cast<int>(blockDim.y))
      own.add(of_slice(slice));
  }
  __shared__ Part sums[most_finish_rows][finish_channels];
  sums[threadIdx.y][threadIdx.x] = own;
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half)
      sums[threadIdx.y][threadIdx.x].add(sums[threadIdx.y + half][threadIdx.x]);
  }
  return sums[0][threadIdx.x];
}

/// The block's slice, counted from the last one backwards.
template <Order order>
__device__ inline int own_slice() {
  return static_cast<int>(order == Order::forwards ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
}

/// Visits the thread's rows of the block's slice: one(at) for some of them first, then many(at,
/// stride) for `rows_at_once` at a time, `stride` elements apart. `at` is where the row's `channel`
/// lies. `many` shall load all that it needs before it uses any of it: memory answers late.
template <int rows_at_once, Order order, class Many, class One>
__device__ void for_each_row(const Slices& slices, int channel, Many many, One one) {
  const int slice = own_slice<order>(), step = static_cast<int>(blockDim.y);
  const int left =
      static_cast<int>(slices.end(slice) - slices.begin(slice)) - static_cast<int>(threadIdx.y);
  int count = left > 0 ? (left + step - 1) / step : 0;
  std::int64_t stride = std::int64_t{step} * slices.channels;
  std::int64_t at =
      (own_set() * slices.rows + slices.begin(slice) + threadIdx.y) * slices.channels + channel;
  if constexpr (order == Order::backwards) {
    at += (count - 1) * stride;
    stride = -stride;
  }
  for (; count % rows_at_once != 0; --count, at += stride) one(at);
  for (; count > 0; count -= rows_at_once, at += rows_at_once * stride) many(at, stride);
}

/// Reads `width` floats, one for each channel.
template <int width>
__device__ inline void load_channels(const float* from, float (&to)[width]) {
  constexpr int at_once = width < 4 ? width : 4;
#pragma unroll
  for (int v = 0; v < width; v += at_once) {
    const auto some = load<at_once>(from + v);
#pragma unroll
    for (int k = 0; k < at_once; ++k) to[v + k] = some.values[k];
  }
}

}  // namespace stpt::codelets::cuda
