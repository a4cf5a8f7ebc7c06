// Updates a model's parameters from its gradients.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "codelets/optimizer.hpp"
#include "models/model_state.hpp"
#include "models/network.hpp"
#include "runtime/task.hpp"
#include "runtime/tensor.hpp"

namespace stpt::models {

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
