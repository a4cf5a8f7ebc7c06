#include "data/dataset.hpp"

#include <numeric>

#include "data/resize.hpp"

namespace stpt::data {

void Dataset::read_window(std::size_t index, const ChooseWindow& choose, Size size,
                          std::span<std::uint8_t> chw) const {
  const runtime::Shape shape = image_shape();
  const Size stored{static_cast<int>(shape.w), static_cast<int>(shape.h)};
  thread_local std::vector<std::uint8_t> image;
  image.resize(image_bytes());
  read(index, image);
  const Window window = choose(stored);
  for (std::size_t c = 0; c < static_cast<std::size_t>(shape.c); ++c) {
    resize({image.data() + c * stored.area(), stored, static_cast<std::size_t>(stored.width)},
           {static_cast<double>(window.x), static_cast<double>(window.y),
            static_cast<double>(window.width), static_cast<double>(window.height)},
           size, chw.data() + c * size.area());
  }
}

std::vector<std::uint32_t> all_indices(const Dataset& dataset) {
  std::vector<std::uint32_t> indices(dataset.size());
  std::iota(indices.begin(), indices.end(), 0U);
  return indices;
}

std::vector<std::int64_t> images_of_class(const Dataset& dataset,
                                          std::span<const std::uint32_t> images) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(dataset.classes()));
  for (const std::uint32_t image : images)
    ++counts.at(static_cast<std::size_t>(dataset.label(image)));
  return counts;
}

std::string name_of(const std::filesystem::path& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();  // a slash at the end
  return path.filename().empty() ? path.string() : path.filename().string();
}

}  // namespace stpt::data
