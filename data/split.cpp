#include "data/split.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "runtime/random.hpp"

namespace stpt::data {
namespace {

/// How many of each class to hold out: in proportion to its size by largest remainder (equal
/// remainders: by lot), but always one less than the class has at most.
std::vector<std::int64_t> quotas(const std::vector<std::int64_t>& class_sizes, std::int64_t total,
                                 std::int64_t hold_out, std::uint64_t seed) {
  const std::size_t classes = class_sizes.size();
  std::vector<std::int64_t> quota(classes);
  std::vector<std::size_t> by_remainder(classes);
  std::iota(by_remainder.begin(), by_remainder.end(), std::size_t{0});
  std::int64_t left = hold_out;
  for (std::size_t k = 0; k < classes; ++k) {
    quota[k] =
        std::min(class_sizes[k] * hold_out / total, std::max(class_sizes[k] - 1, std::int64_t{0}));
    left -= quota[k];
  }
  runtime::shuffle(by_remainder, seed, runtime::stream_id("hold-out classes"));
  std::stable_sort(by_remainder.begin(), by_remainder.end(), [&](std::size_t a, std::size_t b) {
    return class_sizes[a] * hold_out % total > class_sizes[b] * hold_out % total;
  });
  while (left > 0) {  // the caller has seen to it that there is room
    for (const std::size_t k : by_remainder) {
      if (left > 0 && quota[k] + 1 < class_sizes[k]) {
        ++quota[k];
        --left;
      }
    }
  }
  return quota;
}

}  // namespace

Split make_split(const Dataset& train, std::int64_t limit, std::int64_t hold_out,
                 std::uint64_t seed) {
  const auto size = static_cast<std::int64_t>(train.size());
  if (limit < 0 || limit > size) {
    throw std::invalid_argument("limit is " + std::to_string(limit) + "; must be 0 to " +
                                std::to_string(size));
  }
  const std::int64_t total = limit == 0 ? size : limit;

  std::vector<std::vector<std::uint32_t>> members(static_cast<std::size_t>(train.classes()));
  for (std::int64_t i = 0; i < total; ++i) {
    const auto index = static_cast<std::size_t>(i);
    members.at(static_cast<std::size_t>(train.label(index)))
        .push_back(static_cast<std::uint32_t>(i));
  }
  std::vector<std::int64_t> class_sizes;
  std::int64_t room = 0;
  for (const auto& member : members) {
    class_sizes.push_back(static_cast<std::int64_t>(member.size()));
    room += std::max(class_sizes.back() - 1, std::int64_t{0});
  }
  if (hold_out < 0 || hold_out > room) {
    throw std::invalid_argument("is " + std::to_string(hold_out) + " of the " +
                                std::to_string(total) + " training images; must be 0" +
                                (room == 0 ? "" : " to " + std::to_string(room)) +
                                ", so that every class keeps one to train on");
  }

  Split split;
  split.training.reserve(static_cast<std::size_t>(total - hold_out));
  split.hold_out.reserve(static_cast<std::size_t>(hold_out));
  const std::vector<std::int64_t> quota = hold_out == 0
                                              ? std::vector<std::int64_t>(members.size())
                                              : quotas(class_sizes, total, hold_out, seed);
  for (std::size_t k = 0; k < members.size(); ++k) {
    runtime::shuffle(members[k], seed, runtime::stream_id("hold-out", k));
    const auto border = members[k].begin() + quota[k];
    split.hold_out.insert(split.hold_out.end(), members[k].begin(), border);
    split.training.insert(split.training.end(), border, members[k].end());
  }
  std::sort(split.training.begin(), split.training.end());
  std::sort(split.hold_out.begin(), split.hold_out.end());
  return split;
}

}  // namespace stpt::data
