#include "runtime/tensor.hpp"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "runtime/runtime.hpp"
#include "runtime/task.hpp"
#include "tests/catch.hpp"
#include "tests/runtime/runtime_testing.hpp"

namespace stpt::runtime {
namespace {

using testing::contains;
using testing::message_of;

TEST_CASE("a tensor's bytes include the padding of blocked channels", "[tensor]") {
  const Shape shape{2, 19, 3, 5};
  const auto elements = [&](Layout layout) {
    return TensorSpec{shape, DataType::float32, layout}.stored_elements();
  };
  CHECK(shape.elements() == 2 * 19 * 3 * 5);
  CHECK(shape.spatial() == 15);
  CHECK(elements(Layout::nchw) == 2 * 19 * 15);
  CHECK(elements(Layout::nhwc) == 2 * 19 * 15);
  CHECK(elements(Layout::nchw8c) == 2 * 24 * 15);
  CHECK(elements(Layout::nchw16c) == 2 * 32 * 15);
  CHECK(TensorSpec{shape, DataType::float32, Layout::nchw16c}.bytes() == 4 * 2 * 32 * 15);
  CHECK(TensorSpec{shape, DataType::bfloat16, Layout::nchw8c}.bytes() == 2 * 2 * 24 * 15);
  CHECK(TensorSpec{shape, DataType::uint8, Layout::nchw}.bytes() == 2 * 19 * 15);
  CHECK(TensorSpec{{1, 16, 1, 1}, DataType::float32, Layout::nchw16c}.stored_elements() == 16);
  CHECK_THROWS_AS(elements(Layout::any), std::logic_error);
}

TEST_CASE("specs name themselves", "[tensor]") {
  CHECK(TensorSpec{{64, 16, 32, 32}, DataType::float32, Layout::nchw16c}.to_string() ==
        "64x16x32x32 float32 nchw16c");
  CHECK(TensorSpec{{1, 7, 1, 1}, DataType::int32, Layout::any}.to_string() == "1x7x1x1 int32 any");
  CHECK(std::string(to_string(DataType::float16)) == "float16");
  CHECK(size_of(DataType::int32) == 4);
  CHECK(size_of(DataType::float16) == 2);
}

TEST_CASE("flat specs", "[tensor]") {
  CHECK(bytes_spec(100).bytes() == 100);
  CHECK(vector_spec(100).bytes() == 400);
  CHECK(vector_spec(3, DataType::int32).shape == Shape{1, 3, 1, 1});
}

TEST_CASE("align_up rounds to whole units", "[tensor]") {
  CHECK(align_up(0) == 0);
  CHECK(align_up(1) == 64);
  CHECK(align_up(64) == 64);
  CHECK(align_up(65) == 128);
  CHECK(align_up(65, 256) == 256);
}

TEST_CASE("a tensor at home on the host starts as zeros and keeps what is written", "[tensor]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const std::size_t count = GENERATE(std::size_t{1}, std::size_t{17}, std::size_t{1000003});
  const Tensor tensor(vector_spec(count), "tensor", Home::host);
  CHECK(tensor.bytes() == count * sizeof(float));
  {
    const HostView view(tensor, Access::read);
    const auto values = view.as<float>();
    REQUIRE(values.size() == count);
    CHECK(reinterpret_cast<std::uintptr_t>(values.data()) % tensor_alignment == 0);
    CHECK(std::all_of(values.begin(), values.end(), [](float value) { return value == 0; }));
  }
  {
    const HostView view(tensor, Access::read_write);
    view.as<float>().back() = 3;
  }
  const HostView view(tensor, Access::read);
  CHECK(view.as<float>().back() == 3);
}

TEST_CASE("a tensor without a home gets memory when it is written", "[tensor]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const Tensor tensor(vector_spec(100, DataType::int32), "tensor");
  {
    const HostView view(tensor, Access::write);
    CHECK(reinterpret_cast<std::uintptr_t>(view.as<std::int32_t>().data()) % tensor_alignment == 0);
    std::fill_n(view.as<std::int32_t>().begin(), 100, 7);
  }
  const HostView view(tensor, Access::read);
  CHECK(view.as<std::int32_t>()[99] == 7);
}

TEST_CASE("moving a tensor moves its memory", "[tensor]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  Tensor first(vector_spec(10), "first", Home::host);
  { HostView(first, Access::write).as<float>()[0] = 5; }
  Tensor second(std::move(first));
  CHECK_FALSE(first);
  REQUIRE(second);
  CHECK(HostView(second, Access::read).as<float>()[0] == 5);

  Tensor third(vector_spec(20), "third", Home::host);
  third = std::move(second);
  CHECK_FALSE(second);
  CHECK(third.spec() == vector_spec(10));
  CHECK(HostView(third, Access::read).as<float>()[0] == 5);
  Tensor& same = third;
  third = std::move(same);
  CHECK(HostView(third, Access::read).as<float>()[0] == 5);

  std::vector<Tensor> tensors;
  for (int i = 0; i < 20; ++i) {
    tensors.emplace_back(vector_spec(1), "element", Home::host);
    HostView(tensors.back(), Access::write).as<float>()[0] = static_cast<float>(i);
  }
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(HostView(tensors[i], Access::read).as<float>()[0] == static_cast<float>(i));
  }
}

TEST_CASE("destroying a tensor waits for the tasks that use it", "[tensor]") {
  static const Codelet codelet("slow", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const Access access = GENERATE(Access::write, Access::scratch);
  const Home home = GENERATE(Home::none, Home::host);
  int done = 0;
  {
    const Tensor tensor(vector_spec(1000), "tensor", home);
    for (int i = 0; i < 50; ++i) {
      submit(codelet, {{tensor, access}}, [&done](const TaskContext& task) {
        std::fill_n(task.buffer<float>(0), 1000, 1.0f);
        ++done;
      });
    }
  }
  CHECK(done == 50);
}

TEST_CASE("tensors that cannot be are errors", "[tensor]") {
  CHECK(contains(message_of<std::logic_error>([] { Tensor(vector_spec(1), "early"); }), "early"));
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  CHECK(contains(message_of<std::logic_error>([] { Tensor(vector_spec(0), "empty"); }), "empty"));
  const Tensor tensor(vector_spec(1), "tensor", Home::host);
  CHECK_THROWS_AS(HostView(tensor, Access::scratch), std::logic_error);
  CHECK_THROWS_AS(HostView(Tensor(), Access::read), std::logic_error);
}

TEST_CASE("a host view inside a task is an error of the task", "[tensor]") {
  static const Codelet codelet("viewer", {WorkerKind::cpu});
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const Tensor tensor(vector_spec(1), "tensor", Home::host);
  submit(codelet, {}, [&tensor](const TaskContext&) { HostView(tensor, Access::read); });
  CHECK(contains(message_of<TaskError>([&] { runtime.wait_for_all(); }), "viewer: HostView"));
}

}  // namespace
}  // namespace stpt::runtime
