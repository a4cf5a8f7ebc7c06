#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "codelets/channel_shuffle.hpp"
#include "codelets/nhwc.cuh"

// The CUDA implementation, in nhwc: the channels of each row change places. A thread writes
// neighbouring ones of some rows, whatever the rows they come from.

namespace stpt::codelets {
namespace {

template <class T, int width>
__global__ void shuffle(const std::int64_t rows, const int channels, const int groups,
                        const T* __restrict__ x, T* __restrict__ y) {
  const int channel = cuda::own_channel<width>();
  if (channel >= channels) return;
  int from[width];
#pragma unroll
  for (int v = 0; v < width; ++v)
    from[v] = (channel + v) % groups * (channels / groups) + (channel + v) / groups;
  for (std::int64_t row = blockIdx.x * blockDim.y + threadIdx.y; row < rows;
       row += gridDim.x * blockDim.y) {
    const std::int64_t at = row * channels;
    cuda::Vector<T, width> values;
#pragma unroll
    for (int v = 0; v < width; ++v) values.values[v] = x[at + from[v]];
    cuda::store(y + at + channel, values);
  }
}

template <class T, int width>
class Shuffle final : public Kernel {
 public:
  Shuffle(std::string what, const ChannelShuffle& op)
      : what_(std::move(what)), op_(op), block_(op.x.shape.c, width) {}

  void run(std::span<void* const> args, void*, Stream stream) const override {
    const runtime::Shape& shape = op_.x.shape;
    const std::int64_t rows = shape.n * shape.spatial();
    const dim3 blocks(cuda::blocks_for(rows, block_.threads.y), block_.count);
    cuda::launch(what_, shuffle<T, width>, blocks, block_.threads, stream, rows,
                 static_cast<int>(shape.c), op_.groups, static_cast<const T*>(args[0]),
                 static_cast<T*>(args[1]));
  }

 private:
  std::string what_;
  ChannelShuffle op_;
  cuda::ChannelGroups block_;
};

}  // namespace

KernelPtr plan(const ChannelShuffle& op, Cuda) {
  const std::string what = "ChannelShuffle " + op.x.to_string();
  cuda::require_nhwc(what, op.x);
  require_valid(op);
  return cuda::with_vectors(op.x, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<Shuffle<decltype(element), width>>(what, op);
  });
}

}  // namespace stpt::codelets
