#include "data/cached_dataset.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace stpt::data {
namespace {

constexpr std::uint32_t missing = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint32_t pending = missing - 1;

std::size_t bytes_of(const Dataset& dataset) { return dataset.size() * dataset.image_bytes(); }

}  // namespace

CachedDataset::CachedDataset(std::shared_ptr<const Dataset> source, std::size_t bytes)
    : source_(std::move(source)),
      image_bytes_(source_->image_bytes()),
      slots_(std::min(bytes / image_bytes_, source_->size())),
      // Not set to zero: the system then gives memory page by page, as it is written.
      pixels_(std::make_unique_for_overwrite<std::uint8_t[]>(slots_ * image_bytes_)),
      places_(source_->size()) {
  for (auto& place : places_) place.store(missing, std::memory_order_relaxed);
}

void CachedDataset::read(std::size_t index, std::span<std::uint8_t> chw) const {
  std::atomic<std::uint32_t>& place = places_.at(index);
  std::uint32_t slot = place.load(std::memory_order_acquire);
  if (slot < pending) {
    std::copy_n(pixels_.get() + slot * image_bytes_, image_bytes_, chw.data());
    return;
  }
  source_->read(index, chw);
  // Who turns `missing` into `pending` writes; once all slots are taken, nobody tries any more.
  if (slot == pending || taken_.load(std::memory_order_relaxed) >= slots_ ||
      !place.compare_exchange_strong(slot, pending, std::memory_order_relaxed)) {
    return;
  }
  const std::size_t mine = taken_.fetch_add(1, std::memory_order_relaxed);
  if (mine >= slots_) return;
  std::copy_n(chw.data(), image_bytes_, pixels_.get() + mine * image_bytes_);
  place.store(static_cast<std::uint32_t>(mine), std::memory_order_release);
}

std::size_t CachedDataset::kept() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(places_, [](const auto& place) { return place.load() < pending; }));
}

std::size_t cache_bytes(const DatasetPair& pair, std::size_t limit) {
  return std::min(limit, bytes_of(*pair.train) + bytes_of(*pair.test));
}

DatasetPair cached(DatasetPair pair, std::size_t limit) {
  if (limit == 0) return pair;
  const double share = static_cast<double>(pair.train->size()) /
                       static_cast<double>(pair.train->size() + pair.test->size());
  const auto train_bytes = static_cast<std::size_t>(share * static_cast<double>(limit));
  pair.train = std::make_shared<CachedDataset>(std::move(pair.train), train_bytes);
  pair.test = std::make_shared<CachedDataset>(std::move(pair.test), limit - train_bytes);
  return pair;
}

}  // namespace stpt::data
