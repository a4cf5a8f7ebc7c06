#include "runtime/runtime.hpp"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <thread>

#include "runtime/machine.hpp"
#include "runtime/task.hpp"
#include "tests/catch.hpp"
#include "tests/runtime/runtime_testing.hpp"

namespace stpt::runtime {
namespace {

using testing::contains;
using testing::message_of;
using testing::workers_up_to;

TEST_CASE("the runtime has the workers and the scheduler that were asked for", "[runtime]") {
  const std::string scheduler = GENERATE("eager", "lws", "dmda", "prio");
  const int wanted = GENERATE(1, 2, 8);
  const int workers = workers_up_to(wanted);
  if (workers < wanted) WARN("this StarPU was built for " << workers << " CPU workers only");
  const Runtime runtime({.cpu_workers = workers, .scheduler = scheduler});
  CHECK(runtime.count(WorkerKind::cpu) == workers);
  CHECK(runtime.scheduler() == scheduler);
  for (const Worker& worker : runtime.workers()) CHECK_FALSE(worker.name.empty());
}

TEST_CASE("more workers than cores all work", "[runtime]") {
  static const Codelet codelet("roll call", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = workers_up_to(8), .scheduler = "eager"});
  for (const Worker& worker : runtime.workers()) {
    submit(codelet, {}, [](const TaskContext&) {},
           {.worker = worker.id, .priority = 0, .footprint = 0, .name = nullptr});
  }
  CHECK_NOTHROW(runtime.wait_for_all());
}

TEST_CASE("the options win over StarPU's environment", "[runtime]") {
  setenv("STARPU_SCHED", "prio", 1);
  setenv("STARPU_NCPU", "2", 1);
  {
    const Runtime runtime({.cpu_workers = 1, .scheduler = "eager"});
    CHECK(runtime.count(WorkerKind::cpu) == 1);
    CHECK(runtime.scheduler() == "eager");
    CHECK(std::string(std::getenv("STARPU_SCHED")) == "prio");  // it is left as it was
  }
  {
    const Runtime runtime;
    CHECK(runtime.count(WorkerKind::cpu) == 2);
    CHECK(runtime.scheduler() == "prio");
  }
  unsetenv("STARPU_SCHED");
  unsetenv("STARPU_NCPU");
}

TEST_CASE("work is dealt out to the GPUs in turns", "[runtime]") {
  const auto cuda = [](int id, int gpu) { return Worker{id, WorkerKind::cuda, gpu, "CUDA"}; };
  const Worker core{0, WorkerKind::cpu, -1, "CPU"};
  CHECK(in_turns({core}).empty());
  CHECK(in_turns({core, cuda(1, 0), cuda(2, 1)}) == std::vector<int>{1, 2});
  // StarPU numbers the workers of one GPU one after the other.
  CHECK(in_turns({core, cuda(1, 0), cuda(2, 0), cuda(3, 1), cuda(4, 1)}) ==
        std::vector<int>{1, 3, 2, 4});
  CHECK(in_turns({cuda(7, 5), cuda(8, 2), cuda(9, 5)}) == std::vector<int>{8, 7, 9});
}

TEST_CASE("without GPUs the scheduler places the work", "[runtime]") {
  const Runtime runtime({.cpu_workers = 2, .scheduler = "eager"});
  CHECK(runtime.worker_for(0) == -1);
  CHECK(runtime.worker_for(3) == -1);
  CHECK(runtime.computing_workers() == 2);
}

TEST_CASE("options that cannot be had are errors that say why", "[runtime]") {
  const auto start = [](int workers, const std::string& scheduler) {
    return message_of<std::invalid_argument>(
        [&] { Runtime({.cpu_workers = workers, .scheduler = scheduler}); });
  };
  const std::string scheduler = start(1, "quickest");
  CHECK(contains(scheduler, "\"quickest\""));
  CHECK(contains(scheduler, "lws"));
  CHECK(contains(start(Runtime::most_cpu_workers() + 1, {}),
                 "at most " + std::to_string(Runtime::most_cpu_workers())));
  CHECK_FALSE(Runtime::alive());
  const Runtime runtime(
      {.cpu_workers = 1, .scheduler = {}});  // the failed ones have left nothing behind
  CHECK(runtime.count(WorkerKind::cpu) == 1);
}

TEST_CASE("there is one runtime at a time", "[runtime]") {
  CHECK_THROWS_AS(Runtime::current(), std::logic_error);
  {
    Runtime runtime({.cpu_workers = 1, .scheduler = {}});
    CHECK(&Runtime::current() == &runtime);
    CHECK_THROWS_AS(Runtime({.cpu_workers = 1, .scheduler = {}}), std::logic_error);
    CHECK(&Runtime::current() == &runtime);
  }
  CHECK_THROWS_AS(Runtime::current(), std::logic_error);
}

TEST_CASE("a codelet serves one runtime after the other", "[runtime]") {
  static const Codelet codelet("survivor", {WorkerKind::cpu});
  for (const char* scheduler : {"dmda", "eager", "dmda", "lws", "dmda"}) {
    Runtime runtime({.cpu_workers = 2, .scheduler = scheduler});
    const Tensor tensor(vector_spec(1, DataType::int32), "count", Home::host);
    for (int i = 0; i < 100; ++i) {
      submit(codelet, {{tensor, Access::read_write}},
             [](const TaskContext& task) { ++*task.buffer<std::int32_t>(0); },
             {.worker = -1,
              .priority = 0,
              .footprint = static_cast<std::uint32_t>(i % 3),
              .name = nullptr});
    }
    CHECK(HostView(tensor, Access::read).as<std::int32_t>()[0] == 100);
    CHECK_NOTHROW(runtime.wait_for_all());
  }
}

TEST_CASE("iterations can be marked and nested", "[runtime]") {
  static const Codelet codelet("iteration", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
    const IterationMark outer(epoch);
    for (std::int64_t step = 0; step < 3; ++step) {
      const IterationMark inner(step);
      submit(codelet, {}, [](const TaskContext&) {});
    }
  }
  CHECK_NOTHROW(runtime.wait_for_all());
}

TEST_CASE("paused workers leave tasks alone until they resume", "[runtime]") {
  static const Codelet codelet("paused", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Tensor tensor(vector_spec(1), "tensor", Home::host);
  std::atomic<int> done = 0;
  {
    const WorkersPaused paused;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    for (int i = 0; i < 10; ++i) submit(codelet, {}, [&done](const TaskContext&) { ++done; });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(done == 0);
    CHECK(HostView(tensor, Access::read).as<float>()[0] == 0);  // host data stay within reach
  }
  runtime.wait_for_all();
  CHECK(done == 10);
}

TEST_CASE("the number of CPU workers fits the cores and StarPU", "[runtime]") {
  const auto workers = [](int cores, int gpus, int workers_per_gpu, bool has_messages = false) {
    return default_cpu_workers({.cores = cores,
                                .gpus = gpus,
                                .workers_per_gpu = workers_per_gpu,
                                .has_messages = has_messages,
                                .most_cpu_workers = 128,
                                .most_workers = 160});
  };
  CHECK(workers(8, 0, 1) == 8);
  CHECK(workers(8, 0, 1, true) == 7);
  CHECK(workers(4, 0, 1, true) == 4);
  CHECK(workers(192, 0, 1) == 128);
  // A core for each GPU's thread and one for the submitting thread.
  CHECK(workers(16, 1, 8) == 14);
  CHECK(workers(16, 1, 8, true) == 13);
  CHECK(workers(5, 1, 1) == 3);
  CHECK(workers(4, 1, 1) == 3);
  CHECK(workers(2, 3, 1) == 1);
  CHECK(workers(1, 1, 8) == 1);
  // No more than load batches.
  CHECK(workers(64, 1, 1) == 16);
  CHECK(workers(64, 2, 1) == 32);
  // 160 workers in all.
  CHECK(workers(112, 8, 8) == 96);
  CHECK(workers(192, 8, 8) == 96);
  CHECK(workers(192, 8, 1) == 128);
  CHECK(workers(192, 16, 16) == 1);
}

TEST_CASE("control groups limit the cores by their quota", "[machine]") {
  namespace fs = std::filesystem;
  const fs::path root = fs::temp_directory_path() / ("stpt_groups_" + std::to_string(getpid()));
  fs::remove_all(root);
  const auto write = [&](const fs::path& file, const std::string& text) {
    fs::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text << "\n";
  };
  const auto cores = [&] { return cores_by_quota(root / "list", root / "groups"); };
  CHECK(cores() == std::nullopt);  // no control groups

  write("list", "0::/job/task");
  CHECK(cores() == std::nullopt);
  write("groups/job/task/cpu.max", "max 100000");
  CHECK(cores() == std::nullopt);
  write("groups/job/cpu.max", "250000 100000");
  CHECK(cores() == 3);
  write("groups/job/task/cpu.max", "50000 100000");
  CHECK(cores() == 1);
  write("groups/job/task/cpu.max", "800000 100000");
  CHECK(cores() == 3);  // the group above it allows no more
  write("groups/cpu.max", "100000 50000");
  CHECK(cores() == 2);  // as in a container, whose own group is the root

  fs::remove_all(root / "groups");
  write("list", "5:memory:/job\n4:cpu,cpuacct:/job/task\n0::/job");
  write("groups/memory/job/cpu.cfs_quota_us", "100000");
  write("groups/memory/job/cpu.cfs_period_us", "100000");
  write("groups/cpu/job/task/cpu.cfs_quota_us", "-1");
  write("groups/cpu/job/task/cpu.cfs_period_us", "100000");
  CHECK(cores() == std::nullopt);
  write("groups/cpu/job/cpu.cfs_quota_us", "350000");
  write("groups/cpu/job/cpu.cfs_period_us", "100000");
  CHECK(cores() == 4);
  write("groups/cpu/cpu.cfs_quota_us", "100001");
  write("groups/cpu/cpu.cfs_period_us", "100000");
  CHECK(cores() == 2);
  fs::remove_all(root);
}

TEST_CASE("the machine is plausible", "[machine]") {
  const Machine machine = Machine::detect();
  CHECK(machine.cores >= 1);
  CHECK(machine.cores <= static_cast<int>(std::thread::hardware_concurrency()));
  CHECK(machine.memory_bytes > std::uint64_t{256} << 20U);
  CHECK(machine.available_bytes > 0);
  CHECK(machine.available_bytes <= machine.memory_bytes);
  CHECK(contains(machine.to_string(),
                 std::to_string(machine.cores) + (machine.cores == 1 ? " core" : " cores")));
  CHECK(contains(machine.to_string(), "GiB"));
  CHECK(resident_bytes() > std::uint64_t{1} << 20U);
  CHECK(resident_bytes() < machine.memory_bytes);
}

TEST_CASE("a failure keeps its first message", "[failure]") {
  Failure failure;
  CHECK_FALSE(failure.failed());
  CHECK_NOTHROW(failure.rethrow());
  failure.record("first");
  failure.record("second");
  CHECK(failure.failed());
  CHECK(message_of<TaskError>([&] { failure.rethrow(); }) == "first");
}

TEST_CASE("a failure keeps the exception behind it", "[failure]") {
  Failure failure;
  failure.record("first", std::make_exception_ptr(std::out_of_range("cause")));
  failure.record("second", std::make_exception_ptr(std::range_error("other")));
  CHECK(message_of<TaskError>([&] { failure.rethrow(); }) == "first");
  CHECK(message_of<std::out_of_range>([&] {
          try {
            failure.rethrow();
          } catch (const TaskError& error) {
            std::rethrow_if_nested(error);
          }
        }) == "cause");
}

}  // namespace
}  // namespace stpt::runtime
