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
  Optimizer(const Network& network, const codelets::OptimizerSettings& settings, bool decay_all);

  /// Updates bucket `bucket` of the state from the sum of gradients times `gradient_scale`.
  /// Asynchronous: the optimizer must outlive it.
  void step(ModelState& state, std::size_t bucket, const runtime::Tensor& gradient,
            float gradient_scale, float learning_rate, int worker = -1, int priority = 0) const;

  /// The same inside a task that has the buckets' memory.
  void step_here(std::span<const codelets::UpdatedBucket> buckets, float gradient_scale,
                 float learning_rate, const runtime::TaskContext& task) const;

  [[nodiscard]] codelets::UpdateRule rule() const { return settings_.rule; }
  /// What of bucket `bucket` is updated, and how, with the memory of its buffers.
  [[nodiscard]] codelets::UpdatedBucket updated(std::size_t bucket, float* weights, float* moments,
                                                const float* gradient) const {
    return {ranges_[bucket], elements_[bucket], weights, moments, gradient};
  }

 private:
  codelets::OptimizerSettings settings_;
  std::vector<std::size_t> elements_;                          ///< per bucket
  std::vector<std::vector<codelets::ParameterRange>> ranges_;  ///< per bucket
};

}  // namespace stpt::models
