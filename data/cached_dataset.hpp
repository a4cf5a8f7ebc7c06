// Keeps decoded images in memory.
#pragma once

#include <atomic>
#include <memory>

#include "data/dataset.hpp"

namespace stpt::data {

/// What read() of `source` gave is kept until `bytes` are full, first come, first kept: in an epoch
/// every image is as likely as every other, so there is nothing to gain by replacing one. Bytes
/// are the same with and without it. Memory is taken as it fills. read_window() goes to the source,
/// since what it asks for differs each time.
///
/// In memory alone: on disk a decoded image is larger than its JPEG, and the system keeps files
/// that are read often in memory already.
class CachedDataset final : public Dataset {
 public:
  CachedDataset(std::shared_ptr<const Dataset> source, std::size_t bytes);

  [[nodiscard]] std::string name() const override { return source_->name(); }
  [[nodiscard]] std::size_t size() const override { return source_->size(); }
  [[nodiscard]] int classes() const override { return source_->classes(); }
  [[nodiscard]] runtime::Shape image_shape() const override { return source_->image_shape(); }
  [[nodiscard]] int label(std::size_t index) const override { return source_->label(index); }
  void read(std::size_t index, std::span<std::uint8_t> chw) const override;
  void read_window(std::size_t index, const ChooseWindow& choose, Size size,
                   std::span<std::uint8_t> chw) const override {
    source_->read_window(index, choose, size, chw);
  }
  [[nodiscard]] std::vector<std::string> unreadable() const override {
    return source_->unreadable();
  }

  /// Images kept now.
  [[nodiscard]] std::size_t kept() const;

 private:
  std::shared_ptr<const Dataset> source_;
  std::size_t image_bytes_;
  std::size_t slots_;  ///< room for so many images
  std::unique_ptr<std::uint8_t[]> pixels_;
  /// Of each image: `missing`, `pending` while one thread writes it or where there was no room, or
  /// its slot.
  mutable std::vector<std::atomic<std::uint32_t>> places_;
  mutable std::atomic<std::size_t> taken_ = 0;  ///< slots given out, or asked for in vain
};

/// Bytes that a cache of at most `limit` bytes for both sets comes to hold.
[[nodiscard]] std::size_t cache_bytes(const DatasetPair& pair, std::size_t limit);

/// Both sets with a cache; each gets its share of `limit` by its number of images.
[[nodiscard]] DatasetPair cached(DatasetPair pair, std::size_t limit);

}  // namespace stpt::data
