#include "stpt/session.hpp"

#include <string>

#include "models/averages.hpp"
#include "runtime/cluster.hpp"

namespace stpt {
namespace {

std::optional<data::Augmentation> augmentation(const DataConfig& config) {
  if (config.crop_padding == 0 && !config.flip && !config.random_resized_crop &&
      config.crop_size == 0) {
    return std::nullopt;
  }
  return data::Augmentation{.crop_padding = config.crop_padding,
                            .padding = config.padding,
                            .flip = config.flip,
                            .alternate_flip = config.alternate_flip,
                            .random_resized_crop = config.random_resized_crop};
}

}  // namespace

Session::Session(const Experiment& run)
    : experiment(run),
      runtime(run.runtime_options()),
      optimizer(run.network, optimizer_settings(run.config.training.optimizer),
                run.config.training.optimizer.decay_all),
      train_pixels(run.pixels_on_gpu() ? data::gather_pixels(*run.data.train) : nullptr),
      train_loader(run.data.train, run.normalization, augmentation(run.config.data),
                   run.config.training.seed, run.lowering().device, train_pixels),
      plain_train_loader(run.data.train, run.normalization, std::nullopt, run.config.training.seed,
                         run.lowering().device, train_pixels),
      test_loader(run.data.test, run.normalization, std::nullopt, run.config.training.seed,
                  run.lowering().device,
                  run.pixels_on_gpu() ? data::gather_pixels(*run.data.test) : nullptr),
      current(
          std::make_unique<models::ModelState>(run.network, run.team(), "model", optimizer.rule())),
      data_parallel(run.network, run.most_local_workers(), run.config.training.batch_per_worker,
                    train_loader.parts(run.config.training.batch_per_worker), run.lowering(),
                    run.config.runtime.steps_in_flight, optimizer,
                    run.config.training.gradient_reduction),
      test(run.network, models::Mode::inference, run.lowering(), test_loader,
           data::all_indices(*run.data.test), run.evaluation_batch()) {
  const TrainingConfig& training = run.config.training;
  for (int set = 0; set <= run.config.runtime.steps_in_flight; ++set) {
    auto& batches = ring_.emplace_back();
    for (int worker = 0; worker < run.most_local_workers(); ++worker) {
      batches.emplace_back(training.batch_per_worker, run.network.input(),
                           "batch." + std::to_string(set) + "." + std::to_string(worker),
                           data_parallel.program().image_parts(), run.network.has_dropout());
    }
  }
  if (!run.network.has_batch_norm()) return;
  const auto spec = runtime::vector_spec(run.network.running_statistics);
  averaged_running = runtime::Tensor(spec, "running.average", runtime::Home::host);
  if (run.calibration_batches() == 0) return;
  calibration_.emplace(run.network, training.batch_per_worker, models::Mode::calibration,
                       run.lowering(), data_parallel.program().image_parts());
  for (int batch = 0; batch < run.calibration_batches(); ++batch) {
    calibrated_.emplace_back(spec, "running.calibrated." + std::to_string(batch),
                             runtime::Home::host);
  }
  const std::size_t lanes =
      models::lanes_in_flight(runtime.computing_workers(), !run.gpu_choice.gpus.empty());
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    calibration_lanes_.push_back(calibration_->make_lane());
  }
}

std::span<const data::Batch> Session::load(std::span<const std::uint32_t> order,
                                           std::int64_t iteration, const models::Team& team,
                                           int epoch, std::size_t first_piece) {
  const auto all = static_cast<std::size_t>(experiment.config.training.workers);
  const auto size = static_cast<std::size_t>(experiment.config.training.batch_per_worker);
  auto& batches = ring_[next_];
  next_ = (next_ + 1) % ring_.size();
  const int here = runtime::Cluster::current().rank();
  const auto first = static_cast<std::size_t>(team.first_worker(here));
  const auto count = static_cast<std::size_t>(team.workers_on(here));
  for (std::size_t worker = 0; worker < count; ++worker) {
    train_loader.submit(
        batches[worker],
        data::worker_batch(order, static_cast<std::size_t>(iteration), first + worker, all, size),
        static_cast<std::uint64_t>(epoch), runtime.worker_for(first_piece + worker));
  }
  return std::span<const data::Batch>(batches).first(count);
}

void Session::settle_running_statistics(const models::ModelState& state,
                                        const std::vector<runtime::Tensor>& parameters,
                                        std::span<const std::uint32_t> order,
                                        const runtime::Tensor& destination, int channel) {
  const models::Team& team = state.placement.team;
  std::vector<models::RunningStatisticsPart> parts;
  if (!calibration_) {
    for (int worker = 0; worker < team.workers; ++worker) {
      parts.push_back({&state.running[static_cast<std::size_t>(worker)], team.rank_of(worker)});
    }
    models::average_running_statistics(parts, destination, team, channel);
    return;
  }
  const int here = runtime::Cluster::current().rank();
  const auto size = static_cast<std::size_t>(experiment.config.training.batch_per_worker);
  const std::size_t batches = std::min(calibrated_.size(), order.size() / size);
  for (std::size_t number = 0; number < batches; ++number) {
    const int rank = team.first_rank + static_cast<int>(number) % team.ranks;
    parts.push_back({&calibrated_[number], rank});
    if (rank != here) continue;
    const data::Batch& batch = ring_[next_][0];
    next_ = (next_ + 1) % ring_.size();
    plain_train_loader.submit(batch, order.subspan(number * size, size), 0,
                              runtime.worker_for(number));
    models::ProgramInputs inputs;
    inputs.images = batch.images;
    inputs.parameters = &parameters;
    inputs.running = &calibrated_[number];
    inputs.lane = &calibration_lanes_[number % calibration_lanes_.size()];
    calibration_->submit(inputs, runtime.worker_for(number));
  }
  models::average_running_statistics(parts, destination, team, channel);
}

}  // namespace stpt
