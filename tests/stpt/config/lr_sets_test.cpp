#include "stpt/config/lr_sets.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "tests/catch.hpp"

namespace stpt {
namespace {

using Factors = std::vector<double>;

TEST_CASE("the paper's sets are exactly the paper's", "[lr_sets]") {
  CHECK(named_candidate_set("table2").factors == Factors{10.0, 5.0, 3.0, 1.5, 1.0, 0.9, 0.5, 0.4});
  CHECK(named_candidate_set("narrow").factors ==
        Factors{1.25, 1.17, 1.08, 1.00, 0.95, 0.90, 0.85, 0.80});
  CHECK(named_candidate_set("middle").factors ==
        Factors{2.50, 2.00, 1.50, 1.00, 0.85, 0.70, 0.55, 0.40});
  CHECK(named_candidate_set("wide").factors ==
        Factors{5.00, 3.67, 2.33, 1.00, 0.80, 0.60, 0.40, 0.20});
  CHECK(named_candidate_set("unchanged").factors == Factors{1.0});
}

TEST_CASE("every named set falls, is above 0 and has the unchanged LR", "[lr_sets]") {
  for (const NamedSet& set : named_sets()) {
    INFO(set.name);
    CHECK(std::ranges::is_sorted(set.factors, std::ranges::greater()));
    CHECK(set.factors.back() > 0);
    CHECK(std::ranges::count(set.factors, 1.0) == 1);
    CHECK_FALSE(set.documentation.empty());
    CHECK(find_named_set(set.name) == &set);
    CHECK(named_candidate_set(set.name).name == set.name);
  }
}

TEST_CASE("the search set reaches as far up as down", "[lr_sets]") {
  const Factors factors = named_candidate_set("search").factors;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    CHECK(std::abs(factors[i] * factors[factors.size() - 1 - i] - 1) < 1e-12);
  }
  // What it finds is not clamped away.
  const StptConfig config;
  CHECK(config.clamp_high >= factors.front());
  CHECK(config.clamp_low <= factors.back());
  CHECK(default_candidates() == named_candidate_set("refine"));
}

TEST_CASE("a set that does not exist", "[lr_sets]") {
  CHECK(find_named_set("narow") == nullptr);
  CHECK_THROWS_AS(named_candidate_set(""), std::invalid_argument);
}

TEST_CASE("a schedule's entry holds from its epoch to the next entry's", "[lr_sets]") {
  // The paper's Mix (Table 4): 1 to 4 warm-up, 5 to 19 Narrow, 20 to 29 Middle, 30 to 40 Wide.
  StptConfig config;
  config.candidates = named_candidate_set("unchanged");
  config.schedule.clear();
  CHECK(candidates_at(config, 1).name == "unchanged");
  config.schedule = {{5, named_candidate_set("narrow")},
                     {20, named_candidate_set("middle")},
                     {30, named_candidate_set("wide")}};
  CHECK(candidates_at(config, 1).name == "unchanged");
  CHECK(candidates_at(config, 4).name == "unchanged");
  CHECK(candidates_at(config, 5).name == "narrow");
  CHECK(candidates_at(config, 19).name == "narrow");
  CHECK(candidates_at(config, 20).name == "middle");
  CHECK(candidates_at(config, 29).name == "middle");
  CHECK(candidates_at(config, 30).name == "wide");
  CHECK(candidates_at(config, 40).name == "wide");
}

}  // namespace
}  // namespace stpt
