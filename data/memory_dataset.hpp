// A dataset whose images lie in memory as bytes.
#pragma once

#include "data/dataset.hpp"

namespace stpt::data {

class MemoryDataset final : public Dataset {
 public:
  /// `pixels` holds labels.size() images of channels x height x width bytes, one after another.
  MemoryDataset(std::string name, int classes, runtime::Shape image_shape,
                std::vector<std::uint8_t> pixels, std::vector<std::uint8_t> labels);

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::size_t size() const override { return labels_.size(); }
  [[nodiscard]] int classes() const override { return classes_; }
  [[nodiscard]] runtime::Shape image_shape() const override { return image_shape_; }
  [[nodiscard]] int label(std::size_t index) const override { return labels_.at(index); }
  void read(std::size_t index, std::span<std::uint8_t> chw) const override;

 private:
  std::string name_;
  int classes_;
  runtime::Shape image_shape_;
  std::size_t image_bytes_;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::uint8_t> labels_;
};

/// What a file gave. Images that lie by class (class_order.hpp) are put into a mixed order, which
/// takes their memory twice for that time; others stay as they are.
[[nodiscard]] std::shared_ptr<const MemoryDataset> make_mixed_dataset(
    std::string name, int classes, runtime::Shape image_shape, std::vector<std::uint8_t> pixels,
    std::vector<std::uint8_t> labels);

}  // namespace stpt::data
