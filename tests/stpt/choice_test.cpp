#include "stpt/choice.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/catch.hpp"

using namespace stpt;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

CandidateScore means(double factor, double accuracy, double loss) {
  CandidateScore score;
  score.factor = factor;
  score.learning_rate = 0.1 * factor;
  score.accuracy = accuracy;
  score.loss = loss;
  return score;
}

/// Scored on so many images; right in the given half-open ranges of them.
CandidateScore paired(double factor, double loss, std::size_t images,
                      std::initializer_list<std::pair<std::size_t, std::size_t>> right) {
  CandidateScore score = means(factor, 0, loss);
  score.correct.assign(images, 0);
  for (const auto& [first, end] : right) {
    for (std::size_t i = first; i < end; ++i) score.correct[i] = 1;
  }
  int count = 0;
  for (const std::uint8_t c : score.correct) count += c;
  score.accuracy = static_cast<double>(count) / static_cast<double>(images);
  return score;
}

CandidateScore diverged(double factor) {
  CandidateScore score = means(factor, 0.99, 0.01);
  score.diverged = true;
  return score;
}

using Candidates = std::vector<CandidateScore>;

}  // namespace

TEST_CASE("the highest accuracy wins, or the lowest loss", "[choice]") {
  const Candidates candidates{means(3, 0.5, 1.0), means(1, 0.7, 1.2), means(0.5, 0.6, 0.9)};
  for (const TieRule rule : {TieRule::prefer_unchanged, TieRule::none, TieRule::larger}) {
    const Choice by_accuracy = choose(candidates, rule, ScoreMetric::accuracy);
    CHECK(by_accuracy.winner == 1U);
    CHECK(by_accuracy.reason == "highest accuracy");
    const Choice by_loss = choose(candidates, rule, ScoreMetric::loss);
    CHECK(by_loss.winner == 2U);
    CHECK(by_loss.reason == "lowest loss");
  }
}

TEST_CASE("one candidate wins whatever it scored", "[choice]") {
  const Candidates candidates{paired(1, 2.3, 10, {})};
  for (const TieRule rule : {TieRule::prefer_unchanged, TieRule::none, TieRule::larger}) {
    const Choice choice = choose(candidates, rule, ScoreMetric::accuracy);
    CHECK(choice.winner == 0U);
    CHECK(choice.reason == "the only candidate");
  }
}

TEST_CASE("candidates that diverged or scored no number never win", "[choice]") {
  const Candidates candidates{diverged(5), means(3, kNan, 0.1), means(2, 0.99, kNan),
                              means(1, 0.1, 2.3), means(0.5, 0.9, kInf)};
  for (const TieRule rule : {TieRule::prefer_unchanged, TieRule::none, TieRule::larger}) {
    for (const ScoreMetric metric : {ScoreMetric::accuracy, ScoreMetric::loss}) {
      CHECK(choose(candidates, rule, metric).winner == 3U);
    }
  }
}

TEST_CASE("no candidate wins when all diverged", "[choice]") {
  for (const Candidates& candidates :
       {Candidates{}, Candidates{diverged(1), means(0.5, kNan, kNan)}}) {
    const Choice choice = choose(candidates, TieRule::prefer_unchanged, ScoreMetric::accuracy);
    CHECK(choice.winner == std::nullopt);
    CHECK(choice.reason == "every candidate diverged");
    CHECK(choose_at_random(candidates, 1, 1).winner == std::nullopt);
  }
}

TEST_CASE("a near-tie is one paired standard error", "[choice]") {
  // 100 images. The best is right on [0, 70). The other, with factor 1, is wrong on b of these and
  // right on c others. By hand, with d = b - c and the sample variance of the differences:
  //   b = 6, c = 3: mean 0.03, var (9 - 100 * 0.03^2) / 99 = 0.09, error sqrt(0.09 / 100) = 0.03
  //   b = 6, c = 2: mean 0.04, var (8 - 100 * 0.04^2) / 99 = 0.0792, error 0.0281
  //   b = 9, c = 6: mean 0.03, var (15 - 100 * 0.03^2) / 99 = 0.1424, error 0.0377
  // The first sits on the limit, and counts.
  const CandidateScore best = paired(2, 0.9, 100, {{0, 70}});
  const auto reason = [&](std::size_t b, std::size_t c) {
    const CandidateScore other = paired(1, 1.0, 100, {{b, 70 + c}});
    const Choice choice =
        choose(Candidates{best, other}, TieRule::prefer_unchanged, ScoreMetric::accuracy);
    return std::to_string(choice.winner.value()) + " " + choice.reason;
  };
  CHECK(reason(6, 3) == "1 tie within 3 points: unchanged LR kept");
  CHECK(reason(6, 2) == "0 highest accuracy");
  CHECK(reason(9, 6) == "1 tie within 3 points: unchanged LR kept");
  CHECK(reason(3, 0) == "0 highest accuracy");  // same difference, but always in one direction
  CHECK(reason(1, 0) == "1 tie within 1 point: unchanged LR kept");
  CHECK(reason(5, 5) == "1 equal scores: unchanged LR kept");
}

TEST_CASE("pairing tells apart what unpaired errors would not", "[choice]") {
  // 0.4 points of 1000 images are far within the binomial error (1.4 points), yet 4 wins in 4.
  const Candidates clear{paired(2, 0.9, 1000, {{0, 704}}), paired(1, 0.9, 1000, {{0, 700}})};
  CHECK(choose(clear, TieRule::prefer_unchanged, ScoreMetric::accuracy).winner == 0U);
  // The same 0.4 points with 10 wins to 6: 16 <= 16.
  const Candidates tied{paired(2, 0.9, 1000, {{0, 704}}), paired(1, 0.9, 1000, {{10, 710}})};
  const Choice choice = choose(tied, TieRule::prefer_unchanged, ScoreMetric::accuracy);
  CHECK(choice.winner == 1U);
  CHECK(choice.reason == "tie within 0.4 points: unchanged LR kept");
}

TEST_CASE("the tie rules", "[choice]") {
  // All within an error of the second; the last is far off.
  Candidates candidates{paired(3, 1.1, 100, {{1, 70}}), paired(0.5, 1.2, 100, {{0, 70}}),
                        paired(1, 1.3, 100, {{1, 70}}), paired(1.5, 1.0, 100, {{1, 70}}),
                        paired(9, 0.5, 100, {{0, 20}})};
  const auto pick = [&](TieRule rule) { return choose(candidates, rule, ScoreMetric::accuracy); };

  CHECK(pick(TieRule::none).winner == 1U);
  CHECK(pick(TieRule::none).reason == "highest accuracy");
  CHECK(pick(TieRule::larger).winner == 0U);  // twice the one with the lowest loss
  CHECK(pick(TieRule::larger).reason == "tie within 1 point: largest LR");
  CHECK(pick(TieRule::prefer_unchanged).winner == 2U);
  CHECK(pick(TieRule::prefer_unchanged).reason == "tie within 1 point: unchanged LR kept");

  candidates[2].factor = 1.01;
  CHECK(pick(TieRule::prefer_unchanged).winner == 3U);
  CHECK(pick(TieRule::prefer_unchanged).reason == "tie within 1 point: lowest loss");

  candidates[3].loss = candidates[0].loss;
  CHECK(pick(TieRule::prefer_unchanged).winner == 0U);  // equal in all: the lowest index
}

TEST_CASE("the larger of near-ties is at most half a decade above the best", "[choice]") {
  const auto pick = [](double factor) {
    return choose(Candidates{paired(factor, 1, 100, {{1, 70}}), paired(1, 1, 100, {{0, 70}})},
                  TieRule::larger, ScoreMetric::accuracy);
  };
  CHECK(pick(3.2).winner == 0U);
  CHECK(pick(3.31).winner == 1U);
  CHECK(pick(3.31).reason == "tie within 1 point: lowest loss");
  // Of a set that goes on to four times, twice is taken.
  const Candidates raised{paired(4, 1, 100, {{1, 70}}), paired(2, 1, 100, {{1, 70}}),
                          paired(1, 1, 100, {{0, 70}})};
  CHECK(choose(raised, TieRule::larger, ScoreMetric::accuracy).winner == 1U);
}

TEST_CASE("the best guess is the most frequent class, as likely as it is frequent", "[choice]") {
  const std::vector<std::int64_t> even{5, 5, 5, 5}, uneven{6, 0, 2};
  CHECK(best_guess(even).accuracy == 0.25);
  CHECK(best_guess(even).loss == Approx(std::log(4)));
  CHECK(best_guess(uneven).accuracy == 0.75);
  CHECK(best_guess(uneven).loss == Approx(-0.75 * std::log(0.75) - 0.25 * std::log(0.25)));
}

TEST_CASE("scores exceed guessing by two standard errors, or by the loss", "[choice]") {
  const Guess guess{0.1, 2.3};
  // Of 900 images one standard error is a point.
  CHECK(exceeds_guessing(0.121, 2.3, 900, guess));
  CHECK_FALSE(exceeds_guessing(0.119, 2.3, 900, guess));
  CHECK_FALSE(exceeds_guessing(0.08, 2.3, 900, guess));
  CHECK(exceeds_guessing(0.1, 2.18, 900, guess));
  CHECK_FALSE(exceeds_guessing(0.1, 2.19, 900, guess));
  const CandidateScore none = paired(1, 2.3, 900, {{0, 107}}),
                       some = paired(1, 2.3, 900, {{0, 109}});
  CHECK(none_exceeds_guessing(Candidates{none, diverged(2), none}, guess));
  CHECK_FALSE(none_exceeds_guessing(Candidates{none, some}, guess));
}

TEST_CASE("the largest is the largest of those that did not diverge", "[choice]") {
  CHECK(choose_largest(
            Candidates{means(0.1, 0.5, 1), diverged(8), means(4, 0.1, 3), means(2, 0.9, 0.1)})
            .winner == 2U);
  CHECK_FALSE(choose_largest(Candidates{diverged(1)}).winner.has_value());
}

TEST_CASE("a larger LR has learnt nearly as much as the best, beyond guessing", "[choice]") {
  const Guess guess{0.1, 2.3};
  SECTION("by accuracy") {
    // Of 1000 images, with a small LR on 150 and with a larger one on so many.
    const auto winner = [&](std::size_t right) {
      return choose(Candidates{paired(2, 2, 1000, {{0, right}}),
                               paired(1, 2, 1000, {{200 - right, 350 - right}})},
                    TieRule::larger, ScoreMetric::accuracy, guess);
    };
    CHECK(winner(140).winner == 0U);  // 40 of 50 beyond the 100 of guessing
    CHECK(winner(139).winner == 1U);
    CHECK(winner(139).reason == "tie within 1.1 points: lowest loss");  // as 2 is far below 2.3
  }
  SECTION("by loss") {
    const auto winner = [&](double loss) {
      return choose(Candidates{paired(2, loss, 1000, {{1, 500}}), paired(1, 1.3, 1000, {{0, 500}})},
                    TieRule::larger, ScoreMetric::accuracy, guess);
    };
    CHECK(winner(1.49).winner == 0U);
    CHECK(winner(1.49).reason == "tie within 0.1 points: largest LR");
    CHECK(winner(1.51).winner == 1U);
    CHECK(winner(1.51).reason == "tie within 0.1 points: lowest loss");
  }
  SECTION("that with the lowest loss is looked up from, not that with the highest accuracy") {
    // As found on 200 images: the largest is right on one more than others.
    const Candidates candidates{paired(10, 2.375, 200, {{0, 37}}),
                                paired(3.2, 2.217, 200, {{1, 37}}), paired(1, 2.23, 200, {{1, 37}}),
                                paired(0.3, 2.377, 200, {{3, 37}})};
    CHECK(choose(candidates, TieRule::larger, ScoreMetric::accuracy, guess).winner == 1U);
    CHECK(choose(candidates, TieRule::none, ScoreMetric::accuracy, guess).winner == 0U);
  }
  SECTION("few images leave it to the loss, however many points they are apart") {
    const auto winner = [&](double loss, std::size_t right) {
      return choose(
          Candidates{paired(10, 1.325, 30, {{0, 18}}), paired(3.2, loss, 30, {{18 - right, 18}})},
          TieRule::larger, ScoreMetric::accuracy, guess);
    };
    CHECK(winner(1.06, 14).winner == 1U);
    CHECK(winner(1.06, 14).reason == "tie within 13.3 points: lowest loss");
    CHECK(winner(1.06, 13).winner == 0U);  // 5^2 > 4 * 5
    CHECK(winner(1.32, 14).winner == 0U);  // a loss that is hardly higher, and the best accuracy
    // One of 30 images is more than three points.
    const Candidates larger{paired(10, 1.325, 30, {{0, 17}}), paired(3.2, 1.32, 30, {{0, 18}})};
    CHECK(choose(larger, TieRule::larger, ScoreMetric::accuracy, guess).winner == 1U);
  }
  SECTION("a loss near that of guessing says nothing") {
    // On 100 images 12 and 15 are tied. The LR that is too large learns nothing, and its network
    // gives all images nearly one answer.
    const auto winner = [&](double loss) {
      const Candidates candidates{paired(3.2, loss, 100, {{3, 15}}),
                                  paired(1, 2.35, 100, {{0, 15}}),
                                  paired(0.3, 2.4, 100, {{0, 10}})};
      return choose(candidates, TieRule::larger, ScoreMetric::accuracy, guess);
    };
    CHECK(winner(2.19).winner == 1U);  // 0.95 * 2.3 = 2.185
    CHECK(winner(2.19).reason == "highest accuracy");
    CHECK(winner(2.18).winner == 0U);
    CHECK(winner(2.18).reason == "tie within 3 points: lowest loss");
  }
  SECTION("a loss far above that of guessing shows an LR that is too small") {
    // As found with six convolutions; 2.3 / 0.95 is 2.421.
    const auto pick = [&](double smallest_loss, std::size_t right) {
      const Candidates candidates{
          paired(32, 2.303, 2000, {{0, 200}}), paired(10, 2.305, 2000, {{500, 500 + right}}),
          paired(3.2, 2.43, 2000, {{1000, 1225}}), paired(1, smallest_loss, 2000, {{20, 260}})};
      return choose(candidates, TieRule::larger, ScoreMetric::accuracy, guess);
    };
    // Two steps, but not to what gives all images one answer.
    CHECK(pick(2.45, 222).winner == 1U);
    CHECK(pick(2.45, 222).reason ==
          "tie within 0.9 points: larger LR, as losses are above that of guessing");
    CHECK(pick(2.45, 200).winner == 2U);
    CHECK(pick(2.42, 222).winner == 3U);  // not far enough
    CHECK(pick(2.42, 222).reason == "highest accuracy");
    // Not where that costs loss.
    const Candidates worse{paired(2, 2.7, 2000, {{0, 255}}), paired(1, 2.6, 2000, {{1, 257}})};
    CHECK(choose(worse, TieRule::larger, ScoreMetric::accuracy, guess).winner == 1U);
  }
  SECTION("where none has learnt anything none is nearly as good") {
    const Candidates candidates{paired(2, 2.41, 100, {{0, 10}}), paired(1, 2.4, 100, {{0, 10}}),
                                paired(0.5, 2.5, 100, {{0, 10}})};
    CHECK(choose(candidates, TieRule::larger, ScoreMetric::accuracy, guess).winner == 1U);
  }
}

TEST_CASE("of equal accuracies that with the lower loss is the best", "[choice]") {
  // One answer to all images is as often right at any LR.
  Candidates candidates;
  for (const auto& [factor, loss] :
       {std::pair{1000.0, 3.3}, {100.0, 2.5}, {3.0, 2.31}, {1.0, 2.30}, {0.1, 2.32}})
    candidates.push_back(paired(factor, loss, 100, {{0, 10}}));
  for (int order = 0; order < 2; ++order) {
    const auto pick = [&](TieRule rule) {
      return candidates.at(choose(candidates, rule, ScoreMetric::accuracy).winner.value()).factor;
    };
    CHECK(pick(TieRule::none) == 1.0);
    CHECK(pick(TieRule::larger) == 3.0);
    std::ranges::reverse(candidates);
  }
}

TEST_CASE("more than three points are no tie, however few images there are", "[choice]") {
  for (const TieRule rule : {TieRule::larger, TieRule::prefer_unchanged}) {
    // The other is right where the best is not, and so within one error.
    const auto winner = [&](std::size_t points) {
      return choose(
                 Candidates{paired(0.5, 1, 100, {{0, 60}}), paired(1, 1, 100, {{20 + points, 80}})},
                 rule, ScoreMetric::accuracy)
          .winner;
    };
    CHECK(winner(3) == 1U);
    CHECK(winner(4) == 0U);
  }
}

TEST_CASE("a larger LR is refused beyond two paired standard errors", "[choice]") {
  // Right where the best is not on c images, wrong where it is right on b.
  const auto winner = [](std::size_t b, std::size_t c) {
    return choose(Candidates{paired(2, 1, 1000, {{b, 70 + c}}), paired(1, 1, 1000, {{0, 70}})},
                  TieRule::larger, ScoreMetric::accuracy)
        .winner;
  };
  CHECK(winner(6, 2) == 0U);  // 4^2 <= 4 * 8
  CHECK(winner(4, 0) == 0U);  // on the limit
  CHECK(winner(5, 0) == 1U);
  CHECK(winner(9, 1) == 1U);  // 8^2 > 4 * 10
}

TEST_CASE("without per-image results only equal scores are tied", "[choice]") {
  const Candidates near{means(2, 0.7000001, 1), means(1, 0.7, 1)};
  CHECK(choose(near, TieRule::prefer_unchanged, ScoreMetric::accuracy).winner == 0U);

  const Candidates equal{means(2, 0.7, 1), means(1, 0.7, 1), means(4, 0.7, 1)};
  for (const ScoreMetric metric : {ScoreMetric::accuracy, ScoreMetric::loss}) {
    CHECK(choose(equal, TieRule::none, metric).winner == 0U);
    CHECK(choose(equal, TieRule::larger, metric).winner == 2U);
    const Choice kept = choose(equal, TieRule::prefer_unchanged, metric);
    CHECK(kept.winner == 1U);
    CHECK(kept.reason == "equal scores: unchanged LR kept");
  }
}

TEST_CASE("a loss is not tied by accuracies", "[choice]") {
  const Candidates candidates{paired(1, 1.0, 10, {{0, 5}}), paired(2, 0.999, 10, {{0, 5}})};
  CHECK(choose(candidates, TieRule::prefer_unchanged, ScoreMetric::loss).winner == 1U);
}

TEST_CASE("candidates must share their scoring images", "[choice]") {
  const Candidates candidates{paired(1, 1, 10, {{0, 5}}), paired(2, 1, 11, {{0, 5}})};
  CHECK_THROWS_AS(choose(candidates, TieRule::prefer_unchanged, ScoreMetric::accuracy),
                  std::invalid_argument);
}

TEST_CASE("a diverged candidate needs no per-image results", "[choice]") {
  const Candidates candidates{diverged(5), paired(2, 1, 10, {{0, 5}}), paired(1, 1, 10, {{0, 5}})};
  CHECK(choose(candidates, TieRule::prefer_unchanged, ScoreMetric::accuracy).winner == 2U);
}

TEST_CASE("the random winner is even, repeatable and different by epoch and seed", "[choice]") {
  std::array<int, 8> counts{};
  int repeats = 0;
  int same_as_other_seed = 0;
  for (int epoch = 1; epoch <= 8000; ++epoch) {
    const std::size_t winner = random_winner(7, epoch, counts.size());
    REQUIRE(winner < counts.size());
    ++counts[winner];
    CHECK(winner == random_winner(7, epoch, counts.size()));
    repeats += winner == random_winner(7, epoch + 1, counts.size()) ? 1 : 0;
    same_as_other_seed += winner == random_winner(8, epoch, counts.size()) ? 1 : 0;
  }
  // Expected 1000 each, standard deviation sqrt(8000 * 1/8 * 7/8) = 30: five of them.
  for (const int count : counts) CHECK(std::abs(count - 1000) < 150);
  CHECK(std::abs(repeats - 1000) < 150);
  CHECK(std::abs(same_as_other_seed - 1000) < 150);
  CHECK(random_winner(1, 1, 1) == 0);
  CHECK_THROWS_AS(random_winner(1, 1, 0), std::invalid_argument);
}

TEST_CASE("the controls", "[choice]") {
  const Candidates candidates{means(2, 0.1, 9), diverged(3), means(1, 0.2, 8), means(0.5, 0.9, 1)};
  std::array<int, 4> counts{};
  for (int epoch = 1; epoch <= 100; ++epoch) {
    ++counts[choose_at_random(candidates, 1, epoch).winner.value()];
  }
  CHECK(counts[1] == 0);
  CHECK(counts[0] > 0);
  CHECK(counts[2] > 0);
  CHECK(counts[3] > 0);

  CHECK(choose_unchanged(candidates).winner == 2U);
  CHECK(choose_unchanged(Candidates{means(2, 0.5, 1), diverged(1)}).winner == std::nullopt);
  CHECK_THROWS_AS(choose_unchanged(Candidates{means(2, 0.5, 1)}), std::invalid_argument);
}
