// How the report writes numbers and other people's words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace stpt::report {

/// Text as HTML and SVG take it, in elements and in attributes.
std::string escaped(std::string_view text);

// Numbers that are not finite are written as a dash.

std::string fixed(double value, int digits);
/// Three significant digits: 0.0833, 12.5, 3×10⁻⁵.
std::string significant(double value, int digits = 3);
/// 90.62 % of a share in [0, 1].
std::string percent(double share, int digits = 2);
/// 1 234 567
std::string count(std::int64_t value);
/// 12.3 s, 4 min 05 s, 1 h 03 min
std::string duration(double seconds);
/// 512 MB, 1.4 GB
std::string bytes(double value);
/// 23 November 2025, 18:53 UTC from ISO 8601; anything else escaped as it is.
std::string date(std::string_view iso);

}  // namespace stpt::report
