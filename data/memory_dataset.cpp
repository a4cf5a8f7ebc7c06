#include "data/memory_dataset.hpp"

#include <algorithm>
#include <utility>

#include "data/class_order.hpp"

namespace stpt::data {

MemoryDataset::MemoryDataset(std::string name, int classes, runtime::Shape image_shape,
                             std::vector<std::uint8_t> pixels, std::vector<std::uint8_t> labels)
    : name_(std::move(name)),
      classes_(classes),
      image_shape_(image_shape),
      image_bytes_(static_cast<std::size_t>(image_shape.elements())),
      pixels_(std::move(pixels)),
      labels_(std::move(labels)) {
  if (pixels_.size() != labels_.size() * image_bytes_) {
    throw std::logic_error("MemoryDataset: " + std::to_string(pixels_.size()) + " bytes for " +
                           std::to_string(labels_.size()) + " images of " +
                           std::to_string(image_bytes_) + " bytes");
  }
}

void MemoryDataset::read(std::size_t index, std::span<std::uint8_t> chw) const {
  if (index >= labels_.size() || chw.size() < image_bytes_) {
    throw std::out_of_range("MemoryDataset::read: image " + std::to_string(index) + " of " +
                            std::to_string(labels_.size()) + " into " + std::to_string(chw.size()) +
                            " bytes");
  }
  std::copy_n(pixels_.data() + index * image_bytes_, image_bytes_, chw.data());
}

std::shared_ptr<const MemoryDataset> make_mixed_dataset(std::string name, int classes,
                                                        runtime::Shape image_shape,
                                                        std::vector<std::uint8_t> pixels,
                                                        std::vector<std::uint8_t> labels) {
  const std::vector<std::uint32_t> by_position(labels.begin(), labels.end());
  if (lies_by_class(by_position)) {
    const auto image_bytes = static_cast<std::size_t>(image_shape.elements());
    std::vector<std::uint8_t> mixed_pixels;
    mixed_pixels.reserve(pixels.size());
    std::vector<std::uint8_t> mixed_labels;
    mixed_labels.reserve(labels.size());
    for (const std::uint32_t position : mixed_order(by_position)) {
      const auto image =
          pixels.begin() + static_cast<std::ptrdiff_t>(std::size_t{position} * image_bytes);
      mixed_pixels.insert(mixed_pixels.end(), image,
                          image + static_cast<std::ptrdiff_t>(image_bytes));
      mixed_labels.push_back(labels[position]);
    }
    pixels = std::move(mixed_pixels);
    labels = std::move(mixed_labels);
  }
  return std::make_shared<MemoryDataset>(std::move(name), classes, image_shape, std::move(pixels),
                                         std::move(labels));
}

}  // namespace stpt::data
