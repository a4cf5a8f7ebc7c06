// What only an emulated GPU can show of training: which CUDA calls a steady step makes, and what
// happens when one fails.
#include "tests/stpt/training.hpp"

#include <cstdint>
#include <string>

#include "codelets/softmax_cross_entropy.hpp"
#include "models/zoo.hpp"
#include "stpt/data_parallel.hpp"
#include "tests/emulated_cuda/emulation.hpp"
#include "tests/gpu.hpp"

using namespace stpt;
using namespace stpt::testing;

namespace {

EmulatedCudaCounts counts() {
  EmulatedCudaCounts result{};
  emulated_cuda_counts(&result);
  return result;
}

/// A model that trains on `workers` logical workers, whose batches are there.
struct Bench {
  Bench(int gpus, int workers_per_gpu, int workers, models::Grain grain,
        const std::string& model = "resnet8", runtime::DataType type = runtime::DataType::float32)
      : network(make(model, type)),
        runtime({.cpu_workers = 1,
                 .scheduler = "",
                 .gpus = first_gpus(gpus),
                 .workers_per_gpu = workers_per_gpu}),
        optimizer(network, {}, false),
        state(network, workers, "model"),
        data_parallel(network, workers, batch, 1, {grain, codelets::Cuda{}}, 2, optimizer),
        log("bench") {
    models::write(state, models::ModelValues::initial(network, workers, 1));
    for (int worker = 0; worker < workers; ++worker) {
      batches.emplace_back(batch, network.input(), "batch");
      const runtime::HostView images(batches.back().images[0], runtime::Access::write);
      for (float& value : images.as<float>()) value = 0.5f;
      const runtime::HostView labels(batches.back().labels, runtime::Access::write);
      for (std::int32_t& value : labels.as<std::int32_t>()) value = 1;
    }
  }

  static models::Network make(const std::string& model, runtime::DataType type) {
    models::Network network = models::make_network(model, {1, 3, 8, 8}, 10);
    models::make_buckets(network, 1);  // several of them
    network.data_type = type;
    return network;
  }

  void steps(int count) {
    for (int i = 0; i < count; ++i) data_parallel.step(state, batches, 0.01f, log);
    runtime.wait_for_all();
  }

  static constexpr int batch = 4;
  models::Network network;
  runtime::Runtime runtime;
  models::Optimizer optimizer;
  models::ModelState state;
  DataParallel data_parallel;
  TrainingLog log;
  std::vector<data::Batch> batches;
};

}  // namespace

TEST_CASE("A steady step allocates nothing, waits for nothing and moves no weights", "[cuda]") {
  NEEDS_GPUS(1);
  constexpr int workers = 2, steps = 10;
  Bench bench(1, 1, workers, models::Grain::step);
  bench.steps(8);  // allocated, run once, captured for both slots
  const EmulatedCudaCounts before = counts();
  bench.steps(steps);
  const EmulatedCudaCounts after = counts();
  CHECK(after.mallocs == before.mallocs);
  CHECK(after.frees == before.frees);
  CHECK(after.synchronisations == before.synchronisations);
  CHECK(after.captures == before.captures);
  CHECK(after.graph_launches - before.graph_launches == workers * steps);
  CHECK(after.host_to_device == before.host_to_device);
  CHECK(after.unpinned == before.unpinned);
  CHECK(after.peer == before.peer);
  // Only the scores go back.
  const auto score_bytes =
      runtime::align_up(Bench::batch * sizeof(codelets::SampleScore)) * workers * steps;
  CHECK(after.device_to_host_bytes - before.device_to_host_bytes == score_bytes);
}

TEST_CASE("One worker's step is a graph and one launch that updates all", "[cuda]") {
  NEEDS_GPUS(1);
  constexpr int steps = 10;
  Bench bench(1, 1, 1, models::Grain::step);
  bench.steps(8);
  const EmulatedCudaCounts before = counts();
  bench.steps(steps);
  const EmulatedCudaCounts after = counts();
  CHECK(after.graph_launches - before.graph_launches == steps);
  CHECK(after.kernel_launches - before.kernel_launches == steps);
}

TEST_CASE("A step of ResNet-20 is few kernels", "[cuda]") {
  NEEDS_GPUS(1);
  constexpr int steps = 2;
  for (const runtime::DataType type : {runtime::DataType::float32, runtime::DataType::float16}) {
    INFO(runtime::to_string(type));
    Bench bench(1, 1, 1, models::Grain::step, "resnet20", type);
    bench.steps(4);
    const EmulatedCudaCounts before = counts();
    bench.steps(steps);
    const EmulatedCudaCounts after = counts();
    // 21 convolutions forward and backward, without the images' gradient, and 3 products.
    CHECK(after.library_calls - before.library_calls == steps * (3 * 21 - 1 + 3));
    CHECK(after.kernels_run - before.kernels_run <= steps * 138);
  }
}

TEST_CASE("A steady step on two GPUs moves each bucket to its owner and back", "[cuda]") {
  NEEDS_GPUS(2);
  constexpr int workers = 2, steps = 10;
  Bench bench(2, 1, workers, models::Grain::step);
  bench.steps(8);
  const EmulatedCudaCounts before = counts();
  bench.steps(steps);
  const EmulatedCudaCounts after = counts();
  CHECK(after.mallocs == before.mallocs);
  CHECK(after.captures == before.captures);
  CHECK(after.host_to_device == before.host_to_device);
  CHECK(after.unpinned == before.unpinned);
  // One gradient to the bucket's owner, its parameters to the other GPU.
  std::size_t bytes = 0;
  for (const std::size_t elements : bench.network.buckets)
    bytes += runtime::align_up(elements * sizeof(float));
  CHECK(after.peer_bytes - before.peer_bytes <= 2 * bytes * steps);
}

TEST_CASE("Replicas that share a GPU replay graphs of their own", "[cuda]") {
  NEEDS_GPUS(1);
  Bench bench(1, 3, 3, models::Grain::step);
  bench.steps(10);
  const EmulatedCudaCounts before = counts();
  bench.steps(6);
  const EmulatedCudaCounts after = counts();
  CHECK(after.captures == before.captures);
  CHECK(after.graph_launches - before.graph_launches == 3 * 6);
  CHECK(after.mallocs == before.mallocs);
}

TEST_CASE("Later epochs replay what the first ones captured", "[cuda]") {
  NEEDS_GPUS(1);
  const WithEnvironment gpus("STARPU_NCUDA", "1");
  const auto captures_in = [](int epochs) {
    const EmulatedCudaCounts before = counts();
    // The largest candidate diverges, so that the others' steps move up.
    train(small + Overrides{"training.epochs=" + std::to_string(epochs),
                            R"(stpt.schedule=[{"from_epoch": 1, "candidates": [200, 2, 1, 0.5]},
                                              {"from_epoch": 3, "candidates": "unchanged"}])"});
    return counts().captures - before.captures;
  };
  const auto few = captures_in(6);
  CHECK(few > 0);
  CHECK(captures_in(12) == few);
}

TEST_CASE("What threads keep of CUDA's libraries goes before the runtime ends", "[cuda]") {
  NEEDS_GPUS(2);
  static std::uint64_t handles_at_end = 0;  // as the last of those who are called sees it
  {
    Bench bench(2, 2, 4, models::Grain::step);
    const std::uint64_t planned = counts().handles;
    bench.steps(2);
    CHECK(counts().handles > planned);  // the GPUs' threads have theirs
    handles_at_end = counts().handles;
    bench.runtime.at_end([] { handles_at_end = counts().handles; });
  }
  CHECK(handles_at_end == 0);
}
