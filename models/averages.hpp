// Means over a model's workers, and over moments of its training.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "models/model_state.hpp"
#include "models/team.hpp"
#include "runtime/tensor.hpp"

namespace stpt::models {

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

/// Mean over the workers' running statistics: the same bits as average_running_statistics().
[[nodiscard]] std::vector<float> average_running(const ModelValues& values);

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

}  // namespace stpt::models
