// What training changes: parameters, momentum and running statistics of one model.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "codelets/optimizer.hpp"
#include "models/network.hpp"
#include "models/team.hpp"
#include "runtime/message.hpp"
#include "runtime/task.hpp"
#include "runtime/tensor.hpp"

namespace stpt::models {

/// Tensors of one model. Replicas that train data-parallel share the buckets; each logical worker
/// has running statistics of its own.
struct ModelState {
  /// This rank's part of a model of `team`.
  ModelState(const Network& network, const Team& team, const std::string& name);
  /// All of it on this rank.
  ModelState(const Network& network, int workers, const std::string& name);

  /// Between models of one placement. Asynchronous; the tensors' dependencies order it with
  /// training steps. On GPUs the worker of piece `piece` does it (runtime::Runtime::worker_for), so
  /// the model is where it trains next.
  void copy_from(const ModelState& other, std::size_t piece = 0);
  /// velocity = 0
  void reset_velocity();

  Placement placement;
  // A tensor that belongs to another rank is empty.
  std::vector<runtime::Tensor> parameters;  ///< one per bucket
  std::vector<runtime::Tensor> velocity;    ///< one per bucket
  std::vector<runtime::Tensor> running;     ///< one per worker; empty without BatchNorm
};

/// Copies a model to where another one is placed: destination = source. Worker i of the destination
/// gets the running statistics of worker i mod n of the source's n. Ranks outside a placement's
/// team pass null for its model. All ranks of either team call it, with the same `channel`, which
/// tells transfers apart that may be under way at the same time (below 2^16). Asynchronous. `piece`
/// as for copy_from().
void transfer(const ModelState* source, const Placement& from, ModelState* destination,
              const Placement& to, int channel, std::size_t piece = 0);

/// The kinds of messages, and their tags: (kind, a number below 2^16, another below 2^16, a third
/// below 2^24).
enum class MessageKind { gradient = 1, parameters, velocity, running, average, redux };
[[nodiscard]] runtime::MessageTag message_tag(MessageKind kind, std::size_t a, std::size_t b,
                                              std::size_t c);

/// Host values of a ModelState: to initialise, to save, to compare.
struct ModelValues {
  std::vector<std::vector<float>> parameters, velocity, running;

  [[nodiscard]] static ModelValues initial(const Network& network, int workers, std::uint64_t seed);
  /// Whether they can be that network's. Parameters and velocity are then in its buckets; they may
  /// come from a file whose writer had others.
  [[nodiscard]] bool arrange_for(const Network& network, int workers);
  /// Mean over the workers' running statistics: the same bits as average_running_statistics.
  [[nodiscard]] std::vector<float> average_running() const;
};

/// Both wait for the tasks that use the state. All of what is read must be on this rank; of values
/// only this rank's are written.
[[nodiscard]] ModelValues read(const ModelState& state);
void write(ModelState& state, const ModelValues& values);

/// Some worker's or batch's running statistics, and the rank that has them.
struct RunningStatisticsPart {
  const runtime::Tensor* tensor = nullptr;  ///< null on other ranks
  int rank = 0;
};

/// destination = mean over the parts, summed in their order, on every rank of `team`, whose first
/// rank takes the sum. All ranks of the team call it. Asynchronous on a team of one rank, else it
/// waits for the parts. `channel` as for transfer().
void average_running_statistics(std::span<const RunningStatisticsPart> parts,
                                const runtime::Tensor& destination, const Team& team, int channel);

/// The mean of a model's parameters over several moments of its training.
class ParameterMean {
 public:
  ParameterMean(const ModelState& state, const std::string& name);

  /// Adds the parameters as the tasks submitted so far leave them: moment `number`, counted from 1,
  /// which begins anew. Asynchronous. `piece` as for ModelState::copy_from().
  void add(const ModelState& state, int number, std::size_t piece);

  /// One tensor per bucket.
  [[nodiscard]] const std::vector<runtime::Tensor>& parameters() const { return mean_; }

 private:
  std::vector<runtime::Tensor> mean_;
};

/// Which stretches of a bucket weight decay applies to, and the step itself.
class Optimizer {
 public:
  Optimizer(const Network& network, const codelets::SgdSettings& settings, bool decay_all);

  /// Updates bucket `bucket` of the state from the sum of gradients times `gradient_scale`.
  /// Asynchronous: the optimizer must outlive it.
  void step(ModelState& state, std::size_t bucket, const runtime::Tensor& gradient,
            float gradient_scale, float learning_rate, int worker = -1, int priority = 0) const;

  /// The same inside a task that has the buckets' memory.
  void step_here(std::span<const codelets::SgdBucket> buckets, float gradient_scale,
                 float learning_rate, const runtime::TaskContext& task) const;

  /// What of bucket `bucket` is updated, and how.
  [[nodiscard]] std::span<const codelets::ParameterRange> ranges(std::size_t bucket) const {
    return ranges_[bucket];
  }

 private:
  codelets::SgdSettings settings_;
  std::vector<std::vector<codelets::ParameterRange>> ranges_;  ///< per bucket
};

}  // namespace stpt::models
