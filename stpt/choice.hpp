// Which Pre-train replica goes on as the model: pure rules on what the replicas scored
// (paper 2.1, 3.2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "stpt/config/config.hpp"

namespace stpt {

/// What one replica reports after Pre-train.
struct CandidateScore {
  double factor = 1;
  double learning_rate = 0;
  bool diverged = false;
  /// 1 where top-1 is right, per scoring image in the same order for every candidate; empty where
  /// only means are known (training window).
  std::vector<std::uint8_t> correct;
  double accuracy = 0;
  double loss = 0;
};

struct Choice {
  std::optional<std::size_t> winner;  ///< index of the candidate; empty if all of them diverged
  std::string reason;
};

/// What the best constant answer scores. The default leaves everything to be learnt.
struct Guess {
  double accuracy = 0;
  double loss = std::numeric_limits<double>::infinity();
};

/// So much of the loss of guessing, or less, shows that something was learnt. Nearer to it the loss
/// falls as well where a network comes to give all images one answer.
inline constexpr double clearly_learnt = 0.95;

/// Always the most frequent class, and all classes as likely as they are frequent.
[[nodiscard]] Guess best_guess(std::span<const std::int64_t> images_of_class);

/// Whether an accuracy and a mean loss on so many images show that something was learnt: by more
/// than two standard errors of guessing, or by a loss that is clearly lower.
[[nodiscard]] bool exceeds_guessing(double accuracy, double loss, double images,
                                    const Guess& guess);
/// No candidate that did not diverge does.
[[nodiscard]] bool none_exceeds_guessing(std::span<const CandidateScore> candidates,
                                         const Guess& guess);

/// The best candidate by `metric`. A candidate that diverged, or whose accuracy or loss is not
/// finite, never wins.
///
/// Tied with the best are those whose accuracy lies within one paired standard error of it, for
/// `larger` two. With d the image-by-image differences of correctness one error is
/// |mean(d)| <= sqrt(var(d) / images), which is sum(d)^2 <= sum(d^2) (McNemar's statistic, at most
/// 1): whole numbers, so no rounding. Without per-image results, and for the loss, only equal
/// scores are tied. Among the tied,
///   prefer_unchanged  takes factor 1, else the lowest loss, of those within three points;
///   larger            leaves out those with less than four fifths of the best's lead over `guess`,
///                     unless their loss is clearly below that of guessing; takes the one with the
///                     lowest loss; and instead of it the largest LR up to half a decade above that
///                     is nearly as good: within three points of the best, and with four fifths of
///                     the lead over `guess`, by accuracy and by loss. A short Pre-train prefers
///                     too small ones, so that against a larger one clear evidence is asked for,
///                     but wider steps are not taken on weak one. From one whose loss is clearly
///                     above that of guessing it goes on to larger ones of the tied, half a decade
///                     at a time, as long as they have a lower loss and a lead over guessing;
///   none              knows no near-ties.
/// Of equal accuracies that with the lower loss is the better one.
/// What is still equal goes to the lowest index.
/// Throws std::invalid_argument if candidates were scored on different numbers of images.
[[nodiscard]] Choice choose(std::span<const CandidateScore> candidates, TieRule tie_rule,
                            ScoreMetric metric, const Guess& guess = {});

/// Where training with the choice has left the network at guessing, and no score of those with less
/// exceeds it: the largest that is left.
[[nodiscard]] Choice choose_largest(std::span<const CandidateScore> candidates);

/// Policy random_winner, the control: any candidate that did not diverge.
[[nodiscard]] Choice choose_at_random(std::span<const CandidateScore> candidates,
                                      std::uint64_t seed, int epoch);

/// Policy always_one, the control: the candidate with factor 1; no winner if it diverged.
/// Throws std::invalid_argument if the set has no such candidate.
[[nodiscard]] Choice choose_unchanged(std::span<const CandidateScore> candidates);

/// Uniform in [0, m), a function of its arguments alone. Throws std::invalid_argument if m is 0.
[[nodiscard]] std::size_t random_winner(std::uint64_t seed, int epoch, std::size_t m);

}  // namespace stpt
