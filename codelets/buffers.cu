#include <memory>
#include <string>

#include "codelets/buffers.hpp"
#include "codelets/launch.cuh"

namespace stpt::codelets {
namespace {

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

constexpr unsigned threads_a_block = 256;
constexpr std::size_t elements_a_block = 4096;

using MeanBuffers = cuda::Pieces<MeanBuffer>;

__global__ void __launch_bounds__(threads_a_block) mean_kernel(MeanBuffers buffers, float weight) {
  const auto [buffer, block] = buffers.own();
  const std::size_t begin = block * elements_a_block;
  const std::size_t end = min(buffer.count, begin + elements_a_block);
  for (std::size_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    const float value = buffer.value[i];
    buffer.mean[i] = weight == 1 ? value : buffer.mean[i] + weight * (value - buffer.mean[i]);
  }
}

class Zeros final : public Kernel {
 public:
  explicit Zeros(const Clear& op) : bytes_(op.bytes) {}
  void run(std::span<void* const> args, void*, Stream stream) const override {
    clear(bytes_, args[0], Cuda{}, stream);
  }

 private:
  std::size_t bytes_;
};

}  // namespace

void accumulate(std::size_t count, float* sum, const float* term, Cuda, Stream stream) {
  cuda::map("sum of " + std::to_string(count) + " values", stream, static_cast<std::int64_t>(count),
            Sum{}, sum, sum, term);
}

void update_mean(std::span<const MeanBuffer> buffers, float weight, Cuda, Stream stream) {
  auto batches = cuda::in_batches<MeanBuffer>([&](const MeanBuffers& batch) {
    cuda::launch("mean of " + std::to_string(batch.count) + " buffers", mean_kernel, batch.blocks,
                 threads_a_block, stream, batch, weight);
  });
  for (const MeanBuffer& buffer : buffers)
    batches.add(buffer, cuda::blocks_for_all(buffer.count, elements_a_block));
  batches.finish();
}

void copy(std::size_t bytes, void* destination, const void* source, Cuda, Stream stream) {
  if (bytes == 0) return;
  cuda::check(
      cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, cuda::native(stream)),
      "copy of " + std::to_string(bytes) + " bytes");
}

void clear(std::size_t bytes, void* destination, Cuda, Stream stream) {
  if (bytes == 0) return;
  cuda::check(cudaMemsetAsync(destination, 0, bytes, cuda::native(stream)),
              "clearing of " + std::to_string(bytes) + " bytes");
}

KernelPtr plan(const Clear& op, Cuda) { return std::make_unique<Zeros>(op); }

}  // namespace stpt::codelets
