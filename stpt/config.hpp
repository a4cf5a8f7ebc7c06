// Everything a run file can say. Defaults are those of the member initialisers; docs/config.md describes every key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/tensor_spec.hpp"

namespace stpt {

enum class Fusion { op, block, step };
enum class Policy { stpt, fixed, step, plateau, cosine, linear, random_winner, always_one };
enum class WarmupForm { linear, constant };
enum class AnnealForm { none, linear, cosine };
enum class DataFormat { idx, synthetic };
enum class PretrainBatch { global, worker };
enum class LrScaling { none, linear, square_root };   ///< of the LR when Pre-train runs on the worker's batch
enum class ScoreSource { hold_out, training_window, validation };
enum class ScoreMetric { accuracy, loss };
enum class ScoreStatistics { batch, running };        ///< what BatchNorm uses while scoring
enum class TieRule { prefer_unchanged, none, larger };
enum class ReplicaData { same, disjoint };
enum class RunningStatistics { winner, recalibrate };
enum class MomentumAtChoice { winner, reset };
enum class MomentumForm { velocity, lr_in_velocity };
enum class Progress { kept, discarded };
enum class DriftLimit { clamp, anchor, ratio_cap };
enum class ManyCandidates { waves, reject };
enum class FewCandidates { groups, idle };

struct ModelConfig {
  std::string name = "resnet8";
  runtime::DataType data_type = runtime::DataType::float32;
};

struct SyntheticConfig {
  int classes = 10, channels = 3, height = 32, width = 32;
  int train_images = 2048, test_images = 512;
};

struct DataConfig {
  DataFormat format = DataFormat::idx;
  /// Folder with the four IDX files, plain or .gz; empty: Debian's dataset-fashion-mnist.
  std::string path;
  std::int64_t limit = 0;      ///< first so many training images, 0 = all
  std::int64_t hold_out = 2000;  ///< training images set apart to score the candidates
  int crop_padding = 2;        ///< pad by so many zero pixels and crop at random; 0 = off
  bool flip = true;            ///< mirror every other image at random
  bool normalize = true;       ///< to mean 0 and variance 1 per channel over the training images
  SyntheticConfig synthetic;
};

struct WarmupConfig {
  int epochs = 0;
  double start = 0.005;
  WarmupForm form = WarmupForm::linear;
};

struct AnnealConfig {
  AnnealForm form = AnnealForm::none;
  double fraction = 0.15;  ///< of all iterations, at the end, over which the LR goes to 0
};

struct LearningRateConfig {
  double initial = 0.1;
  Policy policy = Policy::stpt;
  WarmupConfig warmup;
  AnnealConfig anneal;
  // policy `step`
  std::vector<int> milestones;   ///< epochs (from 1) at whose start the LR is multiplied by decay_factor
  double decay_factor = 0.1;     ///< policies `step` and `plateau`
  // policy `plateau`
  int patience = 3;              ///< epochs without a better validation accuracy before the LR decays
};

struct OptimizerConfig {
  double momentum = 0.9;
  MomentumForm momentum_form = MomentumForm::velocity;
  bool nesterov = false;
  double weight_decay = 5e-4;
  bool decay_all = false;        ///< weight decay on BatchNorm parameters and biases, too
};

struct TrainingConfig {
  int epochs = 10;
  int workers = 8;               ///< n, logical data-parallel workers
  int batch_per_worker = 64;
  std::uint64_t seed = 1;
  LearningRateConfig learning_rate;
  OptimizerConfig optimizer;
};

/// One LR set from the epoch on. A set is named (docs/config.md lists the names) or given.
struct CandidateSet {
  std::string name;              ///< empty if given as a list
  std::vector<double> factors;   ///< resolved, never empty
};

struct ScheduleEntry {
  int from_epoch = 1;            ///< counted from 1
  CandidateSet candidates;
};

struct StptConfig {
  int alpha = 12;                ///< Pre-train iterations
  CandidateSet candidates;       ///< used where the schedule says nothing; default: set in config.cpp
  std::vector<ScheduleEntry> schedule;
  PretrainBatch pretrain_batch = PretrainBatch::global;
  LrScaling lr_scaling = LrScaling::none;
  ScoreSource score = ScoreSource::hold_out;
  ScoreMetric score_metric = ScoreMetric::accuracy;
  ScoreStatistics score_statistics = ScoreStatistics::batch;
  int score_window = 5;          ///< last iterations averaged when score is training_window
  TieRule tie_rule = TieRule::prefer_unchanged;
  ReplicaData replica_data = ReplicaData::same;
  RunningStatistics running_statistics = RunningStatistics::winner;
  int recalibration_batches = 10;
  MomentumAtChoice momentum = MomentumAtChoice::winner;
  Progress winner_progress = Progress::kept;
  double divergence_factor = 0;  ///< a candidate whose loss exceeds this times the start's is out; 0 = only NaN/Inf
  int max_retries = 3;           ///< when every candidate diverged: halve the base LR and retry
  DriftLimit drift_limit = DriftLimit::clamp;
  double clamp_low = 1e-4, clamp_high = 1e2;   ///< times the initial LR (clamp)
  double ratio_cap = 10;                       ///< largest change per epoch (ratio_cap)
  bool pretrain_during_warmup = false;
  ManyCandidates many_candidates = ManyCandidates::waves;
  FewCandidates few_candidates = FewCandidates::groups;
};

struct RuntimeConfig {
  Fusion fusion = Fusion::step;
  int steps_in_flight = 2;
  std::string scheduler;         ///< StarPU policy, empty: STARPU_SCHED or "lws"
  int cpu_workers = 0;           ///< StarPU workers on cores; 0: one per core (or STARPU_NCPU)
  bool checkpoint = true;        ///< after each epoch
};

struct Config {
  std::string name = "run";
  ModelConfig model;
  DataConfig data;
  TrainingConfig training;
  StptConfig stpt;
  RuntimeConfig runtime;
};

}  // namespace stpt
