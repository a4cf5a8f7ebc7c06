// How alike two words are, to name the one that was meant.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace stpt::runtime {

/// Edits between two words: insert, remove or replace a character, or swap two neighbours.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

/// The same, but 1 at most for a word of three characters or more that is a part of the known one,
/// as "vgg" is of "vgg11".
[[nodiscard]] std::size_t word_distance(std::string_view word, std::string_view known);

/// The known word that was probably meant, or empty if none is near.
[[nodiscard]] std::string nearest_word(std::string_view word, std::span<const std::string> known);

}  // namespace stpt::runtime
