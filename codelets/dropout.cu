#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "codelets/dropout.hpp"
#include "codelets/launch.cuh"
#include "runtime/random.hpp"

// The CUDA implementation, in nhwc, where places are in the order of memory.

namespace stpt::codelets {
namespace {

/// Threads take `width` elements of an image at a time, which have all of one block of random
/// words, or one. Places start anew after `period` elements; if that is 1, all have one word.
template <class T, int width>
__global__ void drop(const std::int64_t images, const unsigned elements, const unsigned period,
                     const float scale, const std::uint32_t threshold, const std::uint32_t layer,
                     const T* x, const runtime::PhiloxKey* __restrict__ keys, T* y) {
  const unsigned stride = gridDim.x * blockDim.x * width;
  for (std::int64_t image = blockIdx.y; image < images; image += gridDim.y) {
    const runtime::PhiloxKey key = keys[image];
    const std::int64_t first = image * elements;
    for (unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) * width; i < elements; i += stride) {
      const std::uint32_t place = period == elements ? i : i % period;
      const auto words = runtime::philox4x32_10({place / 4, layer, 0, 0}, key);
      auto values = cuda::load<width>(x + first + i);
#pragma unroll
      for (int v = 0; v < width; ++v) {
        const std::uint32_t word = words[period == 1 ? 0 : width == 4 ? v : place % 4];
        values.values[v] = cuda::from_float<T>(cuda::to_float(values.values[v]) *
                                               (word >= threshold ? scale : 0.0f));
      }
      cuda::store(y + first + i, values);
    }
  }
}

template <class T>
class Drop final : public Kernel {
 public:
  Drop(std::string what, const Dropout& op) : what_(std::move(what)), op_(op) {}

  void run(std::span<void* const> args, void*, Stream stream) const override {
    const std::int64_t images = op_.x.shape.n, elements = op_.x.shape.elements() / images;
    const std::int64_t period = op_.dropped == Dropped::elements   ? elements
                                : op_.dropped == Dropped::channels ? op_.x.shape.c
                                                                   : 1;
    const int width = (period == 1 ? elements : period) % 4 == 0 ? 4 : 1;
    constexpr unsigned threads = 256;
    cuda::launch(what_, width == 4 ? drop<T, 4> : drop<T, 1>,
                 cuda::blocks_for_images(images, elements / width, threads), threads, stream,
                 images, static_cast<unsigned>(elements), static_cast<unsigned>(period),
                 op_.scale(), op_.threshold(), op_.layer, static_cast<const T*>(args[0]),
                 static_cast<const runtime::PhiloxKey*>(args[1]), static_cast<T*>(args[2]));
  }

 private:
  std::string what_;
  Dropout op_;
};

}  // namespace

KernelPtr plan(const Dropout& op, Cuda) {
  const std::string what = "Dropout " + op.x.to_string();
  if (op.x.shape.smallest() < 1)
    throw std::invalid_argument(what + ": every dimension must be at least 1");
  if (op.x.shape.elements() / op.x.shape.n > 0x7fffffff)
    throw std::invalid_argument(what + ": an image must have fewer than 2^31 elements on CUDA");
  if (!runtime::same_memory(op.x, {op.x.shape, op.x.type, runtime::Layout::nhwc}))
    throw std::invalid_argument(what + ": CUDA's dropout takes nhwc: reorder it before");
  require_consistent(what, op);
  return cuda::with_type(op.x.type, what, [&](auto element) -> KernelPtr {
    return std::make_unique<Drop<decltype(element)>>(what, op);
  });
}

}  // namespace stpt::codelets
