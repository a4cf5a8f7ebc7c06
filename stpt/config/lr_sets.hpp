// The learning-rate sets that have a name, and which set an epoch uses.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stpt/config/config.hpp"

namespace stpt {

struct NamedSet {
  std::string_view name;
  std::vector<double> factors;     ///< of the base LR, largest first
  std::string_view documentation;  ///< one sentence
};

/// Every named set, in the order of docs/config.md.
[[nodiscard]] std::span<const NamedSet> named_sets();

/// The set of that name, or null.
[[nodiscard]] const NamedSet* find_named_set(std::string_view name);

/// The set as a config holds it. Throws std::invalid_argument if the name is unknown.
[[nodiscard]] CandidateSet named_candidate_set(std::string_view name);

/// The set of the last schedule entry that starts at or before the epoch (from 1), else the
/// default.
[[nodiscard]] const CandidateSet& candidates_at(const StptConfig& config, int epoch);

}  // namespace stpt
