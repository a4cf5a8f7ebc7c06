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
#include "runtime/machine.hpp"
#include "runtime/random.hpp"
#include "stpt/evaluator.hpp"
#include "stpt/json_text.hpp"
#include "stpt/lr_sets.hpp"
#include "stpt/messages.hpp"
#include "stpt/network_file.hpp"
#include "stpt/sha256.hpp"
#include "stpt/weights.hpp"

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
  std::vector<std::uint32_t> indices(test.size());
  std::iota(indices.begin(), indices.end(), 0U);
  std::vector<std::uint8_t> image(static_cast<std::size_t>(test.image_shape().elements()));
  for (const std::uint32_t index : data::evenly_spaced(indices, sampled_images))
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

int checked_iterations(const Config& config, const data::DatasetPair& data,
                       const data::Sampler& sampler, const ConfigSource& source) {
  validate_for_images(config, static_cast<std::int64_t>(data.train->size()), source);
  return static_cast<int>(
      sampler.iterations(static_cast<std::size_t>(config.training.workers),
                         static_cast<std::size_t>(config.training.batch_per_worker)));
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

std::string gibibytes(std::uint64_t bytes) {
  return format("%.1f GiB", static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0));
}

std::string checksum_of(const data::DatasetPair& data) {
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
      split(data::make_split(
          *data.train, config.data.limit,
          hold_out_images(config.data, static_cast<std::int64_t>(data.train->size())),
          config.training.seed)),
      normalization(normalization_of(config, *data.train, split.training)),
      sampler(split.training, config.training.seed),
      network(build_network(config.model, input_shape(config, *data.train, source),
                            data.train->classes(), source)),
      iterations_per_epoch(checked_iterations(config, data, sampler, source)),
      schedule(made(source, "training",
                    [&] {
                      config.stpt.alpha = pretrain_iterations(config.stpt, iterations_per_epoch);
                      return LearningRateSchedule(config.training, config.stpt,
                                                  iterations_per_epoch);
                    })),
      gpu_choice(find_gpus(source)),
      data_checksum(checksum_of(data)) {
  if (!config.model.weights.empty()) check_model_weights(source);
  check_workers();
  check_batch_norm(source);
  check_memory(source);
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
           network.activations[static_cast<std::size_t>(layer.output)].spatial() == 1;
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

models::ModelValues Experiment::initial_values() const {
  models::ModelValues values =
      models::ModelValues::initial(network, config.training.workers, config.training.seed);
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
  const std::vector<runtime::Gpu> found = runtime::find_gpus();
  GpuChoice choice =
      choose_gpus(found, wanted.gpus, most, cluster.rank_on_host(), cluster.ranks_on_host());
  if (config.runtime.require_cuda && (choice.gpus.empty() || !choice.shortage.empty())) {
    const std::string none = wanted.gpus == 0
                                 ? "is true, but STARPU_NCUDA is 0, which hides any GPU"
                                 : "is true, but no GPU was found";
    throw ConfigError(source, "runtime.require_cuda",
                      choice.shortage.empty() ? none : choice.shortage);
  }
  if (choice.gpus.empty()) {
    if (config.model.data_type != runtime::DataType::float32) {
      throw ConfigError(source, "model.data_type",
                        std::string("is ") + runtime::to_string(config.model.data_type) +
                            "; cores compute in float32 only, and " +
                            (choice.shortage.empty() ? "no GPU is used" : choice.shortage));
    }
    if (config.runtime.cpu_workers == 0 && wanted.cpu_workers == 0)
      throw ConfigError("", "STARPU_NCPU", "is 0 and no GPU is used; must be at least 1");
    return choice;
  }
  // StarPU leaves a tenth of a GPU's memory to others, and libraries take some.
  // An eighth is for images.
  const std::uint64_t memory = choice.gpus.front().memory_bytes / 20 * 14;
  const std::uint64_t models =
      (model_bytes(most_candidates()) + gradient_bytes(choice.gpus.size())) / choice.gpus.size() +
      parameter_bytes();
  if (models + activation_bytes() > memory) {
    throw ConfigError(source, "training.batch_per_worker",
                      "training needs about " + gibibytes(models + activation_bytes()) +
                          " of GPU memory, of which " + choice.gpus.front().name + " has " +
                          gibibytes(memory) +
                          "; take a smaller batch, fewer candidates or a smaller model");
  }
  const auto pieces = std::max(static_cast<std::size_t>(most_local_workers()), most_candidates());
  choice.workers_per_gpu =
      workers_per_gpu(pieces, choice.gpus.size(), memory - models, activation_bytes());
  choice.workers_per_gpu = wanted.workers_per_gpu.value_or(choice.workers_per_gpu);
  return choice;
}

std::uint64_t Experiment::pixel_bytes() const {
  return (data.train->size() + data.test->size()) *
         static_cast<std::uint64_t>(data.train->image_shape().elements());
}

bool Experiment::pixels_on_gpu() const {
  constexpr std::uint64_t most = std::uint64_t{4} << 30;
  return !gpu_choice.gpus.empty() && config.runtime.data_on_gpu &&
         config.data.format != DataFormat::image_folder && !config.data.random_resized_crop &&
         pixel_bytes() <= std::min(most, gpu_choice.gpus.front().memory_bytes / 8) &&
         data.train->image_shape().c <= static_cast<std::int64_t>(codelets::most_image_channels);
}

int Experiment::evaluation_batch() const { return std::max(32, config.training.batch_per_worker); }

std::uint64_t Experiment::parameter_bytes() const {
  std::uint64_t bytes = 0;
  for (const std::size_t elements : network.buckets) bytes += elements * sizeof(float);
  return bytes;
}

std::uint64_t Experiment::model_bytes(std::size_t candidates) const {
  // Parameters, velocity, running statistics of this rank's workers.
  const std::uint64_t state =
      2 * parameter_bytes() +
      static_cast<std::uint64_t>(most_local_workers()) * network.running_statistics * sizeof(float);
  return (candidates + 1) * state + (scores_mean() ? candidates * parameter_bytes() : 0);
}

std::uint64_t Experiment::gradient_bytes(std::size_t gpus) const {
  // One model's, or those of the replicas whose steps overlap (Pretrain::make_room). On GPUs more
  // replicas than logical workers may.
  const auto workers = static_cast<std::size_t>(most_local_workers());
  const auto in_flight = static_cast<std::size_t>(config.runtime.steps_in_flight);
  const std::size_t candidates = most_candidates();
  std::size_t sets = workers;
  if (candidates > 0 && workers_per_replica(candidates) == 1) {
    const std::size_t busy = std::max(workers, most_workers_per_gpu * gpus);
    sets = std::max(sets, std::min(candidates, in_flight * busy));
  } else if (candidates > 0) {
    sets = std::min(candidates, in_flight) * workers;
  }
  return sets * parameter_bytes();
}

std::uint64_t Experiment::evaluation_bytes(std::size_t workers) const {
  // The test set's batches and, where candidates are scored on images, those of the hold-out; of
  // two sizes, whose difference is one image.
  const bool on_gpu = !gpu_choice.gpus.empty();
  const std::uint64_t batches = Evaluator::batches_in_flight(workers, on_gpu);
  const std::uint64_t evaluators = most_candidates() > 0 ? 2 : 1;
  return 2 * evaluators * batches * static_cast<std::uint64_t>(evaluation_batch()) *
         static_cast<std::uint64_t>(network.input().elements()) * sizeof(float);
}

std::uint64_t Experiment::activation_bytes() const {
  // Forward keeps every activation; backward adds about as much again where nothing is alive for
  // long.
  std::uint64_t elements = 0;
  for (const runtime::Shape& shape : network.activations)
    elements += static_cast<std::uint64_t>(shape.elements());
  return 2 * elements * runtime::size_of(network.data_type) *
         static_cast<std::uint64_t>(config.training.batch_per_worker);
}

std::uint64_t Experiment::memory_bytes(std::size_t candidates) const {
  const auto workers = static_cast<std::uint64_t>(most_local_workers());
  const auto in_flight = static_cast<std::uint64_t>(config.runtime.steps_in_flight);
  const std::uint64_t image =
      static_cast<std::uint64_t>(network.input().elements()) * sizeof(float);
  const std::uint64_t batches = (in_flight + 1) * workers *
                                static_cast<std::uint64_t>(config.training.batch_per_worker) *
                                image;
  const int cores = config.runtime.cpu_workers > 0 ? config.runtime.cpu_workers
                                                   : runtime::Machine::detect().cores;
  auto chains = static_cast<std::uint64_t>(grain() == models::Grain::step ? cores : 2 * cores);
  auto computing = static_cast<std::size_t>(cores);
  if (!gpu_choice.gpus.empty()) {
    chains = 0;  // theirs are in their own memory
    computing = gpu_choice.gpus.size() * static_cast<std::size_t>(gpu_choice.workers_per_gpu);
  }
  const std::uint64_t cache = config.data.format == DataFormat::image_folder
                                  ? data::cache_bytes(data, cache_limit(config.data))
                                  : 0;
  const std::uint64_t copy = model_bytes(0);  // for the checkpoint, and at the end
  return model_bytes(candidates) + copy + gradient_bytes(gpu_choice.gpus.size()) + batches +
         evaluation_bytes(computing) + chains * activation_bytes() + cache;
}

std::uint64_t Experiment::memory_bytes() const { return memory_bytes(most_candidates()); }

void Experiment::check_memory(const ConfigSource& source) const {
  const std::uint64_t available =
      runtime::Machine::detect().available_bytes /
      static_cast<std::uint64_t>(runtime::Cluster::current().ranks_on_host());
  if (available == 0 || memory_bytes() <= available) return;
  if (const std::uint64_t least = memory_bytes(std::min<std::size_t>(1, most_candidates()));
      least > available) {
    throw ConfigError(
        source, "training.batch_per_worker",
        "training needs about " + gibibytes(least) + " of memory, " + gibibytes(available) +
            " are available; take fewer workers, a smaller batch" +
            (config.data.format == DataFormat::image_folder ? ", a smaller data.cache" : "") +
            " or a smaller model");
  }
  const std::uint64_t each = memory_bytes(1) - memory_bytes(std::size_t{0});
  const std::uint64_t fit = (available - memory_bytes(std::size_t{0})) / each;
  throw ConfigError(source, "stpt.candidates",
                    std::to_string(most_candidates()) + " candidates need about " +
                        gibibytes(memory_bytes()) + " of memory, " + gibibytes(available) +
                        " are available; at most " + std::to_string(fit) + " fit");
}

}  // namespace stpt
