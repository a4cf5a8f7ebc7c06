#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "codelets/nhwc.cuh"
#include "codelets/pad2d.hpp"

// The CUDA implementation, in nhwc: each thread writes a vector of the result.

namespace stpt::codelets {
namespace {

/// Of an image, with what lies before and after it in vectors and rows.
struct Frame {
  int height, width, pixel;         ///< of the smaller image; vectors of a pixel
  int wide_height, wide_width;      ///< of the larger one
  int before_height, before_width;  ///< where the smaller one begins
};

/// `larger` from `smaller`, with zeros around it.
template <class T, int vector>
__global__ void __launch_bounds__(cuda::block_threads)
    surround(const std::int64_t count, const Frame frame, const T* __restrict__ smaller,
             T* __restrict__ larger) {
  const auto step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const std::int64_t row = i / (frame.wide_width * frame.pixel);  // of all images
    const int in_row = static_cast<int>(i - row * (frame.wide_width * frame.pixel));
    const std::int64_t image = row / frame.wide_height;
    const int y = static_cast<int>(row - image * frame.wide_height) - frame.before_height;
    const int x = in_row - frame.before_width * frame.pixel;
    const int across = frame.width * frame.pixel;
    const bool inside = y >= 0 && y < frame.height && x >= 0 && x < across;
    const std::int64_t from = (image * frame.height + y) * across + x;
    cuda::store(larger + i * vector,
                inside ? cuda::load<vector>(smaller + from * vector) : cuda::Vector<T, vector>{});
  }
}

/// `smaller` from `larger`.
template <class T, int vector>
__global__ void __launch_bounds__(cuda::block_threads)
    crop(const std::int64_t count, const Frame frame, const T* __restrict__ larger,
         T* __restrict__ smaller) {
  const auto step = std::int64_t{gridDim.x} * blockDim.x;
  const int across = frame.width * frame.pixel;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const std::int64_t row = i / across;  // of all images
    const std::int64_t image = row / frame.height;
    const std::int64_t wide_row =
        row - image * frame.height + frame.before_height + image * frame.wide_height;
    const std::int64_t from =
        (wide_row * frame.wide_width + frame.before_width) * frame.pixel + (i - row * across);
    cuda::store(smaller + i * vector, cuda::load<vector>(larger + from * vector));
  }
}

template <class T, int vector, bool backward>
class PadKernel final : public Kernel {
 public:
  PadKernel(std::string what, const Pad2d& pad) : what_(std::move(what)) {
    const runtime::Shape &src = pad.src.shape, &dst = pad.dst.shape;
    frame_ = {static_cast<int>(src.h),
              static_cast<int>(src.w),
              static_cast<int>(src.c) / vector,
              static_cast<int>(dst.h),
              static_cast<int>(dst.w),
              pad.before.h,
              pad.before.w};
    count_ = (backward ? src : dst).elements() / vector;
  }

  void run(std::span<void* const> args, void*, Stream stream) const override {
    cuda::launch(what_, backward ? crop<T, vector> : surround<T, vector>,
                 cuda::blocks_for(count_, cuda::block_threads), cuda::block_threads, stream, count_,
                 frame_, static_cast<const T*>(args[0]), static_cast<T*>(args[1]));
  }

 private:
  std::string what_;
  Frame frame_;
  std::int64_t count_;
};

template <bool backward>
KernelPtr plan_pad(const char* op, const Pad2d& pad) {
  std::string what = describe_op(op, pad);
  cuda::require_nhwc(what, pad.src);
  cuda::require_nhwc(what, pad.dst);
  require_consistent(what, pad);
  return cuda::with_vectors(pad.src, what, [&](auto element, auto vector) -> KernelPtr {
    return std::make_unique<PadKernel<decltype(element), vector, backward>>(what, pad);
  });
}

}  // namespace

KernelPtr plan(const Pad2dForward& op, Cuda) { return plan_pad<false>("Pad2dForward", op.pad); }
KernelPtr plan(const Pad2dBackward& op, Cuda) { return plan_pad<true>("Pad2dBackward", op.pad); }

}  // namespace stpt::codelets
