// All that lives while tasks run: the runtime, the current model, batches, and the data-parallel
// machinery.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "data/loader.hpp"
#include "models/model_state.hpp"
#include "models/optimizer.hpp"
#include "runtime/runtime.hpp"
#include "stpt/data_parallel.hpp"
#include "stpt/evaluator.hpp"
#include "stpt/experiment.hpp"

namespace stpt {

class Session {
 public:
  explicit Session(const Experiment& experiment);

  /// Submits the loading of training iteration `iteration` (from 0, of the epoch's order) for those
  /// of the team's workers that live on this rank. The batches are good for the steps submitted
  /// before the next in_flight + 1 calls.
  /// They are made for the pieces from `first_piece` on (runtime::Runtime::worker_for).
  [[nodiscard]] std::span<const data::Batch> load(std::span<const std::uint32_t> order,
                                                  std::int64_t iteration, const models::Team& team,
                                                  int epoch, std::size_t first_piece = 0);

  /// Running statistics to evaluate `state` with (option stpt.running_statistics): the mean over
  /// its workers, or fresh ones from the first batches of `order`, of a network with these
  /// `parameters`. Written to `destination` on all ranks of the state's team, which call it with
  /// the same `channel` (models::transfer).
  void settle_running_statistics(const models::ModelState& state,
                                 const std::vector<runtime::Tensor>& parameters,
                                 std::span<const std::uint32_t> order,
                                 const runtime::Tensor& destination, int channel);

  const Experiment& experiment;
  runtime::Runtime runtime;
  models::Optimizer optimizer;
  std::shared_ptr<const runtime::Tensor> train_pixels;  ///< null where cores make batches
  data::Loader train_loader;                            ///< augments
  data::Loader plain_train_loader;                      ///< does not
  data::Loader test_loader;
  std::unique_ptr<models::ModelState> current;
  DataParallel data_parallel;
  Evaluator test;
  runtime::Tensor averaged_running;  ///< of `current`; empty without BatchNorm

 private:
  std::vector<std::vector<data::Batch>> ring_;  ///< [in flight][worker on this rank]
  std::size_t next_ = 0;
  std::optional<models::Program> calibration_;
  std::vector<runtime::Tensor> calibrated_;
  std::vector<models::Lane> calibration_lanes_;
};

}  // namespace stpt
