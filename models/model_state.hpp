// What training changes: parameters, momentum and running statistics of one model.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "codelets/optimizer.hpp"
#include "models/network.hpp"
#include "runtime/tensor.hpp"

namespace stpt::models {

/// Tensors of one model. Replicas that train data-parallel share the buckets; each logical worker
/// has running statistics of its own.
struct ModelState {
  ModelState(const Network& network, int workers, const std::string& name);

  /// Asynchronous; the tensors' dependencies order it with training steps.
  void copy_from(const ModelState& other);
  /// The first `trained` workers' running statistics go to the others in turn: worker i gets those
  /// of i mod trained.
  void spread_running_statistics(std::size_t trained);
  /// velocity = 0
  void reset_velocity();

  [[nodiscard]] std::size_t bytes() const;

  std::vector<runtime::Tensor> parameters;  ///< one per bucket
  std::vector<runtime::Tensor> velocity;    ///< one per bucket
  std::vector<runtime::Tensor> running;     ///< one per worker; empty without BatchNorm
};

/// Host values of a ModelState: to initialise, to save, to compare.
struct ModelValues {
  std::vector<std::vector<float>> parameters, velocity, running;

  [[nodiscard]] static ModelValues initial(const Network& network, int workers, std::uint64_t seed);
};

/// Both wait for the tasks that use the state.
[[nodiscard]] ModelValues read(const ModelState& state);
void write(ModelState& state, const ModelValues& values);

/// destination = mean over the workers' running statistics, summed in the workers' order.
/// Asynchronous.
void average_running_statistics(std::span<const runtime::Tensor> running,
                                const runtime::Tensor& destination);

/// Which stretches of a bucket weight decay applies to, and the step itself.
class Optimizer {
 public:
  Optimizer(const Network& network, const codelets::SgdSettings& settings, bool decay_all);

  /// Updates bucket `bucket` of the state from the sum of gradients times `gradient_scale`.
  /// Asynchronous.
  void step(ModelState& state, std::size_t bucket, const runtime::Tensor& gradient,
            float gradient_scale, float learning_rate, int worker = -1, int priority = 0) const;

 private:
  struct Range {
    std::size_t offset, count;
    bool decay;
  };
  codelets::SgdSettings settings_;
  std::vector<std::vector<Range>> ranges_;  ///< per bucket
};

}  // namespace stpt::models
