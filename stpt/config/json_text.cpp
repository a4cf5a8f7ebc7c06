#include "stpt/config/json_text.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <cctype>
#include <charconv>
#include <cmath>
#include <utility>
#include <vector>

namespace stpt {
namespace {

namespace json = boost::json;

/// Builds the value from the parser's events. Boost's own parser keeps the last of two equal keys
/// and may round a double's last bit wrongly.
class Builder {
 public:
  static constexpr std::size_t max_array_size = json::array::max_size();
  static constexpr std::size_t max_object_size = json::object::max_size();
  static constexpr std::size_t max_string_size = json::string::max_size();
  static constexpr std::size_t max_key_size = json::string::max_size();

  json::value result;
  std::string problem;  ///< what the text is refused for, if it is not the parser that refuses it

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) { return open(json::object()); }
  bool on_object_end(std::size_t, json::error_code&) { return close(); }
  bool on_array_begin(json::error_code&) { return open(json::array()); }
  bool on_array_end(std::size_t, json::error_code&) { return close(); }
  bool on_key_part(json::string_view part, std::size_t, json::error_code&) { return append(part); }
  bool on_key(json::string_view part, std::size_t, json::error_code& error) {
    append(part);
    Frame& frame = open_.back();
    frame.key = std::exchange(text_, {});
    if (!frame.value.as_object().contains(frame.key)) return true;
    return refuse("key \"" + frame.key + "\" is given twice; keep one of them", error);
  }
  bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
    return append(part);
  }
  bool on_string(json::string_view part, std::size_t, json::error_code&) {
    append(part);
    return add(json::string(std::exchange(text_, {})));
  }
  bool on_number_part(json::string_view part, json::error_code&) { return append(part); }
  bool on_int64(std::int64_t number, json::string_view, json::error_code&) {
    text_.clear();
    return add(number);
  }
  bool on_uint64(std::uint64_t number, json::string_view, json::error_code&) {
    text_.clear();
    return add(number);
  }
  bool on_double(double, json::string_view part, json::error_code& error) {
    append(part);
    const std::string digits = std::exchange(text_, {});
    double number = 0;
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (code == std::errc::result_out_of_range) {
      return refuse("number " + digits + " does not fit into a double; write one that does", error);
    }
    return add(number);
  }
  bool on_bool(bool value, json::error_code&) { return add(value); }
  bool on_null(json::error_code&) { return add(nullptr); }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  struct Frame {
    json::value value;
    std::string key;
  };

  bool append(json::string_view part) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool refuse(std::string message, json::error_code& error) {
    problem = std::move(message);
    error = json::error::syntax;
    return false;
  }
  bool open(json::value container) {
    open_.push_back({std::move(container), {}});
    return true;
  }
  bool close() {
    json::value value = std::move(open_.back().value);
    open_.pop_back();
    return add(std::move(value));
  }
  bool add(json::value value) {
    if (open_.empty()) {
      result = std::move(value);
    } else if (json::array* array = open_.back().value.if_array()) {
      array->push_back(std::move(value));
    } else {
      open_.back().value.as_object().emplace(open_.back().key, std::move(value));
    }
    return true;
  }

  std::vector<Frame> open_;
  std::string text_;
};

/// What to say about a character that cannot stand there; the mistakes that people make have words
/// of their own.
std::string syntax_problem(std::string_view text, std::size_t place) {
  if (place >= text.size()) {
    return "the text ends too early; close every brace, bracket and quotation mark";
  }
  const char character = text[place];
  const std::size_t previous =
      place == 0 ? std::string_view::npos : text.find_last_not_of(" \t\r\n", place - 1);
  const char before = previous == std::string_view::npos ? '\0' : text[previous];
  if (character == '/' || character == '#') return "comments are not JSON; remove it";
  if ((character == '}' || character == ']') && before == ',') {
    return "a comma stands before the closing bracket; remove the comma";
  }
  if (character == '\'') return "' is not JSON's quotation mark; write \"";
  const auto byte = static_cast<unsigned char>(character);
  if (byte < 0x20) return "a control character or line break inside a string; write \\n, \\t, ...";
  if (byte >= 0x7f) return "a character that is not JSON here; use UTF-8, and only inside strings";
  if (character == '"' && (before == '"' || std::isalnum(static_cast<unsigned char>(before)) != 0 ||
                           before == '}' || before == ']')) {
    return "a comma is missing before this; separate members by commas";
  }
  return std::string("'") + character + "' is not JSON here; check commas, colons and quotes";
}

void print(const json::value& value, std::size_t indent, bool one_line, std::string& out) {
  constexpr std::size_t line_width = 100;
  const auto print_all = [&](const auto& container, char open, char close, const auto& print_one) {
    const char* separator = "";
    out += open;
    for (const auto& item : container) {
      out += separator;
      if (!one_line) out.append("\n").append(indent + 2, ' ');
      print_one(item);
      separator = one_line ? ", " : ",";
    }
    if (!one_line && !container.empty()) out.append("\n").append(indent, ' ');
    out += close;
  };
  if (const json::object* object = value.if_object()) {
    print_all(*object, '{', '}', [&](const json::key_value_pair& member) {
      out += json::serialize(member.key()) + ": ";
      print(member.value(), indent + 2, one_line, out);
    });
  } else if (const json::array* array = value.if_array()) {
    const std::string line = one_line ? "" : compact_json(value);
    if (!one_line && indent + line.size() <= line_width) {
      out += line;
    } else {
      // Rows of a table read best as lines.
      const auto is_row = [&](const json::value& element) {
        return element.is_object() && indent + 2 + compact_json(element).size() < line_width;
      };
      print_all(*array, '[', ']', [&](const json::value& element) {
        print(element, indent + 2, one_line || is_row(element), out);
      });
    }
  } else if (const double* number = value.if_double()) {
    out += std::isfinite(*number) ? number_text(*number) : "null";
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

json::value read_json(std::string_view text) {
  json::basic_parser<Builder> parser{json::parse_options{}};
  json::error_code error;
  std::size_t place = parser.write_some(false, text.data(), text.size(), error);
  if (!error) {
    place = std::min(text.find_first_not_of(" \t\r\n", place), text.size());
    if (place == text.size()) return std::move(parser.handler().result);
  }
  const std::string_view before = text.substr(0, place);
  const std::size_t line = 1 + static_cast<std::size_t>(std::ranges::count(before, '\n'));
  const std::size_t column = place - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
  std::string problem = parser.handler().problem;
  if (problem.empty() && !error) problem = "there is text after the end; remove it";
  if (problem.empty() && error == json::error::too_deep) {
    problem = "brackets are nested too deeply; no key needs that";
  }
  if (problem.empty() && text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    problem = "the text is empty; write at least {}";
  }
  if (problem.empty()) problem = syntax_problem(text, place);
  throw JsonError(problem, line, column);
}

std::string number_text(double value) {
  char digits[400];
  const auto text = [&](std::chars_format format) {
    return std::string(digits, std::to_chars(digits, digits + sizeof digits, value, format).ptr);
  };
  const double size = std::abs(value);
  if (value == 0 || (size >= 1e-5 && size < 1e15)) return text(std::chars_format::fixed);
  std::string scientific = text(std::chars_format::scientific);
  // 1e-07 and 1e+20 become 1e-7 and 1e20.
  const std::size_t exponent = scientific.find('e');
  if (exponent == std::string::npos) return scientific;
  const bool negative = scientific[exponent + 1] == '-';
  const std::size_t first =
      std::min(scientific.find_first_not_of("+-0", exponent + 1), scientific.size() - 1);
  return scientific.substr(0, exponent) + (negative ? "e-" : "e") + scientific.substr(first);
}

std::string pretty_json(const json::value& value) {
  std::string out;
  print(value, 0, false, out);
  return out;
}

std::string compact_json(const json::value& value) {
  std::string out;
  print(value, 0, true, out);
  return out;
}

std::string utf8_text(std::string text) {
  try {
    (void)read_json(json::serialize(json::string(text)));
  } catch (const JsonError&) {
    std::ranges::replace_if(
        text, [](char c) { return (static_cast<unsigned char>(c) & 0x80) != 0; }, '?');
  }
  return text;
}

std::string brief_json(const json::value& value, std::size_t limit) {
  std::string out = compact_json(value);
  if (out.size() <= limit) return out;
  const json::string* const string = value.if_string();
  std::string_view text = string != nullptr ? std::string_view(*string) : std::string_view(out);
  text = text.substr(0, limit - 3);
  while (true) {
    // Not within a UTF-8 sequence, nor, with a string cut before it is quoted, an escape.
    const bool is_cut = text.size() < (string != nullptr ? string->size() : out.size()) &&
                        (static_cast<unsigned char>(text.data()[text.size()]) & 0xc0) == 0x80;
    const std::string brief = std::string(text) + "...";
    const std::string shown = string != nullptr ? compact_json(json::string(brief)) : brief;
    if (!is_cut && shown.size() <= limit) return shown;
    if (text.empty()) return shown;
    text.remove_suffix(1);
  }
}

}  // namespace stpt
