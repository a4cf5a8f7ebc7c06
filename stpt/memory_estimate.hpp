// How much memory training needs on one rank, about, before any of it is allocated. All in bytes.
// Counted is what grows with the model, the batch, the workers and the candidates, and the cache of
// decoded images; not the program with its libraries, nor the data set as loaded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "models/network.hpp"
#include "models/program.hpp"
#include "stpt/config/config.hpp"
#include "stpt/gpu_choice.hpp"

namespace stpt {

/// A program's memory, on cores.
struct ProgramBytes {
  std::uint64_t lane = 0;     ///< of each chain of its tasks
  std::uint64_t scratch = 0;  ///< of each StarPU worker
};

/// What a rank holds, and how it computes.
struct RankSizes {
  int workers = 1;                       ///< logical workers at a time, at most
  std::size_t candidates = 0;            ///< of the epoch that has most; 0 without Pre-train
  int workers_per_replica = 1;           ///< logical workers, with that many candidates
  bool scores_mean = false;              ///< a candidate keeps the mean of its parameters too
  int evaluation_batch = 1;              ///< images
  int calibration_batches = 0;           ///< whose running statistics are kept
  std::uint64_t cached_image_bytes = 0;  ///< that the cache of decoded images comes to hold
  int cpu_workers = 1;                   ///< StarPU workers on cores
  ProgramBytes training;                 ///< of a logical worker's step; on cores
  ProgramBytes evaluation;               ///< of a batch that is scored; on cores
  ProgramBytes calibration;  ///< of a batch that running statistics are measured on; on cores
};

class MemoryEstimate {
 public:
  /// Everything but `sizes` must outlive it. workers_per_gpu of `gpu_choice` may still be open:
  /// only main_bytes and check_main use it.
  MemoryEstimate(const Config& config, const models::Network& network, const RankSizes& sizes,
                 const GpuChoice& gpu_choice);

  /// Main memory, with so many candidates: all models and one more for the checkpoint, gradients,
  /// images of the steps under way and of evaluations, activations where cores compute, cache.
  [[nodiscard]] std::uint64_t main_bytes(std::size_t candidates) const;
  /// Throws ConfigError where that is more than this rank's share of what is available.
  void check_main(const ConfigSource& source) const;

  /// Throws ConfigError where a GPU has no room for even one StarPU worker.
  void check_gpu(const ConfigSource& source) const;
  /// StarPU workers that a GPU is to have: as many as there is work for and fit, one at least.
  [[nodiscard]] int workers_per_gpu() const;

 private:
  /// What training may use of a GPU's memory, whose size is that of the first.
  [[nodiscard]] std::uint64_t usable_gpu_bytes() const;
  /// What all workers of a GPU share: its part of models and gradients, parameters of one model.
  [[nodiscard]] std::uint64_t gpu_model_bytes() const;
  /// Of one model.
  [[nodiscard]] std::uint64_t parameter_bytes() const;
  /// Of the model and so many replicas.
  [[nodiscard]] std::uint64_t model_bytes(std::size_t candidates) const;
  /// Of the steps under way.
  [[nodiscard]] std::uint64_t gradient_bytes() const;
  /// Of what is scored at a time on so many StarPU workers: images and, on cores, activations.
  [[nodiscard]] std::uint64_t evaluation_bytes(std::size_t workers) const;
  /// Of running statistics that are measured anew, on so many StarPU workers.
  [[nodiscard]] std::uint64_t calibration_bytes(std::size_t workers) const;
  /// About what the activations of one worker's step take on a GPU.
  [[nodiscard]] std::uint64_t gpu_activation_bytes() const;

  const Config& config_;
  const models::Network& network_;
  const RankSizes sizes_;
  const GpuChoice& gpu_choice_;
};

}  // namespace stpt
