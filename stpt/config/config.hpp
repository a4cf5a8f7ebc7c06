// Everything a run file can say. Defaults are those of the member initialisers; docs/config.md
// describes every key.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/augmentation.hpp"
#include "data/image_folder.hpp"
#include "data/synthetic.hpp"
#include "runtime/input_error.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt {

enum class Fusion { automatic, op, block, step };
/// Over the ranks of a job.
enum class GradientReduction { tree, redux };
enum class Policy { stpt, fixed, step, plateau, cosine, linear, random_winner, always_one };
/// Whether a Pre-train chooses the LR.
[[nodiscard]] constexpr bool chooses(Policy policy) {
  return policy == Policy::stpt || policy == Policy::random_winner || policy == Policy::always_one;
}
enum class WarmupForm { linear, constant };
enum class AnnealForm { none, linear, cosine };
enum class DataFormat { idx, cifar10, cifar100, image_folder, synthetic };
enum class PretrainBatch { global, worker };
/// Of the LR, when Pre-train runs on the worker's batch.
enum class LrScaling { none, linear, square_root };
enum class ScoreSource { hold_out, training_window, validation };
enum class ScoreMetric { accuracy, loss };
enum class ScoreWeights { mean, last };
enum class ScoreStatistics { batch, running };  ///< what BatchNorm uses while scoring
enum class TieRule { prefer_unchanged, none, larger };
enum class ReplicaData { same, disjoint };
enum class RunningStatistics { winner, recalibrate };
enum class MomentumAtChoice { winner, reset };
enum class OptimizerName { sgd, adamw };
enum class MomentumForm { velocity, lr_in_velocity };
enum class Progress { kept, discarded };
enum class DriftLimit { clamp, anchor, ratio_cap };
enum class ManyCandidates { waves, reject };
enum class FewCandidates { groups, idle };

/// A network that a person describes (docs/networks.md).
struct NetworkConfig {
  std::string description;  ///< JSON text on one line; empty: there is none
  std::string file;         ///< where it came from, for messages; not part of what it is
  friend bool operator==(const NetworkConfig& a, const NetworkConfig& b) {
    return a.description == b.description;
  }
};

struct ModelConfig {
  std::string name = "resnet8";  ///< of a model in the zoo; empty if there is a network
  NetworkConfig network;
  bool zero_gamma = false;
  std::string weights;                  ///< safetensors file with initial values; empty: He et al.
  std::vector<std::string> new_layers;  ///< those that weights are not taken for
  runtime::DataType data_type = runtime::DataType::float32;
  bool tf32 = false;  ///< with float32, on GPUs
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

struct DataConfig {
  DataFormat format = DataFormat::idx;
  /// Folder with the data set; empty for idx: Debian's dataset-fashion-mnist.
  std::string path;
  std::int64_t limit = 0;  ///< first so many training images, hold-out included; 0 = all
  /// Training images set apart to score the candidates; -1: hold_out_images() says how many.
  std::int64_t hold_out = -1;
  int image_size = 256;  ///< image_folder: side of the square images are resized to
  data::ResizeMode resize = data::ResizeMode::stretch;  ///< image_folder
  int crop_size = 0;               ///< side of what is cut out of the images; 0 = all
  double bad_image_limit = 0.001;  ///< image_folder: share of images that may be unreadable
  double cache = 2;                ///< image_folder: GiB of decoded images kept in memory
  int crop_padding = 2;            ///< pad by so many pixels and crop at random; 0 = off
  data::Padding padding = data::Padding::black;
  bool flip = true;                  ///< mirror every other image at random
  bool alternate_flip = false;       ///< mirror an image in every other epoch instead
  bool random_resized_crop = false;  ///< instead of padding and a crop of fixed size
  bool normalize = true;  ///< to mean 0 and variance 1 per channel over the training images
  data::SyntheticOptions synthetic;
  friend bool operator==(const DataConfig&, const DataConfig&) = default;
};

struct WarmupConfig {
  int epochs = 0;
  double start = 0.005;
  WarmupForm form = WarmupForm::linear;
  friend bool operator==(const WarmupConfig&, const WarmupConfig&) = default;
};

struct AnnealConfig {
  AnnealForm form = AnnealForm::linear;
  double fraction = 0.5;  ///< of what follows the warm-up, at its end, over which the LR goes to 0
  friend bool operator==(const AnnealConfig&, const AnnealConfig&) = default;
};

struct LearningRateConfig {
  double initial = 0.1;
  Policy policy = Policy::stpt;
  WarmupConfig warmup;
  AnnealConfig anneal;
  // policy `step`
  /// Epochs (from 1) at whose start the LR is multiplied by decay_factor.
  std::vector<int> milestones;
  double decay_factor = 0.1;  ///< policies `step` and `plateau`
  // policy `plateau`
  int patience = 3;  ///< epochs without a better test accuracy before the LR decays
  friend bool operator==(const LearningRateConfig&, const LearningRateConfig&) = default;
};

struct OptimizerConfig {
  OptimizerName name = OptimizerName::sgd;
  double momentum = 0.9;                                ///< adamw: beta1
  MomentumForm momentum_form = MomentumForm::velocity;  ///< sgd
  bool nesterov = false;                                ///< sgd
  double weight_decay = 5e-4;
  double beta2 = 0.999;    ///< adamw
  double epsilon = 1e-8;   ///< adamw
  bool decay_all = false;  ///< weight decay on BatchNorm parameters and biases, too
  friend bool operator==(const OptimizerConfig&, const OptimizerConfig&) = default;
};

struct TrainingConfig {
  int epochs = 10;
  int workers = 8;  ///< n, logical data-parallel workers
  int batch_per_worker = 64;
  GradientReduction gradient_reduction = GradientReduction::tree;
  double label_smoothing = 0;
  double loss_scale = 0;  ///< 0: 1024 for float16, 1 for others
  std::uint64_t seed = 1;
  LearningRateConfig learning_rate;
  OptimizerConfig optimizer;
  friend bool operator==(const TrainingConfig&, const TrainingConfig&) = default;
};

/// One LR set from the epoch on. A set is named (docs/config.md lists the names) or given.
struct CandidateSet {
  std::string name;             ///< empty if given as a list
  std::vector<double> factors;  ///< resolved, never empty
  friend bool operator==(const CandidateSet&, const CandidateSet&) = default;
};

/// The set named "refine" (lr_sets.hpp has them all).
[[nodiscard]] CandidateSet default_candidates();

struct ScheduleEntry {
  int from_epoch = 1;  ///< counted from 1
  CandidateSet candidates;
  friend bool operator==(const ScheduleEntry&, const ScheduleEntry&) = default;
};

/// The set named "search" in the epoch `first`, which finds the scale from any initial LR, "raise"
/// in the next one, which makes up for what it finds too little, and "unchanged" from then on.
[[nodiscard]] std::vector<ScheduleEntry> default_schedule(int first = 1);

struct StptConfig {
  int alpha = 0;  ///< Pre-train iterations; 0: pretrain_iterations() says how many
  CandidateSet candidates = default_candidates();  ///< used where the schedule says nothing
  std::vector<ScheduleEntry> schedule = default_schedule();
  PretrainBatch pretrain_batch = PretrainBatch::global;
  LrScaling lr_scaling = LrScaling::none;
  ScoreSource score = ScoreSource::hold_out;
  ScoreMetric score_metric = ScoreMetric::accuracy;
  ScoreWeights score_weights = ScoreWeights::mean;
  ScoreStatistics score_statistics = ScoreStatistics::batch;
  int score_window = 5;                ///< last iterations averaged when score is training_window
  TieRule tie_rule = TieRule::larger;  ///< of the default schedule; prefer_unchanged of others
  ReplicaData replica_data = ReplicaData::same;
  RunningStatistics running_statistics = RunningStatistics::winner;
  int recalibration_batches = 10;
  MomentumAtChoice momentum = MomentumAtChoice::winner;
  Progress winner_progress = Progress::kept;
  /// A candidate is out whose loss exceeds this times the larger of the start's and log(classes);
  /// 0 = only NaN/Inf.
  double divergence_factor = 4;
  int max_retries = 3;    ///< when every candidate diverged: halve the base LR and retry
  int max_collapses = 3;  ///< when an epoch's training comes to nothing: repeat it with half the LR
  DriftLimit drift_limit = DriftLimit::clamp;
  double clamp_low = 1e-4, clamp_high = 1e4;  ///< times the initial LR (clamp)
  double ratio_cap = 10;                      ///< largest change per epoch (ratio_cap)
  bool pretrain_during_warmup = false;
  ManyCandidates many_candidates = ManyCandidates::waves;
  FewCandidates few_candidates = FewCandidates::groups;
  friend bool operator==(const StptConfig&, const StptConfig&) = default;
};

struct RuntimeConfig {
  Fusion fusion = Fusion::automatic;
  int steps_in_flight = 2;
  std::string scheduler;      ///< StarPU policy, empty: STARPU_SCHED, else "lws", with GPUs "prio"
  int cpu_workers = 0;        ///< StarPU workers on cores; 0: one per core (or STARPU_NCPU)
  bool data_on_gpu = true;    ///< where they fit
  bool require_cuda = false;  ///< an error where there are fewer GPUs than STARPU_NCUDA says
  bool checkpoint = true;     ///< after each epoch
  friend bool operator==(const RuntimeConfig&, const RuntimeConfig&) = default;
};

struct Config {
  std::string name = "run";
  ModelConfig model;
  DataConfig data;
  TrainingConfig training;
  StptConfig stpt;
  RuntimeConfig runtime;
  friend bool operator==(const Config&, const Config&) = default;
};

/// Of a data set of so many, hold-out included.
[[nodiscard]] std::int64_t images_within_limit(const DataConfig& config,
                                               std::int64_t training_images);
/// data.hold_out, for a data set of so many training images. Where the config has -1: 2000, but at
/// most a tenth of those within data.limit.
[[nodiscard]] std::int64_t hold_out_images(const DataConfig& config, std::int64_t training_images);

/// alpha, for epochs of so many iterations. Where the config has 0: 8 % of them, the least and best
/// of what the paper tried (section 3.2: 200 of 2500), but at least 12 as far as there are so many.
[[nodiscard]] int pretrain_iterations(const StptConfig& config, std::int64_t iterations_per_epoch);

/// Who gave a config's values, for messages.
class ConfigSource {
 public:
  ConfigSource(std::string file = "") : file_(std::move(file)) {}
  ConfigSource(const char* file) : file_(file) {}
  /// `overridden`: the keys that overrides gave.
  ConfigSource(std::string file, std::set<std::string> overridden)
      : file_(std::move(file)), overridden_(std::move(overridden)) {}

  [[nodiscard]] const std::string& file() const { return file_; }
  /// "--set" for what an override gave, else the run file. The path may end in an index.
  [[nodiscard]] std::string of(std::string_view path) const;

 private:
  std::string file_;
  std::set<std::string> overridden_;
};

/// A run file or override that cannot be used, in one line:
/// "run.json: training.epochs: is 0; must be a whole number from 1 to 1000000".
class ConfigError : public InputError {
 public:
  /// The source and `path` are left out of the line where they are empty.
  ConfigError(const ConfigSource& source, const std::string& path, const std::string& problem);
};

struct ParsedConfig {
  Config config;
  ConfigSource source;
};

/// Reads a run file over the one that it extends, if it does (its path is taken from the folder of
/// `source_name`), then applies the overrides ("key=value", the value JSON or else a plain
/// string; errors in them name the source "--set") and validates the result. Where neither
/// candidates nor a schedule are given, the default schedule begins behind the warm-up; where they
/// are but no tie rule, it is prefer_unchanged, since `larger` would let the LR climb in a set that
/// is tried again and again; where nothing is said about the anneal, only policies that choose the
/// LR have one, and they train networks without batch norm by adamw where nothing is said about the
/// optimizer and the initial LR; adamw has defaults of its own. Throws ConfigError.
[[nodiscard]] ParsedConfig parse_run_file(std::string_view json_text,
                                          const std::string& source_name,
                                          const std::vector<std::string>& overrides = {});
/// The config alone.
[[nodiscard]] Config parse_config(std::string_view json_text, const std::string& source_name,
                                  const std::vector<std::string>& overrides = {});

/// Every key as JSON, in the order of docs/config.md; parse_config returns the same Config from it.
[[nodiscard]] std::string print_config(const Config& config);

/// A run keeps its bits when this key changes: how long it goes on, where its data lie and how many
/// unreadable images it puts up with, and where its tasks run.
[[nodiscard]] bool may_change_on_resume(std::string_view key);
/// All of them: "training.epochs, data.path and runtime.*", each within `quote`.
[[nodiscard]] std::string keys_free_on_resume(std::string_view quote = "");

/// The first key whose value differs, of those that `counts` is true for; empty if none.
[[nodiscard]] std::string first_difference(const Config& a, const Config& b,
                                           bool (*counts)(std::string_view key));

/// docs/config.md
[[nodiscard]] std::string config_documentation();

/// Checks what depends on how many training images (hold-out included) the data set has:
/// data.limit is no more, the hold-out fits, one step is filled, Pre-train fits into an epoch.
/// Throws ConfigError.
void validate_for_images(const Config& config, std::int64_t training_images,
                         const ConfigSource& source = {});

}  // namespace stpt
