#include "data/loader.hpp"

#include <numeric>

#include "data/synthetic.hpp"
#include "runtime/runtime.hpp"
#include "tests/catch.hpp"

using namespace stpt;

namespace {

std::vector<float> images_of(const data::Batch& batch) {
  std::vector<float> values;
  for (const runtime::Tensor& part : batch.images) {
    const runtime::HostView view(part, runtime::Access::read);
    values.insert(values.end(), view.as<float>().begin(), view.as<float>().end());
  }
  return values;
}

}  // namespace

TEST_CASE("A batch in parts holds the same images and labels", "[loader]") {
  runtime::Runtime runtime({.cpu_workers = 2, .scheduler = ""});
  data::SyntheticOptions options;
  options.train_images = 50;
  options.test_images = 1;
  const data::DatasetPair pair = data::make_synthetic(options, 1);
  const data::Loader loader(pair.train, data::no_normalization(3),
                            data::Augmentation{.crop_padding = 2, .flip = true}, 1);
  std::vector<std::uint32_t> indices(48);
  std::iota(indices.rbegin(), indices.rend(), 2U);
  std::vector<float> whole;
  for (const int parts : {1, 2, 3, 48}) {
    const data::Batch batch(48, pair.train->image_shape(), "batch", parts);
    loader.submit(batch, indices, 3);
    const std::vector<float> images = images_of(batch);
    if (whole.empty()) whole = images;
    CHECK(images == whole);
    const runtime::HostView labels(batch.labels, runtime::Access::read);
    for (std::size_t i = 0; i < indices.size(); ++i)
      REQUIRE(labels.as<std::int32_t>()[i] == pair.train->label(indices[i]));
  }
}

TEST_CASE("A batch that does not fit is refused", "[loader]") {
  runtime::Runtime runtime({.cpu_workers = 1, .scheduler = ""});
  const runtime::Shape image{1, 3, 4, 4};
  CHECK_THROWS_AS(data::Batch(10, image, "batch", 3), std::logic_error);
  CHECK_THROWS_AS(data::Batch(10, image, "batch", 0), std::logic_error);
  const data::DatasetPair pair = data::make_synthetic({10, 3, 4, 4, 20, 1}, 1);
  const data::Loader loader(pair.train, data::no_normalization(3), std::nullopt, 1);
  const data::Batch batch(10, image, "batch", 2);
  const std::vector<std::uint32_t> nine(9, 0U);
  CHECK_THROWS_AS(loader.submit(batch, nine, 0), std::logic_error);
}

TEST_CASE("A GPU's batch is divided evenly, a core's is not", "[loader]") {
  const data::DatasetPair pair = data::make_synthetic({10, 3, 4, 4, 20, 1}, 1);
  const auto parts = [&](int size, codelets::Device device) {
    return data::Loader(pair.train, data::no_normalization(3), std::nullopt, 1, device).parts(size);
  };
  CHECK(parts(256, codelets::Cpu{}) == 1);
#ifdef STPT_HAS_CUDA
  CHECK(parts(256, codelets::Cuda{}) == 16);
  CHECK(parts(16, codelets::Cuda{}) == 1);
  CHECK(parts(1, codelets::Cuda{}) == 1);
  CHECK(parts(63, codelets::Cuda{}) == 3);
  CHECK(parts(127, codelets::Cuda{}) == 1);
#endif
}
