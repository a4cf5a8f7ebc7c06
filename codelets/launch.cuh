// Launching kernels. In .cu files only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "codelets/cuda.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::cuda {

/// Enqueues kernel<<<blocks, threads>>>(arguments...). `what` names the op in the error.
template <class... Parameters>
void launch(const std::string& what, void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
            Stream stream, std::type_identity_t<Parameters>... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.stream = native(stream);
  check(cudaLaunchKernelEx(&config, kernel, std::move(arguments)...), what);
}

/// Blocks for a loop over `count` items, one at least, in steps of the whole grid.
[[nodiscard]] inline unsigned blocks_for(std::int64_t count, unsigned threads) {
  constexpr std::int64_t most = 4096;  // many waves on any GPU; the loop does the rest
  const std::int64_t wanted = (count + threads - 1) / threads;
  return static_cast<unsigned>(std::min(wanted, most));
}

/// Blocks for a loop over what an image has, in x, and one over the images, in y.
[[nodiscard]] inline dim3 blocks_for_images(std::int64_t images, std::int64_t of_an_image,
                                            unsigned threads) {
  return {blocks_for(of_an_image, threads),
          static_cast<unsigned>(std::min<std::int64_t>(images, 65535))};
}

/// Blocks for `count` items, `items_a_block` in each.
[[nodiscard]] inline unsigned blocks_for_all(std::size_t count, std::size_t items_a_block) {
  return static_cast<unsigned>((count + items_a_block - 1) / items_a_block);
}

/// Pieces of work that one launch does, passed to the kernel by value. Each has some blocks of its
/// own. A plain struct, so that it may be an argument.
template <class Piece>
struct Pieces {
  static constexpr int most = 64;
  Piece pieces[most];
  unsigned first_block[most];
  int count;
  unsigned blocks;  ///< of all

  [[nodiscard]] bool full() const { return count == most; }
  void add(const Piece& piece, unsigned its_blocks) {
    pieces[count] = piece;
    first_block[count++] = blocks;
    blocks += its_blocks;
  }

  struct Own {
    const Piece& piece;
    unsigned block;  ///< the calling block's number among those of the piece
  };
  /// The calling block's piece: the last one that begins at this block or before.
  [[nodiscard]] __device__ Own own() const {
    int mine = 0;
    for (int half = most / 2; half > 0; half /= 2)
      if (mine + half < count && first_block[mine + half] <= blockIdx.x) mine += half;
    return {pieces[mine], blockIdx.x - first_block[mine]};
  }
};

/// Collects pieces of work and has launch(const Pieces<Piece>&) do as many as it takes at a time.
template <class Piece, class Launch>
class Batches {
 public:
  explicit Batches(Launch launch) : launch_(std::move(launch)) {}
  /// A piece without blocks has no work.
  void add(const Piece& piece, unsigned blocks) {
    if (blocks == 0) return;
    pieces_.add(piece, blocks);
    if (pieces_.full()) finish();
  }
  /// What has been added since the last launch.
  void finish() {
    if (pieces_.count > 0) launch_(std::as_const(pieces_));
    pieces_ = {};
  }

 private:
  Launch launch_;
  Pieces<Piece> pieces_{};
};

template <class Piece, class Launch>
[[nodiscard]] Batches<Piece, Launch> in_batches(Launch launch) {
  return Batches<Piece, Launch>(std::move(launch));
}

/// Throws std::invalid_argument, which begins with `what`, unless the tensor is one that CUDA's
/// kernels take.
inline void require_plain(const std::string& what, const runtime::TensorSpec& spec) {
  const auto fail = [&](const std::string& reason) {
    throw std::invalid_argument(what + ": " + reason);
  };
  if (spec.layout != runtime::Layout::nchw && spec.layout != runtime::Layout::nhwc)
    fail(std::string(runtime::to_string(spec.layout)) + "; on CUDA the layout is nchw or nhwc");
  if (spec.shape.smallest() < 0) fail("no dimension may be negative");
}

/// Calls visit(T{}) with the element type float, __nv_bfloat16 or __half; throws
/// std::invalid_argument, which begins with `what`, for others.
template <class Visit>
auto with_type(runtime::DataType type, const std::string& what, Visit visit) {
  switch (type) {
    case runtime::DataType::float32:
      return visit(float{});
    case runtime::DataType::bfloat16:
      return visit(__nv_bfloat16{});
    case runtime::DataType::float16:
      return visit(__half{});
    default:
      refuse(type, what);
  }
}

template <class T>
__host__ __device__ inline float to_float(T value) {
  return static_cast<float>(value);
}

/// Rounds to nearest even.
template <class T>
__host__ __device__ inline T from_float(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

/// `width` neighbouring elements, loaded and stored at once.
template <class T, int width>
struct alignas(sizeof(T) * width) Vector {
  T values[width];
};

template <int width, class T>
__device__ inline Vector<T, width> load(const T* from) {
  return *reinterpret_cast<const Vector<T, width>*>(from);
}

template <int width, class T>
__device__ inline void store(T* to, const Vector<T, width>& vector) {
  *reinterpret_cast<Vector<T, width>*>(to) = vector;
}

/// Written so that NaN stays NaN.
__device__ inline float relu(float x) { return x < 0 ? 0 : x; }

// ---- Maps ---------------------------------------------------------------------------------------

template <class To, int width, class Function, class... Sources>
__device__ inline Vector<To, width> map_vectors(Function function,
                                                const Vector<Sources, width>&... sources) {
  Vector<To, width> result;
#pragma unroll
  for (int v = 0; v < width; ++v)
    result.values[v] = from_float<To>(function(to_float(sources.values[v])...));
  return result;
}

template <int width, class To, class Function, class... Sources>
__global__ void map_kernel(std::int64_t count, Function function, To* to,
                           const Sources*... sources) {
  const std::int64_t threads = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::int64_t whole = count / width * width;
  for (std::int64_t i = thread * width; i < whole; i += threads * width)
    store(to + i, map_vectors<To, width>(function, load<width>(sources + i)...));
  const std::int64_t rest = whole + thread;  // fewer than there are threads
  if (rest < count) to[rest] = from_float<To>(function(to_float(sources[rest])...));
}

/// Enqueues to[i] = function(sources[i]...), computed in float; `to` may be one of the sources.
template <class Function, class To, class... Sources>
void map(const std::string& what, Stream stream, std::int64_t count, Function function, To* to,
         const Sources*... sources) {
  if (count == 0) return;
  constexpr unsigned threads = 256;
  constexpr int width = 16 / static_cast<int>(std::max({sizeof(To), sizeof(Sources)...}));
  const auto aligned = [](const void* at) {
    return reinterpret_cast<std::uintptr_t>(at) % 16 == 0;
  };
  if (aligned(to) && (aligned(sources) && ...)) {
    launch(what, map_kernel<width, To, Function, Sources...>,
           blocks_for((count + width - 1) / width, threads), threads, stream, count, function, to,
           sources...);
  } else {
    launch(what, map_kernel<1, To, Function, Sources...>, blocks_for(count, threads), threads,
           stream, count, function, to, sources...);
  }
}

}  // namespace stpt::codelets::cuda
