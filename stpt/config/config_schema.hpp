// The table of all keys of a run file: parsing, printing, checking and docs/config.md follow it.
#pragma once

#include <boost/json/value.hpp>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stpt/config/config.hpp"

namespace stpt::config {

/// Becomes a ConfigError once it is known where the value came from.
struct Problem {
  std::string path;
  std::string text;
};

/// Throws a Problem: the value is not what it must be.
[[noreturn]] void refuse(const std::string& path, const boost::json::value& value,
                         const std::string& right);

/// One key of the run file: all that parsing, printing, checking and documenting need.
struct Key {
  std::string path;
  std::string values;    ///< what is allowed: "a whole number of at least 1"
  std::string meaning;   ///< a sentence or two
  bool is_text = false;  ///< an override's value may then look like a number
  std::function<boost::json::value(const Config&)> read;
  std::function<void(Config&, const boost::json::value&, const std::string& path)> write;
};

struct Section {
  std::string path;
  std::string meaning;
};

/// In the order of docs/config.md and --print-config.
[[nodiscard]] const std::vector<Key>& schema();
[[nodiscard]] const std::vector<Section>& sections();

/// The key of that path, or null.
[[nodiscard]] const Key* find_key(std::string_view path);
[[nodiscard]] bool is_section(std::string_view path);

[[nodiscard]] std::string parent_of(std::string_view path);  ///< "a.b" of "a.b.c"
[[nodiscard]] std::string leaf_of(std::string_view path);    ///< "c" of "a.b.c"

/// What layers and blocks of a network may be called.
[[nodiscard]] bool is_layer_name(std::string_view name);
inline constexpr const char* layer_name_text = "1 to 64 letters, digits, '.', '_' or '-'";

/// "a, b, c"
[[nodiscard]] std::string list(std::span<const std::string> items);

}  // namespace stpt::config
