// StarPU's workers on GPUs.
#include <cuda_runtime_api.h>
#include <starpu.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "runtime/runtime.hpp"
#include "runtime/task.hpp"
#include "tests/gpu.hpp"

using namespace stpt::runtime;
using stpt::testing::first_gpus;

namespace {

RuntimeOptions options(int gpus, int workers_per_gpu = 1) {
  return {.cpu_workers = 1,
          .scheduler = "",
          .gpus = first_gpus(gpus),
          .workers_per_gpu = workers_per_gpu};
}

void fill(const TaskContext& task, std::size_t index, std::size_t bytes, int value) {
  if (cudaMemsetAsync(task.buffer<void>(index), value, bytes,
                      static_cast<cudaStream_t>(task.stream)) != cudaSuccess)
    throw std::runtime_error("cudaMemsetAsync");
}

}  // namespace

TEST_CASE("GPUs get the workers that were asked for", "[cuda]") {
  NEEDS_GPUS(1);
  const int gpus = find_gpus().size() > 1 ? 2 : 1;
  for (const int workers : {1, 3}) {
    const Runtime runtime(options(gpus, workers));
    CHECK(runtime.count(WorkerKind::cuda) == gpus * workers);
    CHECK(runtime.count(WorkerKind::cpu) == 1);
    CHECK(std::ranges::find(runtime.workers(), WorkerKind::cpu, &Worker::kind)->gpu == -1);
    CHECK(runtime.computing_workers() == static_cast<std::size_t>(gpus * workers));
    std::set<int> distinct;
    for (int piece = 0; piece < gpus * workers; ++piece) {
      const int id = runtime.worker_for(static_cast<std::size_t>(piece));
      distinct.insert(id);
      CHECK(std::ranges::find(runtime.workers(), id, &Worker::id)->gpu == piece % gpus);
    }
    CHECK(distinct.size() == static_cast<std::size_t>(gpus * workers));
  }
}

TEST_CASE("Fewer workers of GPUs than were asked for are an error", "[cuda]") {
  NEEDS_GPUS(1);
  const int too_many = static_cast<int>(find_gpus().size()) + 1;
  if (too_many > Runtime::most_gpus()) return;
  CHECK_THROWS_WITH(Runtime(options(too_many)),
                    Catch::Matchers::Contains("GPU workers instead of"));
}

TEST_CASE("What is to be done at the end is done where the streams still are", "[cuda]") {
  NEEDS_GPUS(1);
  static std::atomic<int> by_workers, by_others;
  by_workers = by_others = 0;
  const auto release = [] {
    if (starpu_worker_get_id() < 0) {
      ++by_others;
    } else if (cudaStreamQuery(starpu_cuda_get_local_stream()) == cudaSuccess) {
      ++by_workers;
    }
  };
  for (const bool fails : {false, true}) {
    Runtime runtime(options(1, 2));
    runtime.at_end(release);
    runtime.at_end(release);
    if (fails) runtime.failure().record("lost");
  }
  CHECK(by_workers == 2);
  CHECK(by_others == 1);
}

TEST_CASE("With GPUs the scheduler is prio, unless it is told otherwise", "[cuda]") {
  NEEDS_GPUS(1);
  constexpr const char* name = "STARPU_SCHED";
  const stpt::testing::WithEnvironment restored(name, "eager");
  CHECK(Runtime(options(1)).scheduler() == "eager");
  RuntimeOptions asked = options(1);
  asked.scheduler = "lws";
  CHECK(Runtime(asked).scheduler() == "lws");
  unsetenv(name);
  CHECK(Runtime(options(1)).scheduler() == "prio");
  CHECK(Runtime(asked).scheduler() == "lws");
}

TEST_CASE("The runtime's GPUs are used, and the main thread and the cores are on the first",
          "[cuda]") {
  NEEDS_GPUS(2);
  static const Codelet cores("cores", {WorkerKind::cpu});
  for (const std::vector<int>& gpus : {std::vector{1}, {0}, {0, 1}}) {
    Runtime runtime({.cpu_workers = 1, .scheduler = "", .gpus = gpus, .workers_per_gpu = 1});
    const int gpu = gpus.front();
    CHECK(std::ranges::find(runtime.workers(), runtime.worker_for(0), &Worker::id)->gpu == gpu);
    int main = -1, core = -1;
    CHECK(cudaGetDevice(&main) == cudaSuccess);
    CHECK(main == gpu);
    submit(cores, {}, [&core](const TaskContext&) { cudaGetDevice(&core); });
    runtime.wait_for_all();
    CHECK(core == gpu);
  }
}

TEST_CASE("CUDA has more queues than usual, unless it is told otherwise", "[cuda]") {
  NEEDS_GPUS(1);
  constexpr const char* name = "CUDA_DEVICE_MAX_CONNECTIONS";
  const stpt::testing::WithEnvironment restored(name, "4");
  CHECK_FALSE(find_gpus().empty());
  { const Runtime runtime(options(1)); }
  CHECK(std::string(std::getenv(name)) == "4");
  unsetenv(name);
  { const Runtime runtime(options(1)); }
  CHECK(std::string(std::getenv(name)) == "32");
  unsetenv(name);
  CHECK_FALSE(find_gpus().empty());
  CHECK(std::string(std::getenv(name)) == "32");
}

TEST_CASE("What a GPU can do is done by GPUs, where the task is pinned", "[cuda]") {
  NEEDS_GPUS(1);
  const int gpus = find_gpus().size() > 1 ? 2 : 1;
  static const Codelet both("both", {WorkerKind::cpu, WorkerKind::cuda});
  static const Codelet cores("cores", {WorkerKind::cpu});
  Runtime runtime(options(gpus, 2));
  std::mutex mutex;
  std::vector<std::pair<int, int>> ran;  // wanted worker, and the one that ran it
  for (int round = 0; round < 20; ++round) {
    const int wanted = runtime.worker_for(static_cast<std::size_t>(round));
    submit(both, {},
           [&, wanted](const TaskContext& task) {
             const std::scoped_lock lock(mutex);
             ran.emplace_back(wanted, task.worker);
             if (task.kind != WorkerKind::cuda || task.stream == nullptr)
               throw std::runtime_error("not on a GPU");
           },
           {.worker = wanted});
    submit(both, {}, [&](const TaskContext& task) {
      if (task.kind != WorkerKind::cuda) throw std::runtime_error("not on a GPU");
    });
    submit(cores, {}, [&](const TaskContext& task) {
      if (task.kind != WorkerKind::cpu) throw std::runtime_error("not on a core");
    });
  }
  CHECK_NOTHROW(runtime.wait_for_all());
  CHECK(ran.size() == 20);
  for (const auto& [wanted, actual] : ran) CHECK(wanted == actual);
}

TEST_CASE("Data follow the tasks between main memory and GPUs", "[cuda]") {
  NEEDS_GPUS(1);
  const int gpus = find_gpus().size() > 1 ? 2 : 1;
  static const Codelet write("write", {WorkerKind::cuda});
  static const Codelet copy("copy", {WorkerKind::cuda});
  static const Codelet add("add on a core", {WorkerKind::cpu});
  Runtime runtime(options(gpus));
  constexpr std::size_t bytes = 1000;
  const Tensor a(bytes_spec(bytes), "a", Home::host), b(bytes_spec(bytes), "b");
  submit(write, {{a, Access::write}}, [](const TaskContext& task) { fill(task, 0, bytes, 7); },
         {.worker = runtime.worker_for(0)});
  submit(add, {{a, Access::read_write}}, [](const TaskContext& task) {
    for (std::size_t i = 0; i < bytes; ++i) task.buffer<unsigned char>(0)[i] += 1;
  });
  submit(copy, {{a, Access::read}, {b, Access::write}},
         [](const TaskContext& task) {
           cudaMemcpyAsync(task.buffer<void>(1), task.buffer<void>(0), bytes,
                           cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(task.stream));
         },
         {.worker = runtime.worker_for(1)});
  const HostView view(b, Access::read);
  CHECK(std::ranges::all_of(view.as<unsigned char>(), [](unsigned char v) { return v == 8; }));
}

TEST_CASE("What a core writes is on its way to the GPU before a task there asks for it", "[cuda]") {
  NEEDS_GPUS(1);
  static const Codelet write("write on a core", {WorkerKind::cpu});
  static const Codelet copy_on_gpu("copy on the GPU", {WorkerKind::cuda});
  Runtime runtime(options(1));
  const int worker = runtime.worker_for(0);
  const unsigned node = starpu_worker_get_memory_node(static_cast<unsigned>(worker));
  constexpr std::size_t bytes = 1 << 20;
  const Tensor fetched(bytes_spec(bytes), "fetched", Home::host),
      other(bytes_spec(bytes), "other", Home::host);
  const auto valid = [node](const Tensor& tensor) {
    int allocated = 0, up_to_date = 0, requested = 0;
    starpu_data_query_status(tensor.handle(), static_cast<int>(node), &allocated, &up_to_date,
                             &requested);
    return up_to_date != 0;
  };
  for (int round = 0; round < 3; ++round) {
    for (const Tensor* tensor : {&other, &fetched}) {
      submit(write, {{*tensor, round == 0 ? Access::write : Access::read_write}},
             [round](const TaskContext& task) {
               std::fill_n(task.buffer<unsigned char>(0), bytes, round);
             },
             {.prefetch_for = tensor == &fetched ? worker : -1});
    }
    runtime.wait_for_all();
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!valid(fetched) && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(valid(fetched));
    CHECK_FALSE(valid(other));
    const Tensor copy(bytes_spec(bytes), "copy");
    submit(copy_on_gpu, {{fetched, Access::read}, {copy, Access::write}},
           [](const TaskContext& task) {
             cudaMemcpyAsync(task.buffer<void>(1), task.buffer<void>(0), bytes,
                             cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(task.stream));
           },
           {.worker = worker});
    const HostView view(copy, Access::read);
    CHECK(std::ranges::all_of(view.as<unsigned char>(),
                              [round](unsigned char value) { return value == round; }));
  }
}

TEST_CASE("Tensors may go while they are being fetched", "[cuda]") {
  NEEDS_GPUS(1);
  static const Codelet write("write on a core", {WorkerKind::cpu});
  Runtime runtime(options(1));
  for (int round = 0; round < 200; ++round) {
    const Tensor tensor(bytes_spec(1 << 16), "short-lived", Home::host);
    for (int write_again = 0; write_again < 3; ++write_again) {
      submit(write, {{tensor, Access::write}},
             [](const TaskContext& task) { task.buffer<unsigned char>(0)[0] = 1; },
             {.prefetch_for = runtime.worker_for(0)});
    }
  }
  CHECK_NOTHROW(runtime.wait_for_all());
}

TEST_CASE("What lives in main memory is pinned", "[cuda]") {
  NEEDS_GPUS(1);
  const Runtime runtime(options(1));
  const Tensor tensor(bytes_spec(1 << 20), "pinned", Home::host);
  const HostView view(tensor, Access::read);
  cudaPointerAttributes attributes{};
  REQUIRE(cudaPointerGetAttributes(&attributes, view.as<std::byte>().data()) == cudaSuccess);
  CHECK(attributes.type == cudaMemoryTypeHost);
}

TEST_CASE("A GPU worker's tensors and scratch memory stay where they are", "[cuda]") {
  NEEDS_GPUS(1);
  static const Codelet codelet("look", {WorkerKind::cuda});
  Runtime runtime(options(1, 2));
  const Tensor scratch(bytes_spec(1 << 20), "scratch"),
      state(bytes_spec(4096), "state", Home::host), fresh(bytes_spec(4096), "fresh");
  std::mutex mutex;
  std::vector<std::set<std::vector<void*>>> seen(2);  // [piece]
  for (std::size_t round = 0; round < 50; ++round) {
    const std::size_t piece = round % 2;
    submit(codelet,
           {{scratch, Access::scratch}, {state, Access::read_write}, {fresh, Access::write}},
           [&, piece](const TaskContext& task) {
             const std::scoped_lock lock(mutex);
             seen[piece].insert({task.buffers.begin(), task.buffers.end()});
           },
           {.worker = runtime.worker_for(piece)});
    if (round % 10 == 9) runtime.wait_for_all();
  }
  runtime.wait_for_all();
  // Graphs hold addresses: others would have to be captured.
  CHECK(seen[0].size() == 1);
  CHECK(seen[1].size() == 1);
  CHECK((*seen[0].begin())[0] != (*seen[1].begin())[0]);
}

TEST_CASE("A task that fails on a GPU fails the run", "[cuda]") {
  NEEDS_GPUS(1);
  static const Codelet codelet("broken", {WorkerKind::cuda});
  Runtime runtime(options(1));
  submit(codelet, {}, [](const TaskContext&) { throw std::runtime_error("conv1 1x1: no memory"); });
  CHECK_THROWS_WITH(runtime.wait_for_all(), "broken: conv1 1x1: no memory");
}
