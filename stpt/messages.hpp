// What the program says, and the status that it ends with.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <string>

namespace stpt {

/// Exit statuses besides 0.
inline constexpr int failed = 1;
inline constexpr int bad_input = 2;  ///< what a person gave cannot be used

/// As printf has it, at most 63 characters.
template <typename... Values>
[[nodiscard]] std::string format(const char* pattern, Values... values) {
  std::array<char, 64> text{};
  const int length = std::snprintf(text.data(), text.size(), pattern, values...);
  return {text.data(),
          static_cast<std::size_t>(std::clamp(length, 0, static_cast<int>(text.size()) - 1))};
}

/// Opens /dev/null for each of standard input, output and error that the process was started
/// without: else a file of the run would get its number, and what is printed would land there. To
/// be called before anything is opened.
void fill_standard_files();

/// Without line breaks, which what a message quotes may hold.
[[nodiscard]] std::string one_line(std::string text);
/// One line; of a task that failed because of the data, what is wrong with them.
[[nodiscard]] std::string message_of(const std::exception& error);
/// The error is an InputError.
[[nodiscard]] bool blames_input(const std::exception& error);
/// The error is in the data, or of a task that met one there.
[[nodiscard]] bool blames_data(const std::exception& error);

/// To standard output. Throws std::runtime_error if it cannot be written to.
void print(const std::string& text);
/// A line to standard error, behind the program's name.
void print_error(const std::string& message);

}  // namespace stpt
