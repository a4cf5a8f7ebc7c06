// Whole training steps on a GPU: through StarPU, and as one CUDA graph in a plain loop.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "codelets/cuda_graph.hpp"
#include "codelets/optimizer.hpp"
#include "codelets/softmax_cross_entropy.hpp"
#include "data/loader.hpp"
#include "runtime/random.hpp"
#include "stpt/data_parallel.hpp"
#include "tests/bench/gpu_bench.hpp"

namespace stpt::bench {
namespace {

using Clock = std::chrono::steady_clock;

/// So small that random labels do not make the model diverge.
constexpr float learning_rate = 1e-3f;
/// Directly, then captured for each of the buffers that take turns, then replayed.
constexpr int steps_in_flight = 2;  // as runtime.steps_in_flight has by default
constexpr int warm_up_steps = 6;    // each batch's graph has been captured then

/// Some number of steps that take about as long as asked for.
class Timer {
 public:
  /// steps(count) returns when they are done.
  template <class Steps>
  void run(double seconds, Steps steps) {
    count_ = static_cast<int>(std::clamp(seconds / per_step_, 1.0, 1e6));
    const auto start = Clock::now();
    steps(count_);
    elapsed_ = std::chrono::duration<double>(Clock::now() - start).count();
    per_step_ = elapsed_ / count_;
  }
  [[nodiscard]] int steps() const { return count_; }
  [[nodiscard]] double seconds() const { return elapsed_; }
  [[nodiscard]] double seconds_per_step() const { return per_step_; }

 private:
  double per_step_ = std::numeric_limits<double>::infinity();  // of the round before
  double elapsed_ = 0;
  int count_ = 0;
};

std::vector<float> random_images(std::size_t count, std::uint64_t number) {
  runtime::Random random(1, number);
  std::vector<float> images(count);
  for (float& value : images) value = static_cast<float>(random.normal());
  return images;
}

std::vector<std::int32_t> random_labels(int count, int classes) {
  runtime::Random random(2, 1);
  std::vector<std::int32_t> labels(static_cast<std::size_t>(count));
  for (std::int32_t& label : labels)
    label = static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(classes)));
  return labels;
}

template <class T>
void fill(const runtime::Tensor& tensor, const std::vector<T>& values) {
  const runtime::HostView view(tensor, runtime::Access::write);
  std::copy(values.begin(), values.end(), view.as<T>().begin());
}

// ---- Through StarPU -----------------------------------------------------------------------------

/// Models that are trained in turn on batches that take turns, as in training, but are all alike,
/// and which the GPU has after the first steps.
class Replicas {
 public:
  explicit Replicas(const Options& options)
      : network_(options.network()),
        runtime_({.cpu_workers = 1,
                  .scheduler = "",
                  .gpus = {0},
                  .workers_per_gpu = options.workers_per_gpu}),
        optimizer_(network_, {}, false),
        data_parallel_(network_, 1, options.batch, 1, options.lowering(), steps_in_flight,
                       optimizer_),
        replicas_(static_cast<std::size_t>(options.replicas)) {
    data_parallel_.reserve(replicas_.size(), 1);
    std::vector<std::vector<float>> images;  // drawing them takes longer than copying
    for (int turn = 0; turn <= steps_in_flight; ++turn) {
      const data::Batch& batch =
          batches_.emplace_back(options.batch, network_.input(), "batch", program().image_parts(),
                                network_.has_dropout());
      for (std::size_t part = 0; part < batch.images.size(); ++part) {
        const runtime::Tensor& tensor = batch.images[part];
        if (turn == 0) images.push_back(random_images(tensor.bytes() / sizeof(float), part));
        fill(tensor, images[part]);
      }
      fill(batch.labels, random_labels(options.batch, network_.classes));
    }
    for (Replica& replica : replicas_) {
      replica.state = std::make_unique<models::ModelState>(network_, 1, "replica");
      models::write(*replica.state, models::ModelValues::initial(network_, 1, 1));
      replica.log = std::make_unique<TrainingLog>("replica");
      replica.log->on_step = [&replica](std::span<const WorkerResult> workers) {
        replica.loss = step_result(workers).loss;
      };
    }
    steps(warm_up_steps);
  }

  /// That many of every replica.
  void steps(int count) {
    for (int i = 0; i < count; ++i) {
      const auto batch = std::span(batches_).subspan(next_, 1);
      next_ = (next_ + 1) % batches_.size();
      for (std::size_t k = 0; k < replicas_.size(); ++k)
        data_parallel_.step(*replicas_[k].state, batch, learning_rate, *replicas_[k].log,
                            {static_cast<int>(k) + 1, k, k, replicas_.size()});
    }
    runtime_.wait_for_all();
  }

  /// Of the step that was last; the mean over the replicas.
  [[nodiscard]] double loss() const {
    double sum = 0;
    for (const Replica& replica : replicas_) sum += replica.loss;
    return sum / static_cast<double>(replicas_.size());
  }
  [[nodiscard]] const models::Network& network() const { return network_; }
  [[nodiscard]] const models::Program& program() const { return data_parallel_.program(); }
  [[nodiscard]] const models::Optimizer& optimizer() const { return optimizer_; }

 private:
  struct Replica {
    std::unique_ptr<models::ModelState> state;
    std::unique_ptr<TrainingLog> log;
    double loss = 0;
  };

  models::Network network_;
  runtime::Runtime runtime_;
  models::Optimizer optimizer_;
  DataParallel data_parallel_;
  std::vector<data::Batch> batches_;
  std::size_t next_ = 0;
  std::vector<Replica> replicas_;
};

// ---- Without StarPU -----------------------------------------------------------------------------

/// One step on memory of its own, captured into one CUDA graph with the update.
class PlainLoop {
 public:
  explicit PlainLoop(const Replicas& replicas)
      : program_(replicas.program()),
        scratch_(program_.scratch_bytes()),
        loss_scores_(static_cast<std::size_t>(program_.batch())) {
    const models::Network& network = replicas.network();
    const int parts = program_.image_parts();
    const auto images =
        static_cast<std::size_t>(network.input().elements() * program_.batch() / parts);
    for (int part = 0; part < parts; ++part) {
      put(models::Resource::images, random_images(images, static_cast<std::uint64_t>(part)));
    }
    put(models::Resource::labels, random_labels(program_.batch(), network.classes));
    if (network.has_dropout()) {
      put(models::Resource::keys,
          std::vector<runtime::PhiloxKey>(static_cast<std::size_t>(program_.batch())));
    }
    put(models::Resource::scores, loss_scores_);
    const models::ModelValues values = models::ModelValues::initial(network, 1, 1);
    for (std::size_t bucket = 0; bucket < values.parameters.size(); ++bucket) {
      put(models::Resource::parameters, values.parameters[bucket]);
      put(models::Resource::gradients, std::vector<float>(values.parameters[bucket].size()));
      moments_.push_back(on_device(values.moments[bucket]));
    }
    if (network.has_batch_norm()) put(models::Resource::running, values.running[0]);
    for (const std::size_t bytes : program_.group_bytes())
      memory_[models::Resource::activations].emplace_back(std::max<std::size_t>(bytes, 1));
    enqueue_ = [this, &replicas] {
      program_.run_here(
          [this](models::Resource resource, int index) { return address(resource, index); },
          scratch_.address(), stream_.native());
      std::vector<codelets::UpdatedBucket> buckets;
      for (std::size_t bucket = 0; bucket < moments_.size(); ++bucket) {
        const auto at = [&](models::Resource resource) {
          return static_cast<float*>(address(resource, static_cast<int>(bucket)));
        };
        buckets.push_back(replicas.optimizer().updated(
            bucket, at(models::Resource::parameters),
            static_cast<float*>(moments_[bucket].address()), at(models::Resource::gradients)));
      }
      codelets::optimizer_step(buckets, 1 / program_.loss_scale(), learning_rate, {},
                               codelets::Cuda{}, stream_.native());
    };
    steps(warm_up_steps);
  }

  void steps(int count) {
    for (int i = 0; i < count; ++i) graphs_.run(0, 0, {}, stream_.native(), enqueue_);
    stream_.wait();
  }

  [[nodiscard]] double loss() {
    codelets::cuda::check(
        cudaMemcpy(loss_scores_.data(), address(models::Resource::scores, 0),
                   loss_scores_.size() * sizeof(codelets::SampleScore), cudaMemcpyDeviceToHost),
        "reading scores");
    double sum = 0;
    for (const codelets::SampleScore& score : loss_scores_) sum += static_cast<double>(score.loss);
    return sum / static_cast<double>(loss_scores_.size());
  }

 private:
  template <class T>
  static DeviceMemory on_device(const std::vector<T>& values) {
    const std::size_t bytes = values.size() * sizeof(T);
    DeviceMemory memory(std::max<std::size_t>(bytes, 1));
    codelets::cuda::check(
        cudaMemcpy(memory.address(), values.data(), bytes, cudaMemcpyHostToDevice),
        "copying to the GPU");
    // The stream that reads it does not wait for what is still under way.
    codelets::cuda::check(cudaDeviceSynchronize(), "copying to the GPU");
    return memory;
  }
  template <class T>
  void put(models::Resource resource, const std::vector<T>& values) {
    memory_[resource].push_back(on_device(values));
  }
  [[nodiscard]] void* address(models::Resource resource, int index) const {
    return memory_.at(resource).at(static_cast<std::size_t>(index)).address();
  }

  const models::Program& program_;
  DeviceMemory scratch_;
  std::map<models::Resource, std::vector<DeviceMemory>> memory_;
  std::vector<DeviceMemory> moments_;
  std::vector<codelets::SampleScore> loss_scores_;
  OwnStream stream_;
  std::function<void()> enqueue_;
  codelets::cuda::GraphCache graphs_;
};

double images_per_second(const Options& options, const Timer& timer) {
  return options.replicas * options.batch / timer.seconds_per_step();
}

/// Of all that a step computes: backward does forward's work twice, once for the data and once for
/// the weights, but nobody needs the images' gradient.
double flops_per_image(const models::Network& network) {
  models::Network first = network;
  std::erase_if(first.layers, [](const models::Layer& layer) { return layer.inputs[0] != 0; });
  return 3 * network.flops_per_image() - first.flops_per_image();
}

}  // namespace

int bench_step(const Options& options) {
  Replicas replicas(options);
  Timer timer;
  timer.run(options.seconds, [&](int count) { replicas.steps(count); });
  for_each_round(options, [&](double seconds) {
    timer.run(seconds, [&](int count) { replicas.steps(count); });
    JsonLine()
        .add("images_per_second", images_per_second(options, timer))
        .add("flops_per_image", flops_per_image(replicas.network()))
        .add("steps", timer.steps() * options.replicas)
        .add("seconds", timer.seconds())
        .add("loss", replicas.loss());
  });
  return 0;
}

int bench_loop(const Options& options) {
  const Replicas replicas(options);
  const runtime::WorkersPaused quiet;
  PlainLoop loop(replicas);
  Timer timer;
  timer.run(options.seconds, [&](int count) { loop.steps(count); });
  for_each_round(options, [&](double seconds) {
    timer.run(seconds, [&](int count) { loop.steps(count); });
    JsonLine()
        .add("images_per_second", options.batch / timer.seconds_per_step())
        .add("flops_per_image", flops_per_image(replicas.network()))
        .add("steps", timer.steps())
        .add("seconds", timer.seconds())
        .add("loss", loop.loss());
  });
  return 0;
}

int bench_overhead(const Options& options) {
  Options one = options;
  one.replicas = 1;
  Replicas replicas(one);
  PlainLoop loop(replicas);
  if (const double a = replicas.loss(), b = loop.loss(); a != b) {
    throw std::runtime_error(
        "StarPU's steps and the plain loop's differ: after as many, losses of " +
        std::to_string(a) + " and " + std::to_string(b));
  }
  Timer step_timer, loop_timer;
  const auto both = [&](double seconds) {
    step_timer.run(seconds / 2, [&](int count) { replicas.steps(count); });
    const runtime::WorkersPaused quiet;
    loop_timer.run(seconds / 2, [&](int count) { loop.steps(count); });
  };
  both(one.seconds);
  for_each_round(one, [&](double seconds) {
    both(seconds);
    JsonLine()
        .add("step_images_per_second", images_per_second(one, step_timer))
        .add("loop_images_per_second", images_per_second(one, loop_timer))
        .add("ratio", step_timer.seconds_per_step() / loop_timer.seconds_per_step())
        .add("step_loss", replicas.loss())
        .add("loop_loss", loop.loss());
  });
  return 0;
}

}  // namespace stpt::bench
