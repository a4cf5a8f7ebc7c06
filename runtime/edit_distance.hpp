// How alike two words are, to name the one that was meant.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace stpt::runtime {

/// Edits between two words: insert, remove or replace a character, or swap two neighbours.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

/// The known word that was probably meant, or empty if none is near.
[[nodiscard]] std::string nearest_word(std::string_view word, std::span<const std::string> known);

}  // namespace stpt::runtime
