#include "stpt/experiment.hpp"

#include <algorithm>
#include <numeric>
#include <span>
#include <stdexcept>
#include <vector>

#include "data/cached_dataset.hpp"
#include "data/cifar.hpp"
#include "data/idx.hpp"
#include "data/image_folder.hpp"
#include "data/synthetic.hpp"
#include "models/zoo.hpp"
#include "runtime/cluster.hpp"
#include "runtime/environment.hpp"
#include "runtime/random.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/config/lr_sets.hpp"
#include "stpt/config/network_file.hpp"
#include "stpt/files/sha256.hpp"
#include "stpt/files/weights.hpp"

namespace stpt {
namespace {

std::size_t cache_limit(const DataConfig& config) {
  constexpr double gibibyte = 1024.0 * 1024.0 * 1024.0;
  return static_cast<std::size_t>(config.cache * gibibyte);
}

data::DatasetPair load(const Config& config) {
  switch (config.data.format) {
    case DataFormat::idx:
      return data::load_idx(config.data.path);
    case DataFormat::cifar10:
      return data::load_cifar10(config.data.path);
    case DataFormat::cifar100:
      return data::load_cifar100(config.data.path);
    case DataFormat::image_folder:
      return data::cached(
          data::load_image_folder(config.data.path, {config.data.image_size, config.data.resize,
                                                     config.data.bad_image_limit}),
          cache_limit(config.data));
    case DataFormat::synthetic:
      return data::make_synthetic(config.data.synthetic, config.training.seed);
  }
  throw std::logic_error("load: unknown data format");
}

/// Images of a folder that are decoded before the training: all of ImageNet would take 20 minutes.
constexpr std::size_t sampled_images = 4096;

data::Normalization normalization_of(const Config& config, const data::Dataset& train,
                                     std::span<const std::uint32_t> indices) {
  if (!config.data.normalize) {
    return data::no_normalization(static_cast<int>(train.image_shape().c));
  }
  if (config.data.format != DataFormat::image_folder) {
    return data::compute_normalization(train, indices);
  }
  // A channel's mean differs between images by about 0.2, so that of 4096 images is right to 0.003.
  return data::compute_normalization(train, data::evenly_spaced(indices, sampled_images));
}

/// Reads a sample of the test images now: that they cannot be read must not show only when the
/// first epoch has been trained. Throws DataError if too many of the sample cannot.
void check_test_images(const Config& config, const data::Dataset& test) {
  if (config.data.format != DataFormat::image_folder) return;
  std::vector<std::uint8_t> image(static_cast<std::size_t>(test.image_shape().elements()));
  for (const std::uint32_t index : data::evenly_spaced(data::all_indices(test), sampled_images))
    test.read(index, image);
}

/// Wraps what is known only once the data are there into the error that names the key.
template <class Make>
auto made(const ConfigSource& source, const char* key, Make make) {
  try {
    return make();
  } catch (const std::invalid_argument& error) {
    throw ConfigError(source, key, error.what());
  }
}

data::Split checked_split(const Config& config, const data::Dataset& train,
                          const ConfigSource& source) {
  const auto images = static_cast<std::int64_t>(train.size());
  validate_for_images(config, images, source);
  return made(source, "data.hold_out", [&] {
    return data::make_split(train, config.data.limit, hold_out_images(config.data, images),
                            config.training.seed);
  });
}

/// Of what the network sees: the data set's images, cut to data.crop_size.
runtime::Shape input_shape(const Config& config, const data::Dataset& dataset,
                           const ConfigSource& source) {
  runtime::Shape shape = dataset.image_shape();
  const int side = config.data.crop_size;
  if (side == 0) return shape;
  if (side > shape.h || side > shape.w) {
    throw ConfigError(source, "data.crop_size",
                      "is " + std::to_string(side) + "; must be at most the size of the images, " +
                          std::to_string(shape.w) + "x" + std::to_string(shape.h));
  }
  shape.h = shape.w = side;
  return shape;
}

/// Throws ConfigError where training cannot run on those GPUs, or on cores if there are none, or no
/// core could load batches.
void check_gpus(const GpuChoice& choice, const Config& config, const runtime::Environment& wanted,
                const ConfigSource& source) {
  if (config.runtime.require_cuda && (choice.gpus.empty() || !choice.shortage.empty())) {
    const std::string none = wanted.gpus == 0
                                 ? "is true, but STARPU_NCUDA is 0, which hides any GPU"
                                 : "is true, but no GPU was found";
    throw ConfigError(source, "runtime.require_cuda",
                      choice.shortage.empty() ? none : choice.shortage);
  }
  if (config.runtime.cpu_workers == 0 && wanted.cpu_workers == 0)
    throw ConfigError("", "STARPU_NCPU", "is 0, but cores load batches; must be at least 1");
  if (!choice.gpus.empty()) return;
  if (config.model.data_type != runtime::DataType::float32) {
    throw ConfigError(source, "model.data_type",
                      std::string("is ") + runtime::to_string(config.model.data_type) +
                          "; cores compute in float32 only, and " +
                          (choice.shortage.empty() ? "no GPU is used" : choice.shortage));
  }
}

std::string checksum_of(const data::DatasetPair& data, const data::Normalization& normalization) {
  Sha256 hash;
  // Labels, and pixels of images spread evenly over the set, so few that it takes no time.
  constexpr std::size_t most_bytes = std::size_t{1} << 23;
  for (const auto& set : {data.train, data.test}) {
    const runtime::Shape shape = set->image_shape();
    const std::string head = std::to_string(set->size()) + " images of " + shape.to_string() +
                             ", " + std::to_string(set->classes()) + " classes";
    hash.update(std::as_bytes(std::span(head)));
    std::vector<std::int32_t> labels(set->size());
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = set->label(i);
    hash.update(std::as_bytes(std::span(labels)));
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(shape.elements()));
    const std::size_t stride = 1 + set->size() * pixels.size() / most_bytes;
    for (std::size_t i = 0; i < set->size(); i += stride) {
      set->read(i, pixels);
      hash.update(std::as_bytes(std::span(pixels)));
    }
  }
  // All training images have a part in it, but for those of large folders.
  for (const std::vector<float>& values : {normalization.mean, normalization.stddev})
    hash.update(std::as_bytes(std::span(values)));
  return hash.hex_digest();
}

}  // namespace

models::Network build_network(const ModelConfig& config, const runtime::Shape& input, int classes,
                              const ConfigSource& source) {
  const auto build = [&] {
    const NetworkConfig& own = config.network;
    if (own.description.empty()) {
      return made(source, "model.name", [&] {
        return models::make_network(config.name, input, classes, {.zero_gamma = config.zero_gamma});
      });
    }
    return build_network(
        read_json(own.description),
        own.file.empty() ? source.of("model.network") + ": model.network" : own.file, input,
        classes);
  };
  models::Network network = build();
  network.data_type = config.data_type;
  return network;
}

Experiment::Experiment(const Config& run_config, const ConfigSource& source)
    : config(run_config),
      data(load(config)),
      split(checked_split(config, *data.train, source)),
      normalization(normalization_of(config, *data.train, split.training)),
      sampler(split.training, config.training.seed),
      network(build_network(config.model, input_shape(config, *data.train, source),
                            data.train->classes(), source)),
      iterations_per_epoch(static_cast<int>(
          sampler.iterations(static_cast<std::size_t>(config.training.workers),
                             static_cast<std::size_t>(config.training.batch_per_worker)))),
      schedule(made(source, "training",
                    [&] {
                      config.stpt.alpha = pretrain_iterations(config.stpt, iterations_per_epoch);
                      return LearningRateSchedule(config.training, config.stpt,
                                                  iterations_per_epoch);
                    })),
      gpu_choice(find_gpus(source)),
      data_checksum(checksum_of(data, normalization)) {
  if (!config.model.weights.empty()) check_model_weights(source);
  check_workers();
  check_batch_norm(source);
  memory_estimate(gpu_choice).check_main(source);
  check_test_images(config, *data.test);
}

void Experiment::check_model_weights(const ConfigSource& source) const {
  const std::vector<std::string>& new_layers = config.model.new_layers;
  if (const std::string problem = problem_with_layers(new_layers, network); !problem.empty())
    throw ConfigError(source, "model.new_layers", problem);
  check_weights(config.model.weights, network, new_layers);
}

void Experiment::check_workers() const {
  const std::string problem = runtime::reserve_problem(runtime_options());
  if (!problem.empty()) throw ConfigError("", "STARPU_RESERVE_NCPU", problem);
}

void Experiment::check_batch_norm(const ConfigSource& source) const {
  const auto single = std::ranges::find_if(network.layers, [&](const models::Layer& layer) {
    return layer.kind == models::LayerKind::batch_norm &&
           network.shape(layer.output).spatial() == 1;
  });
  if (single == network.layers.end()) return;
  const std::string reason = "is 1, but layer \"" + single->name +
                             "\", batch norm of 1x1 pixels, needs more than one image to take "
                             "statistics of; must be at least 2";
  if (config.training.batch_per_worker == 1)
    throw ConfigError(source, "training.batch_per_worker", reason);
  if (pretrains() && config.stpt.score == ScoreSource::hold_out &&
      config.stpt.score_statistics == ScoreStatistics::batch && split.hold_out.size() == 1)
    throw ConfigError(source, "data.hold_out", reason);
}

codelets::OptimizerSettings optimizer_settings(const OptimizerConfig& config) {
  codelets::OptimizerSettings settings;
  settings.momentum = static_cast<float>(config.momentum);
  settings.weight_decay = static_cast<float>(config.weight_decay);
  settings.beta2 = static_cast<float>(config.beta2);
  settings.epsilon = static_cast<float>(config.epsilon);
  // No two of them: config_rules.cpp refuses it.
  if (config.name == OptimizerName::adamw) settings.rule = codelets::UpdateRule::adamw;
  if (config.nesterov) settings.rule = codelets::UpdateRule::nesterov;
  if (config.momentum_form == MomentumForm::lr_in_velocity)
    settings.rule = codelets::UpdateRule::lr_in_velocity;
  return settings;
}

models::ModelValues Experiment::initial_values() const {
  models::ModelValues values =
      models::ModelValues::initial(network, config.training.workers, config.training.seed,
                                   optimizer_settings(config.training.optimizer).rule);
  if (!config.model.weights.empty())
    import_weights(config.model.weights, network, values, config.model.new_layers);
  return values;
}

std::int64_t Experiment::global_batch() const {
  return std::int64_t{config.training.workers} * config.training.batch_per_worker;
}

std::string Experiment::caution() const {
  // What stpt.alpha is by default, where epochs are long enough.
  constexpr int enough = 12;
  if (!pretrains() || most_candidates() < 2 || iterations_per_epoch >= enough) return "";
  return "an epoch has only " + std::to_string(iterations_per_epoch) +
         (iterations_per_epoch == 1 ? " iteration" : " iterations") +
         ", too few to compare learning rates well; lower training.workers or "
         "training.batch_per_worker (" +
         std::to_string(global_batch()) + " images an iteration now)";
}

bool Experiment::scores_mean() const {
  return config.stpt.score_weights == ScoreWeights::mean &&
         config.stpt.score != ScoreSource::training_window;
}

bool Experiment::pretrains() const {
  for (int epoch = 1; epoch <= config.training.epochs; ++epoch) {
    if (schedule.pretrains(epoch)) return true;
  }
  return false;
}

std::size_t Experiment::most_candidates() const {
  std::size_t most = 0;
  for (int epoch = 1; epoch <= config.training.epochs; ++epoch) {
    if (schedule.pretrains(epoch))
      most = std::max(most, candidates_at(config.stpt, epoch).factors.size());
  }
  return most;
}

int Experiment::workers_per_replica(std::size_t candidates) const {
  if (config.stpt.pretrain_batch == PretrainBatch::global) return config.training.workers;
  if (config.stpt.few_candidates == FewCandidates::idle) return 1;
  return std::max(1, config.training.workers / static_cast<int>(candidates));
}

std::int64_t Experiment::replica_batch(std::size_t candidates) const {
  return std::int64_t{workers_per_replica(candidates)} * config.training.batch_per_worker;
}

models::Team Experiment::team() const {
  return {0, runtime::Cluster::current().size(), config.training.workers};
}

models::Team Experiment::replica_team(std::size_t replica, std::size_t candidates) const {
  const int ranks = runtime::Cluster::current().size();
  const int number = static_cast<int>(replica);
  const int workers = workers_per_replica(candidates);
  const int teams = std::gcd(static_cast<int>(candidates), ranks);
  const int size = ranks / teams;
  if (workers < size) return {number % ranks, 1, workers};
  return {number % teams * size, size, workers};
}

int Experiment::most_local_workers() const {
  const int here = runtime::Cluster::current().rank();
  int most = team().workers_on(here);
  for (int epoch = 1; epoch <= config.training.epochs; ++epoch) {
    if (!schedule.pretrains(epoch)) continue;
    const std::size_t candidates = candidates_at(config.stpt, epoch).factors.size();
    for (std::size_t replica = 0; replica < candidates; ++replica)
      most = std::max(most, replica_team(replica, candidates).workers_on(here));
  }
  return most;
}

models::Grain Experiment::grain() const {
  switch (config.runtime.fusion) {
    case Fusion::automatic:
      break;
    case Fusion::op:
      return models::Grain::op;
    case Fusion::block:
      return models::Grain::block;
    case Fusion::step:
      return models::Grain::step;
  }
  return runtime::Cluster::current().size() > 1 ? models::Grain::block : models::Grain::step;
}

runtime::RuntimeOptions Experiment::runtime_options() const {
  return {config.runtime.cpu_workers, config.runtime.scheduler, gpu_choice.numbers(),
          gpu_choice.workers_per_gpu};
}

models::LoweringOptions Experiment::lowering() const {
  models::LoweringOptions options;
  options.grain = grain();
#ifdef STPT_HAS_CUDA
  if (!gpu_choice.gpus.empty()) options.device = codelets::Cuda{config.model.tf32};
#endif
  const bool half = config.model.data_type == runtime::DataType::float16;
  options.loss_scale =
      static_cast<float>(config.training.loss_scale > 0 ? config.training.loss_scale
                         : half                         ? 1024.0
                                                        : 1.0);
  options.label_smoothing = static_cast<float>(config.training.label_smoothing);
  return options;
}

GpuChoice Experiment::find_gpus(const ConfigSource& source) const {
  const runtime::Cluster& cluster = runtime::Cluster::current();
  const runtime::Environment wanted = runtime::Environment::read();
  const int most = codelets::has_cuda ? runtime::Runtime::most_gpus() : 0;
  GpuChoice choice = choose_gpus(runtime::find_gpus(), wanted.gpus, most, cluster.rank_on_host(),
                                 cluster.ranks_on_host());
  check_gpus(choice, config, wanted, source);
  if (choice.gpus.empty()) return choice;
  const MemoryEstimate memory = memory_estimate(choice);
  memory.check_gpu(source);
  choice.workers_per_gpu = wanted.workers_per_gpu.value_or(memory.workers_per_gpu());
  return choice;
}

MemoryEstimate Experiment::memory_estimate(const GpuChoice& choice) const {
  RankSizes sizes;
  sizes.workers = most_local_workers();
  sizes.candidates = most_candidates();
  if (sizes.candidates > 0) sizes.workers_per_replica = workers_per_replica(sizes.candidates);
  sizes.scores_mean = scores_mean();
  sizes.evaluation_batch = evaluation_batch();
  sizes.calibration_batches = calibration_batches();
  if (config.data.format == DataFormat::image_folder)
    sizes.cached_image_bytes = data::cache_bytes(data, cache_limit(config.data));
  if (choice.gpus.empty()) {
    sizes.cpu_workers = runtime::planned_cpu_workers(
        {.cpu_workers = config.runtime.cpu_workers, .scheduler = config.runtime.scheduler});
    models::LoweringOptions options;
    options.grain = grain();
    const auto bytes_of = [&](int batch, models::Mode mode) -> ProgramBytes {
      const models::Lowered program = models::lower({network, batch, mode, options, 1});
      return {program.lane_bytes(), program.scratch_bytes};
    };
    sizes.training = bytes_of(config.training.batch_per_worker, models::Mode::train);
    sizes.evaluation = bytes_of(sizes.evaluation_batch, models::Mode::inference);
    if (sizes.calibration_batches > 0)
      sizes.calibration = bytes_of(config.training.batch_per_worker, models::Mode::calibration);
  }
  return {config, network, sizes, choice};
}

std::uint64_t Experiment::memory_bytes() const {
  return memory_estimate(gpu_choice).main_bytes(most_candidates());
}

bool Experiment::pixels_on_gpu() const {
  constexpr std::uint64_t most = std::uint64_t{4} << 30;
  const std::uint64_t pixel_bytes =
      (data.train->size() + data.test->size()) *
      static_cast<std::uint64_t>(data.train->image_shape().elements());
  return !gpu_choice.gpus.empty() && config.runtime.data_on_gpu &&
         config.data.format != DataFormat::image_folder && !config.data.random_resized_crop &&
         pixel_bytes <= std::min(most, gpu_choice.gpus.front().memory_bytes / 8) &&
         data.train->image_shape().c <= static_cast<std::int64_t>(codelets::most_image_channels);
}

int Experiment::calibration_batches() const {
  if (config.stpt.running_statistics != RunningStatistics::recalibrate || !network.has_batch_norm())
    return 0;
  return std::min(config.stpt.recalibration_batches,
                  static_cast<int>(split.training.size()) / config.training.batch_per_worker);
}

int Experiment::evaluation_batch() const { return std::max(32, config.training.batch_per_worker); }

}  // namespace stpt
