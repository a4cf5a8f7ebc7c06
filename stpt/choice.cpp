#include "stpt/choice.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>

#include "runtime/random.hpp"

namespace stpt {
namespace {

bool usable(const CandidateScore& candidate) {
  return !candidate.diverged && std::isfinite(candidate.accuracy) && std::isfinite(candidate.loss);
}

constexpr double half_decade = 3.3;  ///< sqrt(10), rounded up: sets step by 3.2

/// Whether one has learnt at least four fifths of what the other has.
bool nearly_as_much(double learnt, double other) {
  return learnt >= (other > 0 ? 0.8 * other : other);
}

std::vector<std::size_t> survivors(std::span<const CandidateScore> candidates) {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (usable(candidates[i])) indices.push_back(i);
  }
  return indices;
}

Choice all_diverged() { return {std::nullopt, "every candidate diverged"}; }

/// On few images an error is many points, and a candidate that is far worse would be taken.
bool within_three_points(const CandidateScore& best, const CandidateScore& other) {
  return best.accuracy - other.accuracy < 0.03 + 1e-9;
}

/// Within so many paired standard errors (see the header).
bool tied(const CandidateScore& best, const CandidateScore& other, ScoreMetric metric,
          std::int64_t errors) {
  if (metric == ScoreMetric::loss) return other.loss == best.loss;
  if (best.correct.empty() || other.correct.empty()) return other.accuracy == best.accuracy;
  if (best.correct.size() != other.correct.size()) {
    throw std::invalid_argument("choose: candidates were scored on different numbers of images");
  }
  std::int64_t sum = 0;
  std::int64_t squares = 0;
  for (std::size_t i = 0; i < best.correct.size(); ++i) {
    const int difference = (best.correct[i] != 0 ? 1 : 0) - (other.correct[i] != 0 ? 1 : 0);
    sum += difference;
    squares += difference * difference;
  }
  return sum * sum <= errors * errors * squares;
}

/// Whether one that is tied with the best stays in, under TieRule::larger.
bool has_learnt(const CandidateScore& one, const CandidateScore& best, const Guess& guess) {
  return one.loss <= clearly_learnt * guess.loss ||
         nearly_as_much(one.accuracy - guess.accuracy, best.accuracy - guess.accuracy);
}

/// Of those that are tied the one to take under TieRule::larger.
std::size_t larger_one(std::span<const CandidateScore> candidates,
                       std::span<const std::size_t> ties, const CandidateScore& best,
                       std::size_t lowest_loss, const Guess& guess) {
  const CandidateScore& lowest = candidates[lowest_loss];
  std::size_t largest = lowest_loss;
  for (const std::size_t i : ties) {
    const CandidateScore& one = candidates[i];
    if (one.learning_rate > candidates[largest].learning_rate &&
        one.learning_rate <= half_decade * lowest.learning_rate && within_three_points(best, one) &&
        nearly_as_much(one.accuracy - guess.accuracy, best.accuracy - guess.accuracy) &&
        nearly_as_much(guess.loss - one.loss, guess.loss - lowest.loss))
      largest = i;
  }
  return largest;
}

/// From one whose loss is clearly above that of guessing, which has not even learnt how frequent
/// classes are, on to larger ones of those that are tied, as long as that brings the loss down.
std::size_t climb(std::span<const CandidateScore> candidates, std::span<const std::size_t> ties,
                  std::size_t start, const Guess& guess) {
  std::size_t at = start;
  while (clearly_learnt * candidates[at].loss > guess.loss) {
    std::size_t next = at;
    for (const std::size_t i : ties) {
      const CandidateScore& one = candidates[i];
      if (one.learning_rate > candidates[next].learning_rate &&
          one.learning_rate <= half_decade * candidates[at].learning_rate &&
          one.loss < candidates[at].loss && one.accuracy > guess.accuracy)
        next = i;
    }
    if (next == at) break;
    at = next;
  }
  return at;
}

/// "tie within 0.5 points"
std::string tie_text(double points) {
  if (points == 0) return "equal scores";
  std::ostringstream number;
  number << std::setprecision(points < 10 ? 2 : 3) << points;
  return "tie within " + number.str() + (number.str() == "1" ? " point" : " points");
}

}  // namespace

Guess best_guess(std::span<const std::int64_t> images_of_class) {
  const auto images = static_cast<double>(
      std::accumulate(images_of_class.begin(), images_of_class.end(), std::int64_t{0}));
  Guess guess{0, 0};
  for (const std::int64_t count : images_of_class) {
    if (count == 0) continue;
    const double share = static_cast<double>(count) / images;
    guess.accuracy = std::max(guess.accuracy, share);
    guess.loss -= share * std::log(share);
  }
  return guess;
}

bool exceeds_guessing(double accuracy, double loss, double images, const Guess& guess) {
  const double error = std::sqrt(guess.accuracy * (1 - guess.accuracy) / images);
  return accuracy - guess.accuracy > 2 * error || loss <= clearly_learnt * guess.loss;
}

bool none_exceeds_guessing(std::span<const CandidateScore> candidates, const Guess& guess) {
  return std::ranges::none_of(candidates, [&](const CandidateScore& one) {
    return usable(one) &&
           exceeds_guessing(one.accuracy, one.loss, static_cast<double>(one.correct.size()), guess);
  });
}

Choice choose(std::span<const CandidateScore> candidates, TieRule tie_rule, ScoreMetric metric,
              const Guess& guess) {
  const std::vector<std::size_t> running = survivors(candidates);
  if (running.empty()) return all_diverged();
  if (candidates.size() == 1) return {running.front(), "the only candidate"};

  // The first of the best in an order of indices.
  const auto first = [&](const std::vector<std::size_t>& indices, const auto& better) {
    return *std::ranges::min_element(indices, [&](std::size_t a, std::size_t b) {
      return better(candidates[a], candidates[b]);
    });
  };
  const auto lower_loss = [](const auto& a, const auto& b) {
    return a.loss != b.loss ? a.loss < b.loss : a.accuracy > b.accuracy;
  };
  // A network that gives all images one answer is right on as many at any LR.
  const auto higher_accuracy = [](const auto& a, const auto& b) {
    return a.accuracy != b.accuracy ? a.accuracy > b.accuracy : a.loss < b.loss;
  };

  const bool by_loss = metric == ScoreMetric::loss, larger = tie_rule == TieRule::larger;
  const std::size_t best = by_loss ? first(running, lower_loss) : first(running, higher_accuracy);
  std::vector<std::size_t> ties = running;
  std::erase_if(ties, [&](std::size_t i) {
    const CandidateScore& one = candidates[i];
    return !tied(candidates[best], one, metric, larger ? 2 : 1) ||
           (!larger && !by_loss && !within_three_points(candidates[best], one));
  });
  const Choice clear{best, by_loss ? "lowest loss" : "highest accuracy"};
  if (tie_rule == TieRule::none || ties.size() == 1) return clear;

  const auto tie_of = [&](const std::vector<std::size_t>& indices) {
    const std::size_t last = *std::ranges::min_element(
        indices, {}, [&](std::size_t i) { return candidates[i].accuracy; });
    return tie_text(by_loss ? 0 : 100 * (candidates[best].accuracy - candidates[last].accuracy));
  };
  if (larger) {
    std::vector<std::size_t> learnt = ties;
    std::erase_if(learnt, [&](std::size_t i) {
      return !by_loss && !has_learnt(candidates[i], candidates[best], guess);
    });
    const std::size_t lowest = first(learnt, lower_loss);
    const std::size_t largest = larger_one(candidates, learnt, candidates[best], lowest, guess);
    if (const std::size_t above = climb(candidates, ties, largest, guess); above != largest)
      return {above, tie_of(ties) + ": larger LR, as losses are above that of guessing"};
    if (learnt.size() == 1) return clear;
    return {largest, tie_of(learnt) + (largest == lowest ? ": lowest loss" : ": largest LR")};
  }
  const auto unchanged =
      std::ranges::find_if(ties, [&](std::size_t i) { return candidates[i].factor == 1; });
  if (unchanged != ties.end()) return {*unchanged, tie_of(ties) + ": unchanged LR kept"};
  return {first(ties, lower_loss), tie_of(ties) + ": lowest loss"};
}

Choice choose_largest(std::span<const CandidateScore> candidates) {
  const std::vector<std::size_t> running = survivors(candidates);
  if (running.empty()) return all_diverged();
  const std::size_t largest = *std::ranges::max_element(
      running, {}, [&](std::size_t i) { return candidates[i].learning_rate; });
  return {largest, "none exceeds guessing: largest LR below one that taught nothing"};
}

Choice choose_at_random(std::span<const CandidateScore> candidates, std::uint64_t seed, int epoch) {
  const std::vector<std::size_t> running = survivors(candidates);
  if (running.empty()) return all_diverged();
  return {running[random_winner(seed, epoch, running.size())], "at random"};
}

Choice choose_unchanged(std::span<const CandidateScore> candidates) {
  const auto unchanged = std::ranges::find(candidates, 1.0, &CandidateScore::factor);
  if (unchanged == candidates.end()) {
    throw std::invalid_argument("choose_unchanged: no candidate has factor 1");
  }
  if (!usable(*unchanged)) return {std::nullopt, "the unchanged LR diverged"};
  return {static_cast<std::size_t>(unchanged - candidates.begin()), "always the unchanged LR"};
}

std::size_t random_winner(std::uint64_t seed, int epoch, std::size_t m) {
  if (m == 0) throw std::invalid_argument("random_winner: no candidates");
  runtime::Random random(seed,
                         runtime::stream_id("random winner", static_cast<std::uint64_t>(epoch)));
  return random.below(static_cast<std::uint32_t>(m));
}

}  // namespace stpt
