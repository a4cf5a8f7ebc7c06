#include "runtime/task.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/catch.hpp"
#include "tests/runtime/runtime_testing.hpp"

namespace stpt::runtime {
namespace {

using testing::contains;
using testing::message_of;
using testing::workers_up_to;

std::vector<Tensor> integers(std::size_t count, Home home = Home::host) {
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < count; ++i) {
    tensors.emplace_back(vector_spec(1, DataType::int32), "integer" + std::to_string(i), home);
  }
  return tensors;
}

std::int32_t value_of(const Tensor& tensor) {
  return HostView(tensor, Access::read).as<std::int32_t>()[0];
}

TEST_CASE("tasks on one tensor run as if in the order of their submission", "[task]") {
  static const Codelet codelet("step", {WorkerKind::cpu});
  const std::string scheduler = GENERATE("eager", "lws", "dmda");
  const int workers = GENERATE(1, 2, 8);
  Runtime runtime({.cpu_workers = workers_up_to(workers), .scheduler = scheduler});
  CAPTURE(scheduler, workers);
  const auto tensors = integers(2);
  // x = 3 x + i and y = sum of the x in between: any other order yields other numbers.
  std::uint32_t x = 0, y = 0;
  for (std::uint32_t i = 1; i <= 300; ++i) {
    submit(codelet, {{tensors[0], Access::read_write}}, [i](const TaskContext& task) {
      auto& value = *task.buffer<std::uint32_t>(0);
      value = 3 * value + i;
    });
    submit(codelet, {{tensors[0], Access::read}, {tensors[1], Access::read_write}},
           [](const TaskContext& task) {
             *task.buffer<std::uint32_t>(1) += *task.buffer<std::uint32_t>(0);
           });
    x = 3 * x + i;
    y += x;
  }
  runtime.wait_for_all();
  CHECK(static_cast<std::uint32_t>(value_of(tensors[0])) == x);
  CHECK(static_cast<std::uint32_t>(value_of(tensors[1])) == y);
}

TEST_CASE("readers run together, a writer alone", "[task]") {
  static const Codelet codelet("reader", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 2, .scheduler = "eager"});
  const auto tensors = integers(1);
  std::atomic<int> inside = 0, most = 0;
  const auto body = [&](const TaskContext&) {
    most = std::max(most.load(), ++inside);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    --inside;
  };
  for (int i = 0; i < 6; ++i) submit(codelet, {{tensors[0], Access::read_write}}, body);
  runtime.wait_for_all();
  CHECK(most == 1);
  for (int i = 0; i < 6; ++i) submit(codelet, {{tensors[0], Access::read}}, body);
  runtime.wait_for_all();
  CHECK(most == 2);
}

TEST_CASE("a task's buffers come in order, aligned, whatever their number", "[task]") {
  static const Codelet codelet("many", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const std::size_t count = GENERATE(0U, 1U, 7U, 8U, 9U, 16U, 17U, 40U);
  const Home home = GENERATE(Home::none, Home::host);
  CAPTURE(count);
  const auto tensors = integers(count, home);
  std::vector<Use> uses;
  for (const Tensor& tensor : tensors) uses.push_back({tensor, Access::write});
  std::atomic<bool> aligned = true;
  std::size_t seen = 0;
  submit(codelet, uses, [&](const TaskContext& task) {
    seen = task.buffers.size();
    CHECK(task.kind == WorkerKind::cpu);
    CHECK(task.stream == nullptr);
    for (std::size_t i = 0; i < task.buffers.size(); ++i) {
      aligned =
          aligned && reinterpret_cast<std::uintptr_t>(task.buffers[i]) % tensor_alignment == 0;
      *task.buffer<std::int32_t>(i) = static_cast<std::int32_t>(i);
    }
  });
  runtime.wait_for_all();
  CHECK(seen == count);
  CHECK(aligned);
  for (std::size_t i = 0; i < count; ++i)
    CHECK(value_of(tensors[i]) == static_cast<std::int32_t>(i));
}

TEST_CASE("scratch memory is aligned and each running task's own", "[task]") {
  static const Codelet codelet("scratch", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = workers_up_to(4), .scheduler = {}});
  const std::size_t count =
      GENERATE(std::size_t{1}, std::size_t{999}, std::size_t{100001}, std::size_t{3000000});
  const Tensor scratch(vector_spec(count, DataType::int32), "scratch");
  std::atomic<bool> aligned = true, own = true;
  for (int number = 0; number < 40; ++number) {
    submit(codelet, {{scratch, Access::scratch}}, [&, number](const TaskContext& task) {
      auto* memory = task.buffer<std::int32_t>(0);
      aligned = aligned && reinterpret_cast<std::uintptr_t>(memory) % tensor_alignment == 0;
      memory[0] = memory[count - 1] = number;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      own = own && memory[0] == number && memory[count - 1] == number;
    });
  }
  runtime.wait_for_all();
  CHECK(aligned);
  CHECK(own);
}

TEST_CASE("a pinned task runs where it is told", "[task]") {
  static const Codelet codelet("pinned", {WorkerKind::cpu});
  const std::string scheduler = GENERATE("eager", "lws", "dmda");
  Runtime runtime({.cpu_workers = workers_up_to(3), .scheduler = scheduler});
  std::atomic<int> wrong = 0;
  for (const Worker& worker : runtime.workers()) {
    for (int i = 0; i < 10; ++i) {
      submit(
          codelet, {},
          [&wrong, id = worker.id](const TaskContext& task) { wrong += task.worker != id ? 1 : 0; },
          {.worker = worker.id, .priority = 0, .footprint = 0, .name = nullptr});
    }
  }
  runtime.wait_for_all();
  CHECK(wrong == 0);
  const int beyond = static_cast<int>(runtime.workers().size());
  CHECK_THROWS_AS(submit(codelet, {}, [](const TaskContext&) {},
                         {.worker = beyond, .priority = 0, .footprint = 0, .name = nullptr}),
                  std::logic_error);
}

TEST_CASE("of the ready tasks the one with the highest priority goes first", "[task]") {
  static const Codelet codelet("priority", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 1, .scheduler = "prio"});
  std::atomic<bool> open = false;
  submit(codelet, {}, [&open](const TaskContext&) {
    while (!open) std::this_thread::yield();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until the worker has it
  std::vector<int> order;
  for (const int priority : {0, 2, 1, 2, 0}) {
    submit(codelet, {}, [&order, priority](const TaskContext&) { order.push_back(priority); },
           {.worker = -1, .priority = priority, .footprint = 0, .name = nullptr});
  }
  open = true;
  runtime.wait_for_all();
  CHECK(order == std::vector<int>{2, 2, 1, 0, 0});
}

TEST_CASE("a task's body is gone when the task is done", "[task]") {
  static const Codelet codelet("keeper", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const auto token = std::make_shared<int>(0);
  for (int i = 0; i < 100; ++i) submit(codelet, {}, [token](const TaskContext&) {});
  runtime.wait_for_all();
  CHECK(token.use_count() == 1);
}

TEST_CASE("the first failure is kept, names its codelet and stops the bodies after it", "[task]") {
  static const Codelet fine("fine", {WorkerKind::cpu});
  static const Codelet broken("broken", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const auto tensors = integers(1);
  const auto token = std::make_shared<int>(0);
  const Use use{tensors[0], Access::read_write};
  std::atomic<int> before = 0, after = 0;
  submit(fine, {use}, [&before, token](const TaskContext&) { ++before; });
  submit(broken, {use}, [token](const TaskContext&) { throw std::runtime_error("no luck"); });
  submit(fine, {use}, [&after, token](const TaskContext&) { ++after; });
  submit(broken, {use}, [token](const TaskContext&) { throw std::runtime_error("again"); });
  CHECK(message_of<TaskError>([&] { runtime.wait_for_all(); }) == "broken: no luck");
  CHECK(before == 1);
  CHECK(after == 0);
  CHECK(token.use_count() == 1);
  CHECK(message_of<TaskError>([&] { runtime.wait_until_at_most(3); }) == "broken: no luck");
}

TEST_CASE("what is no std::exception is a failure too", "[task]") {
  static const Codelet codelet("odd", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  submit(codelet, {}, [](const TaskContext&) { throw 42; });
  CHECK(message_of<TaskError>([&] { runtime.wait_for_all(); }) == "odd: unknown exception");
}

TEST_CASE("a runtime with a failure stops without a word", "[task]") {
  static const Codelet codelet("left alone", {WorkerKind::cpu});
  {
    Runtime runtime({.cpu_workers = 1, .scheduler = {}});
    submit(codelet, {}, [](const TaskContext&) { throw std::runtime_error("unheard"); });
  }
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  CHECK_NOTHROW(runtime.wait_for_all());
}

TEST_CASE("a task that no worker can run is an error at submission", "[task]") {
  static const Codelet nowhere("nowhere", {});
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const auto tensors = integers(12);
  std::vector<Use> uses;
  for (const Tensor& tensor : tensors) uses.push_back({tensor, Access::read});
  const auto token = std::make_shared<int>(0);
  const auto message = message_of<std::runtime_error>(
      [&] { submit(nowhere, uses, [token](const TaskContext&) {}); });
  CHECK(contains(message, "nowhere"));
  CHECK(token.use_count() == 1);
  CHECK_THROWS_AS(submit(nowhere, {{Tensor(), Access::read}}, [](const TaskContext&) {}),
                  std::logic_error);
  CHECK_NOTHROW(runtime.wait_for_all());
}

TEST_CASE("wait_until_at_most bounds the tasks in flight", "[task]") {
  static const Codelet codelet("bounded", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  std::atomic<int> done = 0;
  for (int i = 0; i < 20; ++i) {
    submit(codelet, {}, [&done](const TaskContext&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ++done;
    });
    runtime.wait_until_at_most(3);
    CHECK(done >= i + 1 - 3);
  }
  runtime.wait_until_at_most(0);
  CHECK(done == 20);
}

TEST_CASE("codelets may come and go while a runtime lives", "[task]") {
  for (int lifetime = 0; lifetime < 2; ++lifetime) {
    Runtime runtime({.cpu_workers = 1, .scheduler = "dmda"});
    for (int i = 0; i < 3; ++i) {
      const Codelet codelet("local", {WorkerKind::cpu});
      int done = 0;
      for (int task = 0; task < 20; ++task)
        submit(codelet, {}, [&done](const TaskContext&) { ++done; });
      runtime.wait_for_all();
      CHECK(done == 20);
    }
  }
}

TEST_CASE("a submission without a runtime is an error", "[task]") {
  static const Codelet codelet("orphan", {WorkerKind::cpu});
  CHECK_THROWS_AS(submit(codelet, {}, [](const TaskContext&) {}), std::logic_error);
}

}  // namespace
}  // namespace stpt::runtime
