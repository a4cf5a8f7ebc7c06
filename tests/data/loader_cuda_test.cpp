// Batches that a GPU makes, against those that cores make.
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "codelets/image_batch.hpp"
#include "data/loader.hpp"
#include "data/synthetic.hpp"
#include "runtime/random.hpp"
#include "tests/gpu.hpp"

using namespace stpt;

namespace {

/// The images and their keys.
std::pair<std::vector<float>, std::vector<runtime::PhiloxKey>> batch_of(
    const data::Loader& loader, const runtime::Shape& shape, std::span<const std::uint32_t> indices,
    std::uint64_t epoch) {
  const int size = static_cast<int>(indices.size());
  const data::Batch batch(size, shape, "batch", 1, true);
  loader.submit(batch, indices, epoch, runtime::Runtime::current().worker_for(0));
  const runtime::HostView labels(batch.labels, runtime::Access::read);
  for (std::size_t i = 0; i < indices.size(); ++i)
    REQUIRE(labels.as<std::int32_t>()[i] == loader.dataset().label(indices[i]));
  const runtime::HostView images(batch.images[0], runtime::Access::read);
  const runtime::HostView view(batch.keys, runtime::Access::read);
  const auto keys = view.as<runtime::PhiloxKey>();
  return {{images.as<float>().begin(), images.as<float>().end()}, {keys.begin(), keys.end()}};
}

void check_batch(const std::shared_ptr<const data::Dataset>& dataset,
                 const std::optional<data::Augmentation>& augmentation, const runtime::Shape& shape,
                 std::span<const std::uint32_t> indices) {
  const data::Normalization normalization = data::compute_normalization(*dataset, indices);
  const data::Loader cores(dataset, normalization, augmentation, 5);
  const data::Loader gpu(dataset, normalization, augmentation, 5, codelets::Cuda{},
                         data::gather_pixels(*dataset));
  CHECK(gpu.parts(256) == 1);
  const auto expected = batch_of(cores, shape, indices, 3);
  const auto actual = batch_of(gpu, shape, indices, 3);
  CHECK(actual.first == expected.first);
  CHECK(actual.second == expected.second);
}

}  // namespace

TEST_CASE("A GPU makes the same batches as cores, bit for bit", "[cuda]") {
  NEEDS_GPUS(1);
  const runtime::Runtime runtime({.cpu_workers = 1, .scheduler = "", .gpus = {0}});
  // More than one launch has room for.
  std::vector<std::uint32_t> indices(300);
  std::iota(indices.rbegin(), indices.rend(), 250U);
  for (const int channels : {1, 3}) {
    const data::DatasetPair pair = data::make_synthetic({10, channels, 13, 17, 600, 1}, 1);
    const std::optional<data::Augmentation> augmentations[] = {
        std::nullopt,
        data::Augmentation{.flip = true},
        data::Augmentation{.crop_padding = 3},
        data::Augmentation{.crop_padding = 20, .flip = true},
        data::Augmentation{.crop_padding = 3,
                           .padding = data::Padding::reflect,
                           .flip = true,
                           .alternate_flip = true},
        data::Augmentation{.crop_padding = 40, .padding = data::Padding::reflect}};
    for (const auto& augmentation : augmentations) {
      for (const runtime::Shape& shape :
           {runtime::Shape{1, channels, 13, 17}, runtime::Shape{1, channels, 8, 8}}) {
        check_batch(pair.train, augmentation, shape, indices);
      }
    }
  }
  // Of one row: nothing lies between its borders.
  const data::DatasetPair rows = data::make_synthetic({10, 1, 1, 17, 600, 1}, 1);
  check_batch(rows.train, data::Augmentation{.crop_padding = 3, .padding = data::Padding::reflect},
              {1, 1, 1, 17}, indices);
}

TEST_CASE("A GPU makes no batches of more channels than there is room for", "[cuda]") {
  const auto act = [](std::size_t scales, std::int64_t channels) {
    const std::vector<codelets::PixelScale> of_channels(scales);
    const runtime::Shape shape{1, channels, 2, 2};
    codelets::load_images({}, of_channels, shape, shape, nullptr, nullptr, codelets::Cuda{},
                          nullptr);
  };
  CHECK_NOTHROW(act(codelets::most_image_channels, codelets::most_image_channels));
  CHECK_THROWS_AS(act(17, 17), std::invalid_argument);
  CHECK_THROWS_AS(act(2, 3), std::invalid_argument);
}
