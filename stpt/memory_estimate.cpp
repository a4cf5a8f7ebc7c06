#include "stpt/memory_estimate.hpp"

#include <algorithm>
#include <string>

#include "codelets/conv2d.hpp"
#include "runtime/cluster.hpp"
#include "runtime/machine.hpp"
#include "stpt/evaluator.hpp"
#include "stpt/messages.hpp"

namespace stpt {
namespace {

std::string gibibytes(std::uint64_t bytes) {
  return format("%.1f GiB", static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0));
}

}  // namespace

MemoryEstimate::MemoryEstimate(const Config& config, const models::Network& network,
                               const RankSizes& sizes, const GpuChoice& gpu_choice)
    : config_(config), network_(network), sizes_(sizes), gpu_choice_(gpu_choice) {}

std::uint64_t MemoryEstimate::main_bytes(std::size_t candidates) const {
  const auto workers = static_cast<std::uint64_t>(sizes_.workers);
  const auto in_flight = static_cast<std::uint64_t>(config_.runtime.steps_in_flight);
  const std::uint64_t image =
      static_cast<std::uint64_t>(network_.input().elements()) * sizeof(float);
  const std::uint64_t batches = (in_flight + 1) * workers *
                                static_cast<std::uint64_t>(config_.training.batch_per_worker) *
                                image;
  auto computing = static_cast<std::size_t>(sizes_.cpu_workers);
  std::uint64_t activations = 0;
  if (gpu_choice_.gpus.empty()) {
    const auto lanes = std::min<std::uint64_t>(workers, models::lanes_in_flight(computing, false));
    activations = lanes * sizes_.training.lane + computing * sizes_.training.scratch;
  } else {
    computing = gpu_choice_.gpus.size() * static_cast<std::size_t>(gpu_choice_.workers_per_gpu);
  }
  const std::uint64_t copy = model_bytes(0);  // for the checkpoint, and at the end
  return model_bytes(candidates) + copy + gradient_bytes() + batches + evaluation_bytes(computing) +
         calibration_bytes(computing) + activations + sizes_.cached_image_bytes;
}

void MemoryEstimate::check_main(const ConfigSource& source) const {
  const std::uint64_t available =
      runtime::Machine::detect().available_bytes /
      static_cast<std::uint64_t>(runtime::Cluster::current().ranks_on_host());
  const std::uint64_t needed = main_bytes(sizes_.candidates);
  if (available == 0 || needed <= available) return;
  if (const std::uint64_t least = main_bytes(std::min<std::size_t>(1, sizes_.candidates));
      least > available) {
    throw ConfigError(
        source, "training.batch_per_worker",
        "training needs about " + gibibytes(least) + " of memory, " + gibibytes(available) +
            " are available; take fewer workers, a smaller batch" +
            (config_.data.format == DataFormat::image_folder ? ", a smaller data.cache" : "") +
            (gpu_choice_.gpus.empty() && sizes_.cpu_workers > 1 ? ", fewer cores (STARPU_NCPU)"
                                                                : "") +
            " or a smaller model");
  }
  const std::uint64_t each = main_bytes(1) - main_bytes(0);
  const std::uint64_t fit = (available - main_bytes(0)) / each;
  throw ConfigError(source, "stpt.candidates",
                    std::to_string(sizes_.candidates) + " candidates need about " +
                        gibibytes(needed) + " of memory, " + gibibytes(available) +
                        " are available; at most " + std::to_string(fit) + " fit");
}

void MemoryEstimate::check_gpu(const ConfigSource& source) const {
  const std::uint64_t least = gpu_model_bytes() + gpu_activation_bytes();
  if (least <= usable_gpu_bytes()) return;
  throw ConfigError(source, "training.batch_per_worker",
                    "training needs about " + gibibytes(least) + " of GPU memory, of which " +
                        gpu_choice_.gpus.front().name + " has " + gibibytes(usable_gpu_bytes()) +
                        "; take a smaller batch, fewer candidates or a smaller model");
}

int MemoryEstimate::workers_per_gpu() const {
  const std::size_t pieces = std::max(static_cast<std::size_t>(sizes_.workers), sizes_.candidates);
  return stpt::workers_per_gpu(pieces, gpu_choice_.gpus.size(),
                               usable_gpu_bytes() - gpu_model_bytes(), gpu_activation_bytes());
}

std::uint64_t MemoryEstimate::usable_gpu_bytes() const {
  // StarPU leaves a tenth of a GPU's memory to others, and libraries take some.
  // An eighth is for images.
  return gpu_choice_.gpus.front().memory_bytes / 20 * 14;
}

std::uint64_t MemoryEstimate::gpu_model_bytes() const {
  return (model_bytes(sizes_.candidates) + gradient_bytes()) / gpu_choice_.gpus.size() +
         parameter_bytes();
}

std::uint64_t MemoryEstimate::parameter_bytes() const {
  std::uint64_t bytes = 0;
  for (const std::size_t elements : network_.buckets) bytes += elements * sizeof(float);
  return bytes;
}

std::uint64_t MemoryEstimate::model_bytes(std::size_t candidates) const {
  // Parameters, their moments, running statistics of this rank's workers.
  const std::uint64_t moments =
      config_.training.optimizer.name == OptimizerName::adamw ? 2 : 1;  // of each parameter
  const std::uint64_t state =
      (1 + moments) * parameter_bytes() +
      static_cast<std::uint64_t>(sizes_.workers) * network_.running_statistics * sizeof(float);
  return (candidates + 1) * state + (sizes_.scores_mean ? candidates * parameter_bytes() : 0);
}

std::uint64_t MemoryEstimate::gradient_bytes() const {
  // One model's, or those of the replicas whose steps overlap (Pretrain::make_room). On GPUs more
  // replicas than logical workers may.
  const auto workers = static_cast<std::size_t>(sizes_.workers);
  const auto in_flight = static_cast<std::size_t>(config_.runtime.steps_in_flight);
  std::size_t sets = workers;
  if (sizes_.candidates > 0 && sizes_.workers_per_replica == 1) {
    const std::size_t busy = std::max(workers, most_workers_per_gpu * gpu_choice_.gpus.size());
    sets = std::max(sets, std::min(sizes_.candidates, in_flight * busy));
  } else if (sizes_.candidates > 0) {
    sets = std::min(sizes_.candidates, in_flight) * workers;
  }
  return sets * parameter_bytes();
}

std::uint64_t MemoryEstimate::evaluation_bytes(std::size_t workers) const {
  // The test set's batches and, where candidates are scored on images, those of the hold-out; of
  // two sizes, whose difference is one image.
  const bool on_gpu = !gpu_choice_.gpus.empty();
  const std::uint64_t batches = Evaluator::batches_in_flight(workers, on_gpu);
  const std::uint64_t evaluators = sizes_.candidates > 0 ? 2 : 1;
  const std::uint64_t images = static_cast<std::uint64_t>(sizes_.evaluation_batch) *
                               static_cast<std::uint64_t>(network_.input().elements()) *
                               sizeof(float);
  return 2 * evaluators *
         (batches * (images + sizes_.evaluation.lane) + workers * sizes_.evaluation.scratch);
}

std::uint64_t MemoryEstimate::calibration_bytes(std::size_t workers) const {
  return static_cast<std::uint64_t>(sizes_.calibration_batches) * network_.running_statistics *
             sizeof(float) +
         models::lanes_in_flight(workers, false) * sizes_.calibration.lane +
         workers * sizes_.calibration.scratch;
}

std::uint64_t MemoryEstimate::gpu_activation_bytes() const {
  // Forward keeps every activation; backward adds about as much again where nothing is alive for
  // long.
  std::uint64_t elements = 0;
  for (const runtime::Shape& shape : network_.activations)
    elements += static_cast<std::uint64_t>(shape.elements());
  if constexpr (codelets::has_cuda) {
    if (!gpu_choice_.gpus.empty()) {
      const std::int64_t channels =
          codelets::conv2d_channels(network_.input().c, network_.data_type, codelets::Cuda{});
      elements +=
          static_cast<std::uint64_t>((channels - network_.input().c) * network_.input().spatial());
    }
  }
  return 2 * elements * runtime::size_of(network_.data_type) *
         static_cast<std::uint64_t>(config_.training.batch_per_worker);
}

}  // namespace stpt
