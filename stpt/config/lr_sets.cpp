#include "stpt/config/lr_sets.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace stpt {

std::span<const NamedSet> named_sets() {
  static const std::array<NamedSet, 8> sets = {{
      {"search",
       {1000, 320, 100, 32, 10, 3.2, 1, 0.3125, 0.1, 0.03125, 0.01, 0.003125, 0.001},
       "Half decades, the same upwards as downwards: finds the scale from an unknown start. For "
       "the first epoch alone: repeated, it follows what pays at once, a too small LR."},
      {"raise",
       {4, 2, 1},
       "For the epoch behind a search, which finds too little on an untrained network: with "
       "`tie_rule` larger twice the learning rate where it does as well, and four times where "
       "that does better."},
      {"refine",
       {1.25, 1, 0.8},
       "The ends and the middle of narrow: for a learning rate of the right scale, at a third of "
       "the "
       "cost."},
      {"narrow",
       {1.25, 1.17, 1.08, 1.00, 0.95, 0.90, 0.85, 0.80},
       "The paper's set (a): fine steps around a learning rate that is about right."},
      {"middle", {2.50, 2.00, 1.50, 1.00, 0.85, 0.70, 0.55, 0.40}, "The paper's set (b)."},
      {"wide", {5.00, 3.67, 2.33, 1.00, 0.80, 0.60, 0.40, 0.20}, "The paper's set (c)."},
      {"table2",
       {10.0, 5.0, 3.0, 1.5, 1.0, 0.9, 0.5, 0.4},
       "The paper's Table 2, used to compare lengths of Pre-train; leans upwards."},
      {"unchanged",
       {1.0},
       "Nothing to choose: the same as plain training, whatever `stpt.momentum` says."},
  }};
  return sets;
}

const NamedSet* find_named_set(std::string_view name) {
  const auto sets = named_sets();
  const auto found = std::ranges::find(sets, name, &NamedSet::name);
  return found == sets.end() ? nullptr : &*found;
}

CandidateSet named_candidate_set(std::string_view name) {
  const NamedSet* set = find_named_set(name);
  if (set == nullptr) throw std::invalid_argument("no LR set is named " + std::string(name));
  return {std::string(set->name), set->factors};
}

CandidateSet default_candidates() { return named_candidate_set("refine"); }

std::vector<ScheduleEntry> default_schedule(int first) {
  return {{first, named_candidate_set("search")},
          {first + 1, named_candidate_set("raise")},
          {first + 2, named_candidate_set("unchanged")}};
}

const CandidateSet& candidates_at(const StptConfig& config, int epoch) {
  const CandidateSet* current = &config.candidates;
  for (const ScheduleEntry& entry : config.schedule) {
    if (entry.from_epoch <= epoch) current = &entry.candidates;
  }
  return *current;
}

}  // namespace stpt
