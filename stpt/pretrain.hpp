// Pre-train (paper 2.1): m replicas from one snapshot, each with its own learning rate, and a score
// for each.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "stpt/choice.hpp"
#include "stpt/session.hpp"

namespace stpt {

/// One candidate's model and how it went.
struct Replica {
  Replica(const models::Network& network, int workers, const std::string& name);

  models::ModelState state;
  runtime::Tensor averaged_running;  ///< for scores with running statistics; empty if not needed
  TrainingLog log;
  std::vector<StepResult> steps;       ///< up to the one that diverged
  std::atomic<bool> diverged = false;  ///< set by the task that sees it

  /// A step that is no longer finite, or whose loss exceeds `divergence_factor` (0: no limit) times
  /// the first one's, ends the candidate.
  void watch(double divergence_factor);
};

/// Everything that Pre-train spent and found out.
struct PretrainResult {
  std::vector<CandidateScore> scores;
  double seconds_snapshot = 0, seconds_train = 0, seconds_score = 0;
};

class Pretrain {
 public:
  /// Memory for up to `candidates` replicas.
  Pretrain(Session& session, std::size_t candidates);

  /// Trains and scores one replica for each factor, from session.current, over the epoch's first
  /// alpha iterations. `step_done` is called now and then with (steps submitted, steps in all); it
  /// may throw to stop.
  PretrainResult run(int epoch, double base_learning_rate, std::span<const double> factors,
                     std::span<const std::uint32_t> order,
                     const std::function<void(int, int)>& step_done);

  /// The winner's model becomes session.current, the former one is kept for the next snapshot: a
  /// swap of handles.
  void hand_over(std::size_t winner, std::size_t candidates);

  [[nodiscard]] const Replica& replica(std::size_t index) const { return *replicas_[index]; }

 private:
  void score(PretrainResult& result, int workers, std::span<const std::uint32_t> order);

  Session& session_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::optional<Evaluator> evaluator_;  ///< empty when the training window scores
};

}  // namespace stpt
