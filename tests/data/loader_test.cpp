#include "data/loader.hpp"

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "data/synthetic.hpp"
#include "runtime/random.hpp"
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

TEST_CASE("An image's key is its own in each epoch, wherever it is in a batch", "[loader]") {
  runtime::Runtime runtime({.cpu_workers = 2, .scheduler = ""});
  const data::DatasetPair pair = data::make_synthetic({10, 3, 4, 4, 50, 1}, 1);
  std::vector<std::uint32_t> indices(48);
  std::iota(indices.begin(), indices.end(), 2U);
  const auto keys = [&](std::uint64_t seed, std::uint64_t epoch, int parts) {
    const data::Loader loader(pair.train, data::no_normalization(3), std::nullopt, seed);
    const data::Batch batch(48, pair.train->image_shape(), "batch", parts, true);
    loader.submit(batch, indices, epoch);
    const runtime::HostView view(batch.keys, runtime::Access::read);
    const auto all = view.as<runtime::PhiloxKey>();
    return std::vector(all.begin(), all.end());
  };
  const std::vector<runtime::PhiloxKey> expected = keys(1, 3, 1);
  CHECK(expected.size() == 48);
  CHECK(keys(1, 3, 4) == expected);
  const std::vector<runtime::PhiloxKey> other_epoch = keys(1, 4, 1), other_seed = keys(2, 3, 1);
  std::set<runtime::PhiloxKey> all(expected.begin(), expected.end());
  all.insert(other_epoch.begin(), other_epoch.end());
  all.insert(other_seed.begin(), other_seed.end());
  CHECK(all.size() == 3 * 48);
  std::ranges::reverse(indices);
  std::vector<runtime::PhiloxKey> reversed = keys(1, 3, 1);
  std::ranges::reverse(reversed);
  CHECK(reversed == expected);
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
