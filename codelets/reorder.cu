#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "codelets/buffers.hpp"
#include "codelets/launch.cuh"
#include "codelets/reorder.hpp"

namespace stpt::codelets {
namespace {

using cuda::launch;
using runtime::Layout;

// ---- One reorder --------------------------------------------------------------------------------

/// Matrices of rows x columns, one an image, that are transposed.
struct Matrices {
  std::int64_t count;
  unsigned rows, columns;

  __host__ __device__ unsigned elements() const { return rows * columns; }
};

/// A thread for each element of the destination; for matrices with few rows or columns.
template <class To, class From>
__global__ void transpose_plainly(const From* __restrict__ src, To* __restrict__ dst,
                                  Matrices matrices) {
  const unsigned elements = matrices.elements(), threads = gridDim.x * blockDim.x;
  for (std::int64_t image = blockIdx.y; image < matrices.count; image += gridDim.y) {
    const From* from = src + image * elements;
    To* to = dst + image * elements;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < elements; i += threads) {
      const unsigned row = i % matrices.rows, column = i / matrices.rows;
      to[i] = cuda::from_float<To>(cuda::to_float(from[row * matrices.columns + column]));
    }
  }
}

constexpr unsigned tile_size = 32, tile_rows_at_once = 8;

/// A block for each tile, which it reads and writes along the rows of memory.
template <class To, class From>
__global__ void transpose_tiles(const From* __restrict__ src, To* __restrict__ dst,
                                Matrices matrices) {
  __shared__ float tile[tile_size][tile_size + 1];  // no two rows in the same banks
  const auto [images, rows, columns] = matrices;
  const unsigned tiles = (columns + tile_size - 1) / tile_size;
  const unsigned first_row = blockIdx.x / tiles * tile_size;
  const unsigned first_column = blockIdx.x % tiles * tile_size;
  for (std::int64_t image = blockIdx.y; image < images; image += gridDim.y) {
    const From* from = src + image * matrices.elements();
    To* to = dst + image * matrices.elements();
    for (unsigned i = threadIdx.y; i < tile_size; i += tile_rows_at_once) {
      const unsigned row = first_row + i, column = first_column + threadIdx.x;
      if (row < rows && column < columns)
        tile[i][threadIdx.x] = cuda::to_float(from[row * columns + column]);
    }
    __syncthreads();
    for (unsigned i = threadIdx.y; i < tile_size; i += tile_rows_at_once) {
      const unsigned row = first_row + threadIdx.x, column = first_column + i;
      if (row < rows && column < columns)
        to[column * rows + row] = cuda::from_float<To>(tile[threadIdx.x][i]);
    }
    __syncthreads();
  }
}

/// From planes to pixels of all channels of `dst`, one store each; those beyond the source's are 0.
template <class To, int channels, class From>
__global__ void interleave(const From* __restrict__ src, To* __restrict__ dst, Matrices planes) {
  const unsigned pixels = planes.columns, threads = gridDim.x * blockDim.x;
  for (std::int64_t image = blockIdx.y; image < planes.count; image += gridDim.y) {
    const From* from = src + image * planes.elements();
    To* to = dst + image * pixels * channels;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels; i += threads) {
      cuda::Vector<To, channels> pixel;
#pragma unroll
      for (unsigned c = 0; c < channels; ++c)
        pixel.values[c] =
            cuda::from_float<To>(c < planes.rows ? cuda::to_float(from[c * pixels + i]) : 0);
      cuda::store(to + std::int64_t{i} * channels, pixel);
    }
  }
}

struct Identity {
  __device__ float operator()(float x) const { return x; }
};

/// From one data type to another in the same order.
template <class To, class From>
class Conversion final : public Kernel {
 public:
  Conversion(std::string what, std::int64_t count) : what_(std::move(what)), count_(count) {}
  void run(std::span<void* const> args, void*, Stream stream) const override {
    if constexpr (std::is_same_v<To, From>) {
      copy(static_cast<std::size_t>(count_) * sizeof(To), args[1], args[0], Cuda{}, stream);
    } else {
      cuda::map(what_, stream, count_, Identity{}, static_cast<To*>(args[1]),
                static_cast<const From*>(args[0]));
    }
  }

 private:
  std::string what_;
  std::int64_t count_;
};

/// Channels that make 16 bytes.
template <class T>
constexpr int interleaved_channels = 16 / sizeof(T);

template <class To, class From>
class Interleaving final : public Kernel {
 public:
  Interleaving(std::string what, Matrices planes) : what_(std::move(what)), planes_(planes) {}
  void run(std::span<void* const> args, void*, Stream stream) const override {
    constexpr unsigned threads = 256;
    launch(what_, interleave<To, interleaved_channels<To>, From>,
           cuda::blocks_for_images(planes_.count, planes_.columns, threads), threads, stream,
           static_cast<const From*>(args[0]), static_cast<To*>(args[1]), planes_);
  }

 private:
  std::string what_;
  Matrices planes_;
};

template <class To, class From>
class Transposition final : public Kernel {
 public:
  Transposition(std::string what, Matrices matrices)
      : what_(std::move(what)), matrices_(matrices) {}
  void run(std::span<void* const> args, void*, Stream stream) const override {
    const auto* src = static_cast<const From*>(args[0]);
    auto* dst = static_cast<To*>(args[1]);
    const auto [images, rows, columns] = matrices_;
    constexpr unsigned threads = 256, worth_a_tile = 16;
    dim3 blocks = cuda::blocks_for_images(images, matrices_.elements(), threads);
    if (std::min(rows, columns) < worth_a_tile) {
      launch(what_, transpose_plainly<To, From>, blocks, threads, stream, src, dst, matrices_);
      return;
    }
    const auto tiles = [](unsigned size) { return (size + tile_size - 1) / tile_size; };
    blocks.x = tiles(rows) * tiles(columns);
    launch(what_, transpose_tiles<To, From>, blocks, dim3(tile_size, tile_rows_at_once), stream,
           src, dst, matrices_);
  }

 private:
  std::string what_;
  Matrices matrices_;
};

// ---- Several reorders ---------------------------------------------------------------------------

constexpr unsigned elements_a_block = 2048;

/// How many values the destination has in each of three dimensions, the last one being the images,
/// and where the source has them, in whose other order they may lie; what it has not is 0.
struct PartShape {
  struct Dimension {
    unsigned size, known, stride;  ///< values, those that the source has, its stride
  };
  Dimension inner, outer;
  unsigned image_stride, elements;
};

template <class To, class From>
struct ReorderPart {
  const From* src;
  To* dst;
  PartShape shape;
};

/// A thread for each element of the destination. What it reads lies apart, but the block's other
/// threads read the rest of the same lines.
template <class To, class From>
__global__ void reorder_parts(cuda::Pieces<ReorderPart<To, From>> parts) {
  const auto [part, block] = parts.own();
  const auto [inner, outer, image_stride, elements] = part.shape;
  const From* __restrict__ from = part.src;
  To* __restrict__ to = part.dst;
  const unsigned begin = block * elements_a_block, end = min(begin + elements_a_block, elements);
#pragma unroll 4
  for (unsigned i = begin + threadIdx.x; i < end; i += blockDim.x) {
    const unsigned a = i % inner.size, b = i / inner.size % outer.size;
    const unsigned image = i / inner.size / outer.size;
    const bool known = a < inner.known && b < outer.known;
    const unsigned at = image * image_stride + b * outer.stride + a * inner.stride;
    to[i] = cuda::from_float<To>(known ? cuda::to_float(from[at]) : 0);
  }
}

struct PlannedPart {
  Reorders::Place src, dst;
  PartShape shape;
};

template <class To, class From>
class PartwiseReorder final : public Kernel {
 public:
  PartwiseReorder(std::string what, std::size_t sources, std::vector<PlannedPart> parts)
      : what_(std::move(what)), sources_(sources), parts_(std::move(parts)) {}
  void run(std::span<void* const> args, void*, Stream stream) const override {
    constexpr unsigned threads = 256;
    using Part = ReorderPart<To, From>;
    auto batches = cuda::in_batches<Part>([&](const cuda::Pieces<Part>& batch) {
      cuda::launch(what_, reorder_parts<To, From>, batch.blocks, threads, stream, batch);
    });
    for (const auto& [src, dst, shape] : parts_) {
      const void* from = static_cast<const std::byte*>(args[src.buffer]) + src.offset;
      void* to = static_cast<std::byte*>(args[sources_ + dst.buffer]) + dst.offset;
      batches.add({static_cast<const From*>(from), static_cast<To*>(to), shape},
                  cuda::blocks_for_all(shape.elements, elements_a_block));
    }
    batches.finish();
  }

 private:
  std::string what_;
  std::size_t sources_;
  std::vector<PlannedPart> parts_;
};

/// Throws std::invalid_argument, which begins with `what`, if CUDA has no such reorder.
void check(const Reorder& op, const std::string& what) {
  cuda::require_plain(what, op.src);
  cuda::require_plain(what, op.dst);
  runtime::Shape src = op.src.shape;
  src.c = op.dst.shape.c;
  if (src != op.dst.shape)
    throw std::invalid_argument(what + ": both shapes must be the same but for the channels");
}

bool same_order(const Reorder& op) {
  return runtime::same_memory({op.src.shape, op.dst.type, op.src.layout}, op.dst);
}

PartShape shape_of(const Reorders& op, const Reorders::Part& part, const std::string& what) {
  check(part.reorder, what);
  const auto& [src, dst] = part.reorder;
  for (const TensorSpec* spec : {&src, &dst}) {
    if (spec->shape.elements() < 1 || spec->shape.elements() > 0x7fffffff)
      throw std::invalid_argument(what + ": a part must have 1 to 2^31 - 1 values");
  }
  if (part.src.buffer >= op.sources || part.dst.buffer >= op.destinations)
    throw std::invalid_argument(what + ": a part lies in no buffer");
  if (part.src.offset % runtime::size_of(src.type) != 0 ||
      part.dst.offset % runtime::size_of(dst.type) != 0)
    throw std::invalid_argument(what + ": offsets must be those of whole values");
  const auto elements = static_cast<unsigned>(dst.shape.elements());
  if (same_order(part.reorder)) return {{elements, elements, 1}, {1, 1, 0}, 0, elements};
  const auto channels = static_cast<unsigned>(src.shape.c),
             area = static_cast<unsigned>(src.shape.spatial());
  const bool from_pixels = src.layout == Layout::nhwc, to_pixels = dst.layout == Layout::nhwc;
  const PartShape::Dimension of_channels{static_cast<unsigned>(dst.shape.c), channels,
                                         from_pixels ? 1 : area};
  const PartShape::Dimension of_pixels{area, area, from_pixels ? channels : 1};
  return {to_pixels ? of_channels : of_pixels, to_pixels ? of_pixels : of_channels, channels * area,
          elements};
}

}  // namespace

KernelPtr plan(const Reorder& op, Cuda) {
  const std::string what = "reorder " + op.src.to_string() + " to " + op.dst.to_string();
  check(op, what);
  const std::int64_t count = op.src.shape.elements();
  const std::int64_t channels = op.src.shape.c, spatial = op.src.shape.spatial();
  if (!same_order(op) && channels * spatial > 0x7fffffff)
    throw std::invalid_argument(what + ": an image must have fewer than 2^31 values");
  const bool pads = op.dst.shape.c != channels;
  const Matrices to_nhwc{op.src.shape.n, static_cast<unsigned>(channels),
                         static_cast<unsigned>(spatial)};
  const Matrices to_nchw{op.src.shape.n, static_cast<unsigned>(spatial),
                         static_cast<unsigned>(channels)};
  return cuda::with_type(op.src.type, what, [&](auto from) {
    return cuda::with_type(op.dst.type, what, [&](auto to) -> KernelPtr {
      using From = decltype(from);
      using To = decltype(to);
      if (same_order(op) || count == 0) return std::make_unique<Conversion<To, From>>(what, count);
      if (op.src.layout == Layout::nchw && op.dst.layout == Layout::nhwc &&
          op.dst.shape.c == interleaved_channels<To> && channels <= op.dst.shape.c)
        return std::make_unique<Interleaving<To, From>>(what, to_nhwc);
      if (pads) return plan(Reorders{1, 1, {{op, {}, {}}}}, Cuda{});
      return std::make_unique<Transposition<To, From>>(
          what, op.dst.layout == Layout::nhwc ? to_nhwc : to_nchw);
    });
  });
}

KernelPtr plan(const Reorders& op, Cuda) {
  const std::string what = "reorder of " + std::to_string(op.parts.size()) + " tensors";
  if (op.parts.empty()) throw std::invalid_argument(what + ": at least one is needed");
  const auto& [src, dst] = op.parts.front().reorder;
  std::vector<PlannedPart> parts;
  for (const Reorders::Part& part : op.parts) {
    if (part.reorder.src.type != src.type || part.reorder.dst.type != dst.type)
      throw std::invalid_argument(what + ": all must have the same two types");
    parts.push_back({part.src, part.dst, shape_of(op, part, what)});
  }
  return cuda::with_type(src.type, what, [&](auto from) {
    return cuda::with_type(dst.type, what, [&](auto to) -> KernelPtr {
      return std::make_unique<PartwiseReorder<decltype(to), decltype(from)>>(what, op.sources,
                                                                             std::move(parts));
    });
  });
}

}  // namespace stpt::codelets
