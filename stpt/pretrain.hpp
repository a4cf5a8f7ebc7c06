// Pre-train (paper 2.1): m replicas from one snapshot, each with its own learning rate, and a score
// for each. Over several ranks each replica has a team of them (Experiment::replica_team); scores
// meet on all ranks, so that all come to the same choice.
#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "models/averages.hpp"
#include "models/model_state.hpp"
#include "stpt/choice.hpp"
#include "stpt/session.hpp"

namespace stpt {

/// The loss that ends a candidate.
struct LossLimit {
  double factor = 0;    ///< of the larger of the first step's loss and `guessing`; 0: no limit
  double guessing = 0;  ///< loss of a network that takes all classes for equally likely

  /// Whether the last steps have exceeded it: as many as it takes for 64 images, whose mean loss
  /// is judged. Of fewer images a few that are hard would decide.
  [[nodiscard]] bool exceeded_by(std::span<const StepResult> steps) const;
};

/// One candidate's model and how it went.
struct Replica {
  Replica(const models::Network& network, const models::Team& team, const std::string& name,
          codelets::UpdateRule rule);

  models::ModelState state;
  runtime::Tensor averaged_running;  ///< for scores with running statistics; empty if not needed
  std::optional<models::ParameterMean> mean;  ///< what is scored, unless it is the last state
  std::vector<WorkerResult> results;          ///< of this rank's workers, step after step
  std::atomic<bool> diverged = false;         ///< set by the task that sees it
  TrainingLog log;  ///< the last: it waits for tasks that write to the others

  /// Collects results, and notices divergence where all workers are on this rank.
  void watch(const LossLimit& limit);
};

/// Steps up to the first, if there is one, that is no longer finite, or with which they exceed the
/// limit: it ends the candidate.
struct CandidateSteps {
  std::vector<StepResult> steps;
  bool diverged = false;

  /// Does nothing after the candidate's end.
  void add(const StepResult& step, const LossLimit& limit);
};

/// Everything that Pre-train spent and found out; the same on all ranks but for the times.
struct PretrainResult {
  std::vector<CandidateScore> scores;
  Guess guess;  ///< on what was scored; the default where that is the training window
  std::vector<std::vector<StepResult>> steps;  ///< [candidate], up to the one that diverged
  double seconds_snapshot = 0, seconds_train = 0, seconds_score = 0;
};

/// What an epoch's candidates are, and what they train on.
struct Candidates {
  int epoch = 1;
  double base_learning_rate = 0;
  std::span<const double> factors;  ///< of the base, one for each candidate
  /// One with a learning rate above it is out from the start.
  double highest_learning_rate = std::numeric_limits<double>::infinity();
  std::span<const std::uint32_t> order;  ///< the epoch's training images
};

class Pretrain {
 public:
  /// Memory for this rank's part of the replicas is taken when they are first needed. All ranks
  /// call it.
  explicit Pretrain(Session& session);

  /// Trains and scores one replica for each candidate, from session.current, over the epoch's first
  /// alpha iterations. For each candidate's each step `step_done` is called with whether it is
  /// made, which it is not where the candidate is known here to be out; it may throw to stop.
  PretrainResult run(const Candidates& candidates, const std::function<void(bool)>& step_done);

  /// The winner's model becomes session.current: a swap of handles where both are placed alike,
  /// else it goes to where the workers of Main-train are. Asynchronous.
  void hand_over(std::size_t winner, std::size_t candidates);

 private:
  void prepare(std::size_t candidates);
  /// How many of this rank's replicas from `first` to `last` are to train at a time, so that no
  /// StarPU worker is idle; there is room for them then.
  std::size_t make_room(std::size_t first, std::size_t last);
  void take_snapshot(std::size_t candidates);
  /// Candidates from `first` to `last`, alpha steps each, which need not have ended.
  void train(const Candidates& candidates, std::size_t first, std::size_t last,
             const std::function<void(bool)>& step_done);
  /// Of this rank's workers that train the replica (runtime::Runtime::worker_for).
  [[nodiscard]] std::size_t first_piece(std::size_t replica) const;
  void collect_steps(PretrainResult& result) const;
  /// By the last steps of Pre-train.
  void score_training(PretrainResult& result) const;
  /// By the evaluator's images.
  void score_images(PretrainResult& result, std::span<const std::uint32_t> order);

  Session& session_;
  std::size_t wave_;  ///< so many replicas at most are trained at a time
  std::vector<std::unique_ptr<Replica>> replicas_;  ///< null for those of other ranks
  std::optional<Evaluator> evaluator_;              ///< empty when the training window scores
  Guess guess_;                                     ///< on the evaluator's images
};

}  // namespace stpt
