// Numbers out of JSON values, and the ranges that they must lie in.
#pragma once

#include <boost/json/value.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace stpt {

/// A whole number of type T, also if it is written as 1e3.
template <typename T>
[[nodiscard]] std::optional<T> to_whole(const boost::json::value& value) {
  if (const std::int64_t* number = value.if_int64()) {
    if (std::in_range<T>(*number)) return static_cast<T>(*number);
  } else if (const std::uint64_t* large = value.if_uint64()) {
    if (std::in_range<T>(*large)) return static_cast<T>(*large);
  } else if (const double* real = value.if_double()) {
    constexpr double exact = 9007199254740992;  // above it doubles skip whole numbers
    if (std::trunc(*real) == *real && std::abs(*real) <= exact) {
      return to_whole<T>(boost::json::value(static_cast<std::int64_t>(*real)));
    }
  }
  return std::nullopt;
}

template <typename T>
struct WholeRange {
  T low;
  T high = std::numeric_limits<T>::max();

  [[nodiscard]] bool has(T value) const { return low <= value && value <= high; }
  [[nodiscard]] std::string text() const {
    if (high == std::numeric_limits<T>::max()) {
      return "a whole number of at least " + std::to_string(low);
    }
    return "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  }
};

}  // namespace stpt
