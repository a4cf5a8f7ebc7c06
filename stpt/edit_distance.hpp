// How alike two words are, to name the one that was meant.
#pragma once

#include <cstddef>
#include <string_view>

namespace stpt {

/// Edits between two words: insert, remove or replace a character, or swap two neighbours.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace stpt
