// The synchronous data-parallel training step (paper 2.1, Main-train) of g logical workers on one
// model:
//   each worker i:   gradient[i] = d loss(batch[i]) / d parameters
//   fixed tree:      gradient[0] = sum of gradient[0..g), pairs at distance 1, 2, 4, ...
//   each bucket:     parameters, velocity = SGD(gradient[0] / g)
// A logical worker is no device: which one runs it is the scheduler's business, and the result has
// the same bits whatever it decides.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "data/loader.hpp"
#include "models/model_state.hpp"
#include "models/program.hpp"

namespace stpt {

struct StepResult {
  std::int64_t samples = 0;
  double loss = 0;  ///< mean over the samples
  double top1 = 0;  ///< in [0, 1]
  [[nodiscard]] bool finite() const;
};

/// The results of one model's steps, in the order of the steps. Written by tasks: read it after
/// waiting.
class TrainingLog {
 public:
  explicit TrainingLog(const std::string& name);

  /// Called by a task after each step, in the steps' order.
  std::function<void(const StepResult&)> on_step;

 private:
  friend class DataParallel;
  runtime::Tensor order_;  ///< makes the tasks that report follow each other
};

class DataParallel {
 public:
  /// Buffers for `workers` logical workers with `batch` images each, and `in_flight` steps at a
  /// time.
  DataParallel(const models::Network& network, int workers, int batch, models::Grain grain,
               int in_flight, const models::Optimizer& optimizer);

  /// Adds the tasks of one step with as many workers as there are batches (at most `workers`), then
  /// waits until at most `in_flight` steps are unfinished. Throws runtime::TaskError. `state` and
  /// `log` must outlive the step.
  void step(models::ModelState& state, std::span<const data::Batch> batches, float learning_rate,
            TrainingLog& log);

  [[nodiscard]] std::size_t tasks_per_step(std::size_t workers) const;
  [[nodiscard]] const models::Program& program() const { return program_; }

 private:
  /// What one step works on besides the model.
  struct Slot {
    std::vector<std::vector<runtime::Tensor>> gradients;  ///< [worker][bucket]
    std::vector<runtime::Tensor> scores;                  ///< [worker]
  };

  void reduce(std::vector<std::vector<runtime::Tensor>>& gradients, std::size_t workers,
              std::size_t bucket) const;
  void report(const Slot& slot, std::size_t workers, TrainingLog& log) const;

  models::Program program_;
  const models::Optimizer& optimizer_;
  int in_flight_;
  std::vector<Slot> slots_;
  std::vector<models::Lane> lanes_;
  std::size_t next_slot_ = 0, next_lane_ = 0;
};

/// Bytes that a DataParallel will hold in main memory, for the check before anything is allocated.
[[nodiscard]] std::size_t gradient_bytes(const models::Network& network, int workers,
                                         int in_flight);

}  // namespace stpt
