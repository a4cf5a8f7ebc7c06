#include "stpt/files/report_text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace stpt::report {
namespace {

constexpr std::string_view kDash = "–";
constexpr std::string_view kThinSpace = "\u202f";  // does not break

std::string superscript(int value) {
  constexpr std::array<std::string_view, 10> digits = {"⁰", "¹", "²", "³", "⁴",
                                                       "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = value < 0 ? "⁻" : "";
  for (const char c : std::to_string(std::abs(value))) {
    text += digits[static_cast<std::size_t>(c - '0')];
  }
  return text;
}

std::string two_digits(std::int64_t value) {
  return (value < 10 ? "0" : "") + std::to_string(value);
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default: {
        const auto byte = static_cast<unsigned char>(c);
        result += byte < 32 || byte == 127 ? ' ' : c;
      }
    }
  }
  return result;
}

std::string fixed(double value, int digits) {
  if (!std::isfinite(value)) return std::string(kDash);
  // The longest double has 309 digits before the point.
  std::array<char, 400> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value,
                                          std::chars_format::fixed, digits);
  std::string result(text.data(), end);
  if (result.front() == '-' && result.find_first_not_of("-0.") == std::string::npos) {
    result.erase(0, 1);
  }
  return result;
}

std::string significant(double value, int digits) {
  if (!std::isfinite(value)) return std::string(kDash);
  if (value == 0) return "0";
  std::array<char, 64> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value,
                                          std::chars_format::scientific, digits - 1);
  const std::string scientific(text.data(), end);
  const std::size_t e = scientific.find('e');
  std::string mantissa = scientific.substr(0, e);
  const int exponent = std::atoi(scientific.c_str() + e + 1);
  const auto without_zeros = [](std::string number) {
    if (number.find('.') == std::string::npos) return number;
    number.erase(number.find_last_not_of('0') + 1);
    if (number.back() == '.') number.pop_back();
    return number;
  };
  if (exponent < -4 || exponent > 6) {
    return without_zeros(mantissa) + "×10" + superscript(exponent);
  }
  return without_zeros(fixed(value, std::max(0, digits - 1 - exponent)));
}

std::string percent(double share, int digits) {
  if (!std::isfinite(share)) return std::string(kDash);
  return fixed(100 * share, digits) + std::string(kThinSpace) + "%";
}

std::string count(std::int64_t value) {
  const std::string digits = std::to_string(std::abs(value));
  std::string result = value < 0 ? "−" : "";
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) result += kThinSpace;
    result += digits[i];
  }
  return result;
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds) || std::abs(seconds) > 1e12) return std::string(kDash);
  const std::string space = "\u00a0";
  if (seconds < 0.9995) return fixed(1000 * seconds, seconds < 0.01 ? 1 : 0) + space + "ms";
  if (seconds < 99.95) return fixed(seconds, 1) + space + "s";
  const std::int64_t whole = std::llround(seconds);
  if (whole < 3600) {
    return std::to_string(whole / 60) + space + "min" + space + two_digits(whole % 60) + space +
           "s";
  }
  return count(whole / 3600) + space + "h" + space + two_digits(whole % 3600 / 60) + space + "min";
}

std::string bytes(double value) {
  if (!std::isfinite(value)) return std::string(kDash);
  const std::string space = "\u00a0";
  if (value < 999.5e6) return fixed(value / 1e6, value < 10e6 ? 1 : 0) + space + "MB";
  return fixed(value / 1e9, value < 99.5e9 ? 2 : 0) + space + "GB";
}

std::string date(std::string_view iso) {
  constexpr std::array<std::string_view, 12> months = {
      "January", "February", "March",     "April",   "May",      "June",
      "July",    "August",   "September", "October", "November", "December"};
  constexpr std::string_view pattern = "dddd-dd-ddTdd:dd";
  bool matches = iso.size() >= pattern.size();
  for (std::size_t i = 0; matches && i < pattern.size(); ++i) {
    matches = pattern[i] == 'd' ? iso[i] >= '0' && iso[i] <= '9' : iso[i] == pattern[i];
  }
  if (!matches) return escaped(iso);
  const auto number = [&](std::size_t from) {
    return (iso[from] - '0') * 10 + (iso[from + 1] - '0');
  };
  const int month = number(5);
  if (month < 1 || month > 12) return escaped(iso);
  return std::to_string(number(8)) + " " +
         std::string(months[static_cast<std::size_t>(month - 1)]) + " " +
         std::string(iso.substr(0, 4)) + ", " + std::string(iso.substr(11, 5)) +
         (iso.back() == 'Z' ? " UTC" : "");
}

}  // namespace stpt::report
