// What a config amounts to before any task runs: data, split, network and sizes. Everything that
// can be wrong with a run's input is found here.
#pragma once

#include <cstdint>
#include <string>

#include "codelets/optimizer.hpp"
#include "data/augmentation.hpp"
#include "data/dataset.hpp"
#include "data/sampler.hpp"
#include "data/split.hpp"
#include "models/model_state.hpp"
#include "models/network.hpp"
#include "models/program.hpp"
#include "models/team.hpp"
#include "runtime/runtime.hpp"
#include "stpt/config/config.hpp"
#include "stpt/gpu_choice.hpp"
#include "stpt/learning_rate.hpp"
#include "stpt/memory_estimate.hpp"

namespace stpt {

/// The network that the config names or describes, for images of that shape (1 x c x h x w). Throws
/// ConfigError.
[[nodiscard]] models::Network build_network(const ModelConfig& config, const runtime::Shape& input,
                                            int classes, const ConfigSource& source);

/// What the config says of the optimizer, but for its learning rate and what decays.
[[nodiscard]] codelets::OptimizerSettings optimizer_settings(const OptimizerConfig& config);

struct Experiment {
  /// Reads the data and builds the network. Throws ConfigError (with `source` as the file it
  /// names), data::DataError.
  Experiment(const Config& run_config, const ConfigSource& source);

  Config config;  ///< stpt.alpha resolved
  data::DatasetPair data;
  data::Split split;
  data::Normalization normalization;
  data::Sampler sampler;
  models::Network network;
  int iterations_per_epoch;
  LearningRateSchedule schedule;
  GpuChoice gpu_choice;       ///< of this rank
  std::string data_checksum;  ///< of the labels, some of the images and the normalization

  /// Of the model, by the seed or from model.weights. Throws ConfigError.
  [[nodiscard]] models::ModelValues initial_values() const;
  [[nodiscard]] std::int64_t global_batch() const;
  /// Pre-train happens in some epoch.
  [[nodiscard]] bool pretrains() const;
  /// Why the choice of learning rates may be a poor one; empty where nothing is to be said.
  [[nodiscard]] std::string caution() const;
  /// Candidates are scored with the mean of their parameters (option stpt.score_weights).
  [[nodiscard]] bool scores_mean() const;
  /// The most candidates of any epoch; 0 without Pre-train.
  [[nodiscard]] std::size_t most_candidates() const;
  /// Logical workers that train one of `candidates` replicas (option stpt.few_candidates).
  [[nodiscard]] int workers_per_replica(std::size_t candidates) const;
  /// Images in an iteration of one of them.
  [[nodiscard]] std::int64_t replica_batch(std::size_t candidates) const;
  /// All ranks of the job and all workers: those of Main-train.
  [[nodiscard]] models::Team team() const;
  /// Those that train replica `replica` of `candidates` in Pre-train. Ranks form as many teams of
  /// equal size as go evenly into both ranks and candidates, so that none is idle; but a replica
  /// with fewer workers than such a team has ranks stays on one rank.
  [[nodiscard]] models::Team replica_team(std::size_t replica, std::size_t candidates) const;
  /// The most workers that live on this rank at a time, Pre-train included.
  [[nodiscard]] int most_local_workers() const;
  /// Main memory that training will hold, about; of the data set only the cache of decoded images.
  [[nodiscard]] std::uint64_t memory_bytes() const;
  /// How much goes into one task (option runtime.fusion).
  [[nodiscard]] models::Grain grain() const;
  /// What training runs on, on this rank.
  [[nodiscard]] runtime::RuntimeOptions runtime_options() const;
  /// What networks are lowered for: that grain, this rank's devices, the loss scale.
  [[nodiscard]] models::LoweringOptions lowering() const;
  /// GPUs make the batches, from images in their memory (option runtime.data_on_gpu).
  [[nodiscard]] bool pixels_on_gpu() const;
  /// Training batches that running statistics are measured on for each test; 0 where the training's
  /// own are taken (option stpt.running_statistics).
  [[nodiscard]] int calibration_batches() const;
  /// Images scored by one evaluation task at most.
  [[nodiscard]] int evaluation_batch() const;

 private:
  void check_model_weights(const ConfigSource& source) const;
  void check_workers() const;
  void check_batch_norm(const ConfigSource& source) const;
  /// Finds this rank's GPUs and how many workers share one; sees that they will do.
  [[nodiscard]] GpuChoice find_gpus(const ConfigSource& source) const;
  [[nodiscard]] MemoryEstimate memory_estimate(const GpuChoice& choice) const;
};

}  // namespace stpt
