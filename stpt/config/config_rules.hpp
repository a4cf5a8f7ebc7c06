// The rules that a config obeys beyond the range of each key.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "stpt/config/config_schema.hpp"

namespace stpt::config {

using MaybeProblem = std::optional<Problem>;

struct Rule {
  std::string_view meaning;  ///< for docs/config.md
  MaybeProblem (*check)(const Config&);
};

[[nodiscard]] const std::vector<Rule>& rules();

/// Throws the Problem of the first rule that is broken.
void check_rules(const Config& config);

/// What depends on the number of training images, hold-out included.
[[nodiscard]] MaybeProblem check_images(const Config& config, std::int64_t images);

}  // namespace stpt::config
