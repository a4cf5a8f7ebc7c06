#include <stdexcept>

#include "codelets/image_batch.hpp"
#include "codelets/launch.cuh"

namespace stpt::codelets {
namespace {

// Passed by value, so that nothing is copied to the device ahead of the launch; a kernel's
// parameters may take 4 KiB.
constexpr int most_cuts = 256;

struct Cuts {
  ImageCut cuts[most_cuts];
};

struct Scales {
  PixelScale of_channel[most_image_channels];
};

struct Extent {
  int channels, height, width;
};

/// Where pixel `i` of an image with reflecting borders lies in it.
__device__ int reflect(int i, int side) {
  if (side == 1) return 0;
  const int place = abs(i) % (2 * (side - 1));
  return place < side ? place : 2 * (side - 1) - place;
}

/// Block (part, i) writes a part of image i.
__global__ void cut_images(const Cuts cuts, const Scales scales, const Extent stored,
                           const Extent shape, const std::uint8_t* __restrict__ pixels,
                           float* __restrict__ images) {
  const ImageCut cut = cuts.cuts[blockIdx.y];
  const int area = shape.height * shape.width;
  const int elements = shape.channels * area;
  const std::uint8_t* image =
      pixels + std::size_t{cut.index} * stored.channels * stored.height * stored.width;
  float* result = images + std::size_t{blockIdx.y} * elements;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < elements;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    const int c = i / area, y = i % area / shape.width, x = i % shape.width;
    int from_y = y + cut.dy;
    int from_x = (cut.mirrored ? shape.width - 1 - x : x) + cut.dx;
    if (cut.reflected) {
      from_y = reflect(from_y, stored.height);
      from_x = reflect(from_x, stored.width);
    }
    const bool inside =
        from_y >= 0 && from_y < stored.height && from_x >= 0 && from_x < stored.width;
    const float pixel =
        inside ? static_cast<float>(image[(c * stored.height + from_y) * stored.width + from_x])
               : 0.0f;
    result[i] = (pixel - scales.of_channel[c].shift) * scales.of_channel[c].scale;
  }
}

Extent extent_of(const runtime::Shape& shape) {
  return {static_cast<int>(shape.c), static_cast<int>(shape.h), static_cast<int>(shape.w)};
}

}  // namespace

void load_images(std::span<const ImageCut> cuts, std::span<const PixelScale> scales,
                 const runtime::Shape& stored, const runtime::Shape& shape,
                 const std::uint8_t* pixels, float* images, Cuda, Stream stream) {
  const std::string what = "load_images " + stored.to_string() + " to " + shape.to_string();
  if (scales.size() > most_image_channels || static_cast<std::int64_t>(scales.size()) != shape.c)
    throw std::invalid_argument(what + ": at most 16 channels, with one scale each");
  Scales by_channel{};
  std::ranges::copy(scales, by_channel.of_channel);
  constexpr unsigned threads = 256;
  const std::int64_t elements = shape.c * shape.h * shape.w;
  for (std::size_t first = 0; first < cuts.size(); first += most_cuts) {
    const auto part = cuts.subspan(first, std::min<std::size_t>(most_cuts, cuts.size() - first));
    Cuts some{};
    std::ranges::copy(part, some.cuts);
    cuda::launch(what, cut_images,
                 dim3(cuda::blocks_for(elements, threads), static_cast<unsigned>(part.size())),
                 dim3(threads), stream, some, by_channel, extent_of(stored), extent_of(shape),
                 pixels, images + static_cast<std::int64_t>(first) * elements);
  }
}

}  // namespace stpt::codelets
