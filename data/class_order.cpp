#include "data/class_order.hpp"

#include <algorithm>
#include <numeric>

namespace stpt::data {
namespace {

std::vector<std::uint64_t> class_sizes(std::span<const std::uint32_t> labels) {
  std::vector<std::uint64_t> sizes;
  for (const std::uint32_t label : labels) {
    if (label >= sizes.size()) sizes.resize(label + std::size_t{1});
    ++sizes[label];
  }
  return sizes;
}

}  // namespace

std::vector<std::uint32_t> mixed_order(std::span<const std::uint32_t> labels) {
  const std::vector<std::uint64_t> sizes = class_sizes(labels);
  std::vector<std::uint64_t> seen(sizes.size());
  std::vector<std::uint64_t> number_in_class(labels.size());
  for (std::size_t i = 0; i < labels.size(); ++i) number_in_class[i] = seen[labels[i]]++;

  std::vector<std::uint32_t> order(labels.size());
  std::iota(order.begin(), order.end(), 0U);
  // Image j of a class of n comes at j / n of the set.
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const std::uint64_t left = number_in_class[a] * sizes[labels[b]];
    const std::uint64_t right = number_in_class[b] * sizes[labels[a]];
    return left != right ? left < right : labels[a] < labels[b];
  });
  return order;
}

bool lies_by_class(std::span<const std::uint32_t> labels) {
  if (labels.empty()) return false;
  const auto total = static_cast<double>(labels.size());
  double same_by_chance = 0;
  for (const std::uint64_t size : class_sizes(labels)) {
    const double share = static_cast<double>(size) / total;
    same_by_chance += share * share;
  }
  std::size_t changes = 0;
  for (std::size_t i = 1; i < labels.size(); ++i) changes += labels[i] != labels[i - 1] ? 1 : 0;
  return static_cast<double>(changes) < 0.5 * (1 - same_by_chance) * total;
}

}  // namespace stpt::data
