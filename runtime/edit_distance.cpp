#include "runtime/edit_distance.hpp"

#include <algorithm>
#include <vector>

namespace stpt::runtime {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min(
          {d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::size_t word_distance(std::string_view word, std::string_view known) {
  const std::size_t distance = edit_distance(word, known);
  const bool is_part = word.size() >= 3 && known.find(word) != std::string_view::npos;
  return is_part ? std::min<std::size_t>(distance, 1) : distance;
}

std::string nearest_word(std::string_view word, std::span<const std::string> known) {
  word = word.substr(0, 64);
  std::string best;
  // Two edits, but of a short word something must be left.
  std::size_t least = std::max(word.size() / 3, std::min<std::size_t>(2, word.size() / 2)) + 1;
  for (const std::string& other : known) {
    if (const std::size_t distance = word_distance(word, other); distance < least) {
      least = distance;
      best = other;
    }
  }
  return best;
}

}  // namespace stpt::runtime
