// Times training steps: images per second through StarPU, and the runtime's overhead against the
// same kernels called in a plain loop.
//   step_bench throughput [model] [workers] [batch] [grain] [seconds]   images/s, all cores; under
//   mpirun of all ranks together; with STEP_BENCH_REDUX set, gradients are summed by StarPU-MPI
//   step_bench overhead   [model] [workers] [batch] [grain] [rounds]    StarPU on one core / plain
//   loop, interleaved
// The model is a name or a network file, *.json.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "codelets/buffers.hpp"
#include "codelets/optimizer.hpp"
#include "codelets/softmax_cross_entropy.hpp"
#include "models/zoo.hpp"
#include "runtime/cluster.hpp"
#include "runtime/random.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/config/network_file.hpp"
#include "stpt/data_parallel.hpp"

namespace {

using namespace stpt;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

models::Grain parse_grain(const std::string& name) {
  if (name == "op") return models::Grain::op;
  if (name == "block") return models::Grain::block;
  return models::Grain::step;
}

void fill(const data::Batch& batch, int classes) {
  runtime::Random random(1, 1);
  for (const runtime::Tensor& part : batch.images) {
    const runtime::HostView images(part, runtime::Access::write);
    for (float& value : images.as<float>()) value = static_cast<float>(random.normal());
  }
  const runtime::HostView labels(batch.labels, runtime::Access::write);
  for (std::int32_t& value : labels.as<std::int32_t>())
    value = static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(classes)));
}

models::Network network_of(const std::string& model) {
  const models::Shape image{1, 3, 32, 32};
  if (!model.ends_with(".json")) return models::make_network(model, image, 10);
  std::ostringstream text;
  text << std::ifstream(model).rdbuf();
  return build_network(read_json(text.str()), model, image, 10);
}

struct Bench {
  Bench(const std::string& model, int workers_, int batch_, models::Grain grain, int cpu_workers)
      : workers(workers_),
        batch(batch_),
        network(network_of(model)),
        runtime({cpu_workers, ""}),
        optimizer(network, {}, false),
        state(network, models::Team{0, runtime::Cluster::current().size(), workers}, "model"),
        data_parallel(network, local_workers(), batch, 1, {grain}, steps_in_flight, optimizer,
                      reduction()),
        log("bench") {
    models::write(state, models::ModelValues::initial(network, workers, 1));
    for (int i = 0; i < sets * local_workers(); ++i) {
      batches.emplace_back(batch, network.input(), "batch", 1, network.has_dropout());
      fill(batches.back(), network.classes);
    }
  }

  /// Those of a step; the sets take turns, as in training.
  [[nodiscard]] std::span<const data::Batch> next_batches() {
    const auto size = static_cast<std::size_t>(local_workers());
    next = (next + 1) % sets;
    return std::span(batches).subspan(static_cast<std::size_t>(next) * size, size);
  }

  [[nodiscard]] int local_workers() const {
    return models::Team{0, runtime::Cluster::current().size(), workers}.workers_on(
        runtime::Cluster::current().rank());
  }

  static GradientReduction reduction() {
    return std::getenv("STEP_BENCH_REDUX") != nullptr ? GradientReduction::redux
                                                      : GradientReduction::tree;
  }

  void starpu_steps(int count) {
    for (int i = 0; i < count; ++i) data_parallel.step(state, next_batches(), 0.01f, log);
    runtime.wait_for_all();
  }

  static constexpr int steps_in_flight = 2, sets = steps_in_flight + 1;
  int workers, batch, next = 0;
  models::Network network;
  runtime::Runtime runtime;
  models::Optimizer optimizer;
  models::ModelState state;
  DataParallel data_parallel;
  TrainingLog log;
  std::vector<data::Batch> batches;
};

int throughput(const std::string& model, int workers, int batch, const std::string& grain,
               double seconds) {
  Bench bench(model, workers, batch, parse_grain(grain), 0);
  bench.starpu_steps(2);
  std::vector<double> rates;
  const auto start = Clock::now();
  runtime::Cluster& cluster = runtime::Cluster::current();
  while (true) {
    // Ranks stop together.
    const bool more = seconds_since(start) < seconds || rates.size() < 3;
    if (!cluster.broadcast(more)) break;
    const auto round = Clock::now();
    constexpr int steps = 12;  // each round begins and ends with idle workers
    bench.starpu_steps(steps);
    rates.push_back(steps * workers * batch / seconds_since(round));
  }
  std::sort(rates.begin(), rates.end());
  if (cluster.rank() != 0) return 0;
  std::printf(
      "%s workers %d batch %d grain %s ranks %d cores %d: %.1f images/s (median of %zu, %.1f to "
      "%.1f)\n",
      model.c_str(), workers, batch, grain.c_str(), cluster.size(),
      bench.runtime.count(runtime::WorkerKind::cpu), rates[rates.size() / 2], rates.size(),
      rates.front(), rates.back());
  return 0;
}

/// One step in the calling thread, on memory of its own.
class PlainLoop {
 public:
  explicit PlainLoop(Bench& bench)
      : bench_(bench),
        lane_(bench.data_parallel.program().make_lane()),
        scratch_(runtime::bytes_spec(bench.data_parallel.program().scratch_bytes()), "scratch",
                 runtime::Home::host),
        scratch_view_(scratch_, runtime::Access::read_write) {
    for (int worker = 0; worker < bench.workers; ++worker) {
      auto& buckets = gradients_.emplace_back();
      for (const std::size_t elements : bench.network.buckets) {
        buckets.emplace_back(runtime::vector_spec(elements), "gradient", runtime::Home::host);
      }
    }
    scores_ = runtime::Tensor(
        runtime::bytes_spec(static_cast<std::size_t>(bench.batch) * sizeof(codelets::SampleScore)),
        "scores");
  }

  void step() {
    for (std::size_t worker = 0; worker < gradients_.size(); ++worker) {
      models::ProgramInputs inputs;
      inputs.images = bench_.batches[worker].images;
      inputs.labels = &bench_.batches[worker].labels;
      inputs.keys = &bench_.batches[worker].keys;
      inputs.scores = &scores_;
      inputs.parameters = &bench_.state.parameters;
      inputs.gradients = &gradients_[worker];
      if (!bench_.state.running.empty()) inputs.running = &bench_.state.running[worker];
      inputs.lane = &lane_;
      bench_.data_parallel.program().run_here(inputs, scratch_view_.as<std::byte>());
    }
    for (std::size_t bucket = 0; bucket < gradients_[0].size(); ++bucket) {
      const runtime::HostView sum(gradients_[0][bucket], runtime::Access::read_write);
      const std::size_t count = sum.as<float>().size();
      for (std::size_t worker = 1; worker < gradients_.size(); ++worker) {
        const runtime::HostView term(gradients_[worker][bucket], runtime::Access::read);
        codelets::accumulate(count, sum.as<float>().data(), term.as<float>().data(),
                             codelets::Cpu{}, nullptr);
      }
      const runtime::HostView weights(bench_.state.parameters[bucket], runtime::Access::read_write);
      const runtime::HostView moments(bench_.state.moments[bucket], runtime::Access::read_write);
      const codelets::ParameterRange whole{0, count, false};
      const codelets::UpdatedBucket updated{{&whole, 1},
                                            count,
                                            weights.as<float>().data(),
                                            moments.as<float>().data(),
                                            sum.as<float>().data()};
      codelets::optimizer_step({&updated, 1}, 1.0f / static_cast<float>(gradients_.size()), 0.01f,
                               {}, codelets::Cpu{}, nullptr);
    }
  }

 private:
  Bench& bench_;
  models::Lane lane_;
  runtime::Tensor scratch_;
  runtime::HostView scratch_view_;
  std::vector<std::vector<runtime::Tensor>> gradients_;
  runtime::Tensor scores_;
};

int overhead(const std::string& model, int workers, int batch, const std::string& grain,
             int rounds) {
  // One StarPU worker on one core, the plain loop in the main thread on the other.
  Bench bench(model, workers, batch, parse_grain(grain), 1);
  PlainLoop plain(bench);
  bench.starpu_steps(2);
  plain.step();
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    constexpr int steps = 4;
    auto start = Clock::now();
    bench.starpu_steps(steps);
    const double with = seconds_since(start);
    const runtime::WorkersPaused quiet;
    start = Clock::now();
    for (int i = 0; i < steps; ++i) plain.step();
    ratios.push_back(with / seconds_since(start));
  }
  std::sort(ratios.begin(), ratios.end());
  std::printf(
      "%s workers %d batch %d grain %s: StarPU / plain loop %.3f (median of %d rounds, %.3f to "
      "%.3f)\n",
      model.c_str(), workers, batch, grain.c_str(), ratios[ratios.size() / 2], rounds,
      ratios.front(), ratios.back());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const runtime::Cluster cluster;
  const auto argument = [&](int index, const char* otherwise) {
    return std::string(index < argc ? argv[index] : otherwise);
  };
  const std::string what = argument(1, "throughput"), model = argument(2, "resnet20");
  const int workers = std::atoi(argument(3, "2").c_str()),
            batch = std::atoi(argument(4, "64").c_str());
  const std::string grain = argument(5, "step");
  if (what == "overhead")
    return overhead(model, workers, batch, grain, std::atoi(argument(6, "15").c_str()));
  return throughput(model, workers, batch, grain, std::atof(argument(6, "10").c_str()));
}
