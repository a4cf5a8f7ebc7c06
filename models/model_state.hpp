// What training changes: parameters, their moments and running statistics of one model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "codelets/optimizer.hpp"
#include "models/network.hpp"
#include "models/team.hpp"
#include "runtime/tensor.hpp"

namespace stpt::models {

/// Tensors of one model. Replicas that train data-parallel share the buckets; each logical worker
/// has running statistics of its own.
struct ModelState {
  /// This rank's part of a model of `team`.
  ModelState(const Network& network, const Team& team, const std::string& name,
             codelets::UpdateRule rule = {});
  /// All of it on this rank.
  ModelState(const Network& network, int workers, const std::string& name,
             codelets::UpdateRule rule = {});

  /// Between models of one placement. Asynchronous; the tensors' dependencies order it with
  /// training steps. On GPUs the worker of piece `piece` does it (runtime::Runtime::worker_for), so
  /// the model is where it trains next.
  void copy_from(const ModelState& other, std::size_t piece = 0);
  /// moments = 0
  void reset_moments();

  Placement placement;
  // A tensor that belongs to another rank is empty.
  std::vector<runtime::Tensor> parameters;  ///< one per bucket
  std::vector<runtime::Tensor> moments;     ///< one per bucket (codelets::moment_elements)
  std::vector<runtime::Tensor> running;     ///< one per worker; empty without BatchNorm
};

/// destination = source, of one size. Asynchronous. `piece` as for ModelState::copy_from().
void copy(const runtime::Tensor& source, const runtime::Tensor& destination, std::size_t piece);

/// Host values of a ModelState: to initialise, to save, to compare.
struct ModelValues {
  std::vector<std::vector<float>> parameters, moments, running;

  [[nodiscard]] static ModelValues initial(const Network& network, int workers, std::uint64_t seed,
                                           codelets::UpdateRule rule = {});
  /// Whether they can be that network's. Parameters and moments are then in its buckets; they may
  /// come from a file whose writer had others.
  [[nodiscard]] bool arrange_for(const Network& network, int workers,
                                 codelets::UpdateRule rule = {});
};

/// Both wait for the tasks that use the state. All of what is read must be on this rank; of values
/// only this rank's are written.
[[nodiscard]] ModelValues read(const ModelState& state);
void write(ModelState& state, const ModelValues& values);

}  // namespace stpt::models
