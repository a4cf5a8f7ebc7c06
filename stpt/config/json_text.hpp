// JSON text as people write and read it: errors with a place, doubles that survive, lines that fit.
#pragma once

#include <boost/json/value.hpp>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

namespace stpt {

/// Text that is not JSON. what() says what is wrong and what would be right, without the place.
class JsonError : public std::runtime_error {
 public:
  JsonError(const std::string& message, std::size_t line, std::size_t column)
      : std::runtime_error(message), line_(line), column_(column) {}
  [[nodiscard]] std::size_t line() const { return line_; }      ///< from 1
  [[nodiscard]] std::size_t column() const { return column_; }  ///< from 1, in bytes

 private:
  std::size_t line_, column_;
};

/// Strict JSON. Unlike boost::json::parse it refuses a key that is given twice, and reads doubles
/// correctly rounded, so that number_text's come back as they were. Throws JsonError.
[[nodiscard]] boost::json::value read_json(std::string_view text);

/// The fewest digits that read back as the same (finite) double: "0.1", "0.0005", "1e-7", "10".
[[nodiscard]] std::string number_text(double value);

/// Indented by two spaces; an array, or an object in an array, stays on one line where it fits.
/// Ends without a newline.
[[nodiscard]] std::string pretty_json(const boost::json::value& value);

/// On one line. Here as in pretty_json, NaN and infinity, which JSON has no names for, become null.
[[nodiscard]] std::string compact_json(const boost::json::value& value);

/// Text that JSON can hold: the same if it is UTF-8, else with '?' for each byte beyond ASCII.
[[nodiscard]] std::string utf8_text(std::string text);

/// The same shortened to about `limit` characters, for messages.
[[nodiscard]] std::string brief_json(const boost::json::value& value, std::size_t limit = 40);

}  // namespace stpt
