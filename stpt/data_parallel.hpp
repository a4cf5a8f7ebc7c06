// The synchronous data-parallel training step (paper 2.1, Main-train) of a team's g logical workers
// on one model:
//   each worker i:   gradient[i] = d loss(batch[i]) / d parameters
//   fixed tree:      gradient[0] = sum of gradient[0..g), pairs at distance 1, 2, 4, ...
//   each bucket:     its owner: parameters, moments = update(gradient[0] / g); sent to the others
// A logical worker is no device: which one runs it is the scheduler's business, and the result has
// the same bits whatever it decides, and on however many ranks the team's workers live.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "data/loader.hpp"
#include "models/model_state.hpp"
#include "models/optimizer.hpp"
#include "models/program.hpp"
#include "stpt/config/config.hpp"
#include "stpt/reduction_tree.hpp"

namespace stpt {

struct StepResult {
  std::int64_t samples = 0;
  double loss = 0;  ///< mean over the samples
  double top1 = 0;  ///< in [0, 1]
  [[nodiscard]] bool finite() const;
};

/// One worker's part of a step.
struct WorkerResult {
  double loss = 0;  ///< sum over the samples
  std::int64_t correct = 0;
  std::int64_t samples = 0;
};

/// What all workers' parts, in their order, amount to.
[[nodiscard]] StepResult step_result(std::span<const WorkerResult> workers);

/// A model's steps, from what each rank of its team, in their order, has of them: its own workers'
/// parts, step after step.
[[nodiscard]] std::vector<StepResult> join_steps(
    std::span<const std::span<const WorkerResult>> ranks, const models::Team& team);

/// Takes the results of one model's steps on this rank, in the order of the steps.
class TrainingLog {
 public:
  explicit TrainingLog(const std::string& name);

  /// Called by a task after each step, in the steps' order, with what this rank's workers did.
  std::function<void(std::span<const WorkerResult>)> on_step;

 private:
  friend class DataParallel;
  runtime::Tensor order_;  ///< makes the tasks that report follow each other
};

/// What a rank submits for one step: tasks that are no segment's, and messages.
struct StepCost {
  std::size_t tasks = 0;
  std::size_t sent = 0, received = 0;
  std::size_t bytes_sent = 0;
};

/// Of a rank of the placement's team, with GradientReduction::tree. `buckets` as in
/// models::Network.
[[nodiscard]] StepCost step_cost(std::span<const std::size_t> buckets,
                                 const models::Placement& placement, int rank);

/// Which of the models that are trained in turn a step is of.
struct StepPlace {
  /// The same on all ranks of the team, and another one for each of these models; below 2^16.
  int channel = 0;
  /// On GPUs its workers are pinned to those of the pieces from here on
  /// (runtime::Runtime::worker_for).
  std::size_t first_piece = 0;
  /// Steps of so many models overlap on this rank, those in different slots, 0 to `models` - 1;
  /// there must be room for them.
  std::size_t slot = 0, models = 1;
};

class DataParallel {
 public:
  /// Buffers for up to `workers` logical workers of this rank with `batch` images each, which come
  /// in `image_parts` parts, and `in_flight` steps at a time.
  DataParallel(const models::Network& network, int workers, int batch, int image_parts,
               const models::LoweringOptions& options, int in_flight,
               const models::Optimizer& optimizer,
               GradientReduction reduction = GradientReduction::tree);

  /// Makes room for steps of `models` models at a time, with `workers` of this rank's workers each.
  void reserve(std::size_t models, std::size_t workers);

  /// Adds this rank's tasks of one step of state.placement's team, with a batch for each of its
  /// workers on this rank, then waits until at most `in_flight` steps are unfinished. Throws
  /// runtime::TaskError. `state` and `log` must outlive the step, and `batches` all steps on them:
  /// sets of batches should take turns, as a step waits until the last one on the same set was
  /// reported. All ranks of the team call it, in the same order for all models they share.
  void step(models::ModelState& state, std::span<const data::Batch> batches, float learning_rate,
            TrainingLog& log, const StepPlace& place = {});

  [[nodiscard]] const models::Program& program() const { return program_; }

 private:
  /// What a model's steps work on besides it. One set of gradients is enough: the next step trains
  /// on parameters that were updated by all of them.
  struct Buffers {
    std::vector<std::vector<runtime::Tensor>> gradients;  ///< [worker on this rank][bucket]
    /// [worker on this rank], for each set of batches: a GPU meets few combinations of addresses.
    /// Made when first needed.
    std::map<const data::Batch*, std::vector<runtime::Tensor>> scores;
    /// [bucket]: partial sums from other ranks, made when first needed.
    std::vector<std::vector<std::unique_ptr<runtime::Tensor>>> received;
  };
  /// What this rank does for each bucket of a team's model.
  struct Plan {
    std::vector<std::vector<ReductionStep>> reduction;  ///< [bucket]
    bool updates_in_step = false;                       ///< in the task that trains
    int unfinished = 0;                                 ///< tasks that StarPU counts for one step
  };

  const Plan& plan(const models::Placement& placement);
  /// The gradient's sum, on the bucket's owner; where StarPU-MPI sums over ranks, this rank's part.
  const runtime::Tensor* reduce(Buffers& buffers, const models::Placement& placement,
                                std::size_t bucket, const std::vector<ReductionStep>& steps,
                                int channel, int worker);
  void spread(const models::ModelState& state, std::size_t bucket, int channel) const;
  /// The scores of those batches; new ones if there are none yet.
  [[nodiscard]] std::span<const runtime::Tensor> scores_of(Buffers& buffers,
                                                           std::span<const data::Batch> batches);
  void report(std::span<const runtime::Tensor> scores, TrainingLog& log) const;
  [[nodiscard]] bool uses_redux(const models::Team& team) const;

  int batch_;
  models::Program program_;
  const models::Optimizer& optimizer_;
  int in_flight_;
  GradientReduction reduction_;
  std::vector<std::size_t> buckets_;  ///< as in models::Network
  std::vector<Buffers> buffers_;
  std::vector<models::Lane> lanes_;
  std::vector<std::pair<models::Placement, Plan>> plans_;
  std::size_t next_lane_ = 0;
};

}  // namespace stpt
