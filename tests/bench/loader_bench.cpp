// How many images one core augments and normalises a second, without StarPU.
#include <chrono>
#include <cstdio>
#include <vector>

#include "data/augmentation.hpp"
#include "data/sampler.hpp"
#include "data/synthetic.hpp"

namespace {

using namespace stpt;

double images_per_second(const data::Dataset& dataset, const data::Augmentation* augmentation) {
  constexpr std::size_t batch = 256;
  constexpr double seconds = 1.0;
  std::vector<std::uint32_t> indices(dataset.size());
  for (std::uint32_t i = 0; i < indices.size(); ++i) {
    indices[i] = i;
  }
  const data::Sampler sampler(indices, 1);
  const data::Normalization normalization = data::compute_normalization(dataset, indices);
  std::vector<float> images(batch * static_cast<std::size_t>(dataset.image_shape().elements()));

  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  std::size_t done = 0;
  double elapsed = 0;
  for (std::uint64_t epoch = 0; elapsed < seconds; ++epoch) {
    const std::vector<std::uint32_t> order = sampler.order(epoch);
    for (std::size_t t = 0; t < sampler.iterations(1, batch); ++t) {
      data::load_images(dataset, data::worker_batch(order, t, 0, 1, batch), dataset.image_shape(),
                        augmentation, normalization, 1, epoch, images.data());
      done += batch;
    }
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return static_cast<double>(done) / elapsed;
}

void report(int channels, int side) {
  data::SyntheticOptions options;
  options.channels = channels;
  options.height = side;
  options.width = side;
  options.train_images = 20000;
  options.test_images = 1;
  const data::DatasetPair pair = data::make_synthetic(options, 1);
  const data::Augmentation augmentation{.crop_padding = side / 8, .flip = true};
  const double plain = images_per_second(*pair.train, nullptr);
  const double augmented = images_per_second(*pair.train, &augmentation);
  std::printf("%dx%dx%d  normalised %9.0f images/s  cropped and flipped %9.0f images/s\n", side,
              side, channels, plain, augmented);
}

}  // namespace

int main() {
  report(1, 28);
  report(3, 32);
  return 0;
}
