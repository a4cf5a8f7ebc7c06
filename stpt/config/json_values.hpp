// Numbers out of JSON values, and the ranges that they must lie in.
#pragma once

#include <boost/json/value.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "stpt/config/json_text.hpp"

namespace stpt {

[[nodiscard]] inline std::optional<double> to_number(const boost::json::value& value) {
  if (const std::int64_t* number = value.if_int64()) return static_cast<double>(*number);
  if (const std::uint64_t* large = value.if_uint64()) return static_cast<double>(*large);
  if (const double* real = value.if_double()) return *real;
  return std::nullopt;
}

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
    return both();
  }
  /// To refuse this value: names what the type can hold only where it is too large for that.
  [[nodiscard]] std::string text_for(const boost::json::value& value) const {
    const std::optional<double> number = to_number(value);
    return number && *number >= static_cast<double>(high) ? both() : text();
  }

 private:
  [[nodiscard]] std::string both() const {
    return "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  }
};

struct NumberRange {
  double low;
  bool with_low;
  double high = std::numeric_limits<double>::infinity();
  bool with_high = false;

  [[nodiscard]] bool has(double value) const {
    return std::isfinite(value) && (with_low ? value >= low : value > low) &&
           (with_high ? value <= high : value < high);
  }
  [[nodiscard]] std::string text() const {
    std::string text =
        "a number " + std::string(with_low ? "of at least " : "above ") + number_text(low);
    if (std::isfinite(high)) {
      text += std::string(with_high ? " and at most " : " and below ") + number_text(high);
    }
    return text;
  }
};

constexpr NumberRange above(double low) { return {low, false}; }
constexpr NumberRange at_least(double low) { return {low, true}; }

}  // namespace stpt
