#include "tests/emulated_cuda/emulation.hpp"

#include <chrono>
#include <cmath>
#include <csignal>
#include <numeric>
#include <string>
#include <thread>

#include "tests/emulated_cuda/test_kernels.hpp"
#include "tests/emulated_cuda/testing.hpp"

namespace stpt::testing {
namespace {

std::vector<float> counting(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

TEST_CASE("there are as many devices as asked for", "[emulation]") {
  int devices = 0;
  check(cudaGetDeviceCount(&devices));
  CHECK(devices == 2);
  CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice);
  CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
  CHECK(cudaGetLastError() == cudaSuccess);
}

// ---- Kernels ----------------------------------------------------------------------------------

TEST_CASE("a block adds through shuffles and shared memory", "[emulation]") {
  const int count = 10'000, blocks = 5;
  const DeviceFloats values(counting(count)), sums(blocks);
  check(sum_blocks(values.pointer(), count, sums.pointer(), blocks, nullptr));
  double sum = 0;
  for (const float part : sums.values()) sum += part;
  CHECK(sum == Approx(0.5 * count * (count - 1)));
}

TEST_CASE("threads see where they are", "[emulation]") {
  const DeviceFloats values(std::size_t{3 * 24});
  check(write_places(values.pointer(), 3, nullptr));
  const std::vector<float> places = values.values();
  CHECK(places[0] == 0);
  CHECK(places[23] == 3 + 20 + 100);
  CHECK(places[24 + 4] == 10 + 1000);
  CHECK(places[2 * 24 + 12] == 100 + 2000);
}

TEST_CASE("shared memory passes values between threads", "[emulation]") {
  const DeviceFloats values(counting(512));
  check(reverse(values.pointer(), 2, nullptr));
  const std::vector<float> reversed = values.values();
  CHECK(reversed[0] == 255);
  CHECK(reversed[255] == 0);
  CHECK(reversed[256] == 511);
}

TEST_CASE("shared memory that is written again too early spoils what is read", "[emulation]") {
  constexpr int blocks = 4;
  const DeviceFloats values(std::size_t{blocks * 256});
  check(overwrite(values.pointer(), blocks, nullptr));
  CHECK(values.values() != std::vector<float>(blocks * 256, 256.0f));
}

TEST_CASE("half precision is rounded to", "[emulation]") {
  const DeviceFloats from({1.0f, 1.0f + 1.0f / 2048, 65504.0f, 1e6f}), to(4);
  check(to_half_and_back(from.pointer(), to.pointer(), 4, nullptr));
  CHECK(to.values() == std::vector<float>{1.0f, 1.0f, 65504.0f, INFINITY});
}

TEST_CASE("threads that leave before a __syncthreads end the program", "[emulation]") {
  const DeviceFloats values(256);
  CHECK(signal_that_ends([&] { diverge(values.pointer(), nullptr); }) == SIGABRT);
  CHECK(signal_that_ends([&] { scale(values.pointer(), 256, 1, 0, nullptr); }) == 0);
}

// ---- Memory -----------------------------------------------------------------------------------

TEST_CASE("fresh memory is poisoned, and given back", "[emulation]") {
  const std::uint64_t before = counts().bytes_in_use;
  {
    const DeviceFloats values(10);
    CHECK(std::isnan(values.values()[9]));
    CHECK(counts().bytes_in_use == before + 40);
  }
  CHECK(counts().bytes_in_use == before);
}

TEST_CASE("memory belongs to one device", "[emulation]") {
  check(cudaSetDevice(1));
  const DeviceFloats there({1, 2, 3, 4});
  check(cudaSetDevice(0));
  const DeviceFloats here({5, 6, 7, 8});

  CHECK(scale(there.pointer(), 4, 2, 0, nullptr) == cudaErrorIllegalAddress);
  CHECK(std::string(emulated_cuda_last_complaint()).find("on device 1") != std::string::npos);
  CHECK(to_half_and_back(there.pointer(), here.pointer(), 4, nullptr) == cudaErrorIllegalAddress);
  CHECK(cudaMemcpy(here.pointer(), there.pointer(), 16, cudaMemcpyDeviceToDevice) ==
        cudaErrorInvalidValue);
  CHECK(cudaMemcpyPeer(here.pointer(), 0, there.pointer(), 0, 16) == cudaErrorInvalidValue);
  CHECK(here.values() == std::vector<float>{5, 6, 7, 8});

  const std::uint64_t peer = counts().peer_bytes;
  check(cudaMemcpyPeer(here.pointer(), 0, there.pointer(), 1, 16));
  CHECK(here.values() == std::vector<float>{1, 2, 3, 4});
  CHECK(counts().peer_bytes == peer + 16);
}

TEST_CASE("pointers to nowhere are refused", "[emulation]") {
  float on_host[4] = {};
  const DeviceFloats device(4);
  float* freed = DeviceFloats(4).pointer();
  CHECK(scale(on_host, 4, 1, 0, nullptr) == cudaErrorIllegalAddress);
  CHECK(scale(freed, 4, 1, 0, nullptr) == cudaErrorIllegalAddress);
  CHECK(cudaMemcpy(device.pointer(), on_host, 17, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(device.pointer(), device.pointer(), 16, cudaMemcpyHostToDevice) ==
        cudaErrorInvalidValue);
  CHECK(cudaMemset(on_host, 0, 16) == cudaErrorInvalidValue);
  CHECK(cudaFree(on_host) == cudaErrorInvalidValue);
  CHECK(cudaFree(device.pointer() + 1) == cudaErrorInvalidValue);
}

TEST_CASE("device memory ends", "[emulation]") {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  CHECK(total == std::size_t{4096} << 20);
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, free + 1) == cudaErrorMemoryAllocation);
  CHECK(memory == nullptr);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);

  emulated_cuda_fail_malloc(2);
  const DeviceFloats first(1);
  CHECK(cudaMalloc(&memory, 4) == cudaErrorMemoryAllocation);
  const DeviceFloats third(1);
}

TEST_CASE("copies of rows leave what is between them", "[emulation]") {
  const DeviceFloats device({0, 0, 0, 0, 0, 0});
  const float rows[] = {1, 2, 3, 4};
  check(cudaMemcpy2D(device.pointer(), 12, rows, 8, 8, 2, cudaMemcpyHostToDevice));
  CHECK(device.values() == std::vector<float>{1, 2, 0, 3, 4, 0});
}

TEST_CASE("a lost device refuses everything, the other goes on", "[emulation]") {
  const DeviceFloats values(4);
  emulated_cuda_lose_device(0, 1);
  CHECK(scale(values.pointer(), 4, 1, 0, nullptr) == cudaErrorLaunchFailure);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(cudaSetDevice(1) == cudaSuccess);
  CHECK_NOTHROW(DeviceFloats(4));
  emulated_cuda_lose_device(0, 0);
  check(cudaSetDevice(0));
}

// ---- Deferred work ----------------------------------------------------------------------------

struct Deferring {
  Deferring() { emulated_cuda_defer(1); }
  ~Deferring() { emulated_cuda_defer(0); }
  Deferring(const Deferring&) = delete;
  Deferring& operator=(const Deferring&) = delete;
};

TEST_CASE("deferred work runs for who waits", "[emulation]") {
  const DeviceFloats values({1, 2});
  const Stream stream, other;
  const Event event, later;
  const Deferring deferring;
  check(scale(values.pointer(), 2, 2, 0, stream));
  check(cudaEventRecord(event, stream));
  check(scale(values.pointer(), 2, 2, 0, stream));
  check(cudaEventRecord(later, stream));
  check(cudaStreamSynchronize(other));
  CHECK(values.values() == std::vector<float>{1, 2});
  SECTION("for an event") {
    check(cudaEventSynchronize(event));
    CHECK(values.values() == std::vector<float>{2, 4});
  }
  SECTION("for a stream") {
    check(cudaStreamSynchronize(stream));
    CHECK(values.values() == std::vector<float>{4, 8});
  }
  SECTION("for the device") {
    check(cudaDeviceSynchronize());
    CHECK(values.values() == std::vector<float>{4, 8});
  }
  SECTION("for a stream that waits for an event of its stream") {
    check(cudaStreamWaitEvent(other, event));
    CHECK(values.values() == std::vector<float>{1, 2});
    check(cudaStreamSynchronize(other));
    CHECK(values.values() == std::vector<float>{2, 4});
  }
  SECTION("or asks twice for an event") {
    CHECK(cudaEventQuery(event) == cudaErrorNotReady);
    CHECK(cudaEventQuery(later) == cudaErrorNotReady);
    CHECK(cudaEventQuery(event) == cudaSuccess);
    CHECK(values.values() == std::vector<float>{2, 4});
  }
  SECTION("or twice for a stream") {
    CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
    CHECK(cudaStreamQuery(stream) == cudaSuccess);
    CHECK(cudaEventQuery(later) == cudaSuccess);
    CHECK(values.values() == std::vector<float>{4, 8});
  }
}

TEST_CASE("a deferred copy reads pinned memory when it runs, pageable memory before",
          "[emulation]") {
  const DeviceFloats values(1);
  const Stream stream;
  float* pinned = nullptr;
  check(cudaMallocHost(reinterpret_cast<void**>(&pinned), sizeof(float)));
  float pageable = 1;
  *pinned = 1;
  const bool from_pinned = GENERATE(true, false);
  {
    const Deferring deferring;
    check(cudaMemcpyAsync(values.pointer(), from_pinned ? pinned : &pageable, sizeof(float),
                          cudaMemcpyHostToDevice, stream));
    *pinned = pageable = 2;
    check(cudaStreamSynchronize(stream));
  }
  CHECK(values.values() == std::vector<float>{from_pinned ? 2.0f : 1.0f});
  check(cudaFreeHost(pinned));
}

TEST_CASE("a deferred copy to pageable memory waits", "[emulation]") {
  const DeviceFloats values(std::vector<float>{1});
  const Stream stream;
  const Deferring deferring;
  float result = 0;
  check(scale(values.pointer(), 1, 2, 0, stream));
  check(cudaMemcpyAsync(&result, values.pointer(), sizeof(float), cudaMemcpyDeviceToHost, stream));
  CHECK(result == 2);
}

TEST_CASE("a deferred graph runs though it was destroyed", "[emulation]") {
  const DeviceFloats values(std::vector<float>{1});
  const Stream stream;
  const Deferring deferring;
  auto graph = captured(
      stream, [&](cudaStream_t captures) { check(scale(values.pointer(), 1, 2, 0, captures)); });
  check(cudaGraphLaunch(graph.get(), stream));
  graph.reset();
  CHECK(values.values() == std::vector<float>{1});
  check(cudaStreamSynchronize(stream));
  CHECK(values.values() == std::vector<float>{2});
}

TEST_CASE("a fault in deferred work is the device's from then on", "[emulation]") {
  const Stream stream;
  {
    const Deferring deferring;
    {
      const DeviceFloats values(std::vector<float>{1});
      check(scale(values.pointer(), 1, 2, 0, stream));
    }
    CHECK(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
    void* memory = nullptr;
    CHECK(cudaMalloc(&memory, 4) == cudaErrorIllegalAddress);
  }
  check(cudaSetDevice(1));
  CHECK_NOTHROW(DeviceFloats(4));
  emulated_cuda_lose_device(0, 0);
  check(cudaSetDevice(0));
  CHECK_NOTHROW(DeviceFloats(4));
}

// ---- Captures ---------------------------------------------------------------------------------

TEST_CASE("what is captured runs when it is replayed", "[emulation]") {
  const DeviceFloats values({1, 2});
  const Stream stream;
  const auto graph = captured(stream, [&](cudaStream_t captures) {
    check(scale(values.pointer(), 2, 2, 0, captures));
    check(scale(values.pointer(), 2, 1, 1, captures));
  });
  CHECK(values.values() == std::vector<float>{1, 2});
  const EmulatedCudaCounts before = counts();
  check(cudaGraphLaunch(graph.get(), stream));
  check(cudaGraphLaunch(graph.get(), stream));
  CHECK(values.values() == std::vector<float>{7, 11});
  CHECK(counts().graph_launches == before.graph_launches + 2);
  CHECK(counts().kernels_run == before.kernels_run + 4);
  CHECK(counts().kernel_launches == before.kernel_launches);
}

TEST_CASE("pretended graphs take their time and compute nothing", "[emulation]") {
  constexpr auto time = std::chrono::milliseconds(100);
  const DeviceFloats values({1, 2});
  const Stream stream, follower, other;
  const auto graph = captured(
      stream, [&](cudaStream_t captures) { check(scale(values.pointer(), 2, 2, 0, captures)); });
  cudaEvent_t event{};
  check(cudaEventCreate(&event));
  emulated_cuda_pretend(std::chrono::microseconds(time).count());
  const auto start = std::chrono::steady_clock::now();
  const auto happens = [&](cudaError_t answer, int graphs) {
    return answer == cudaErrorNotReady || std::chrono::steady_clock::now() >= start + graphs * time;
  };
  check(cudaGraphLaunch(graph.get(), stream));
  check(cudaGraphLaunch(graph.get(), stream));
  check(scale(values.pointer(), 2, 2, 0, stream));
  check(cudaEventRecord(event, stream));
  check(cudaStreamWaitEvent(follower, event));
  CHECK(happens(cudaEventQuery(event), 2));
  CHECK(happens(cudaStreamQuery(follower), 2));
  CHECK(cudaStreamQuery(other) == cudaSuccess);
  SECTION("an event") { check(cudaEventSynchronize(event)); }
  SECTION("a stream") { check(cudaStreamSynchronize(follower)); }
  SECTION("the device") { check(cudaDeviceSynchronize()); }
  CHECK(std::chrono::steady_clock::now() >= start + 2 * time);
  check(cudaEventQuery(event));
  check(cudaStreamQuery(stream));
  check(cudaStreamQuery(follower));
  emulated_cuda_pretend(0);
  CHECK(values.values() == std::vector<float>{1, 2});
  check(cudaGraphLaunch(graph.get(), stream));
  CHECK(values.values() == std::vector<float>{2, 4});
  check(cudaEventDestroy(event));
}

TEST_CASE("a graph replayed after its memory was freed fails", "[emulation]") {
  const Stream stream;
  std::shared_ptr<CUgraphExec_st> graph;
  {
    const DeviceFloats values({1, 2});
    graph = captured(
        stream, [&](cudaStream_t captures) { check(scale(values.pointer(), 2, 2, 0, captures)); });
  }
  CHECK(cudaGraphLaunch(graph.get(), stream) == cudaErrorIllegalAddress);
}

TEST_CASE("a capture forks into other streams and joins them", "[emulation]") {
  const DeviceFloats values({1, 1});
  const Stream stream, side;
  const Event forked, joined;
  const bool joins = GENERATE(true, false);
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  check(cudaEventRecord(forked, stream));
  check(cudaStreamWaitEvent(side, forked));
  check(scale(values.pointer(), 1, 3, 0, side));
  check(cudaEventRecord(joined, side));
  CHECK(cudaEventQuery(joined) == cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph{};
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);

  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  check(cudaEventRecord(forked, stream));
  check(cudaStreamWaitEvent(side, forked));
  check(scale(values.pointer(), 1, 3, 0, side));
  check(cudaEventRecord(joined, side));
  if (joins) check(cudaStreamWaitEvent(stream, joined));
  CHECK(cudaStreamEndCapture(stream, &graph) ==
        (joins ? cudaSuccess : cudaErrorStreamCaptureUnjoined));
  CHECK((graph != nullptr) == joins);
  if (joins) check(cudaGraphDestroy(graph));
  check(scale(values.pointer(), 2, 2, 0, side));  // no longer captured
  CHECK(values.values() == std::vector<float>{2, 2});
}

TEST_CASE("calls that a capture forbids are refused, and spoil it", "[emulation]") {
  const Stream stream, other;
  const Event event;
  void* memory = nullptr;
  const DeviceFloats values(1);
  float on_host = 0;
  using Call = std::function<cudaError_t()>;
  const std::vector<Call> calls = {
      [&] { return cudaMalloc(&memory, 4); },
      [&] { return cudaFree(values.pointer()); },
      [&] { return cudaHostAlloc(&memory, 4, 0); },
      [&] { return cudaStreamSynchronize(stream); },
      [&] { return cudaStreamQuery(stream); },
      [] { return cudaDeviceSynchronize(); },
      [&] { return cudaEventSynchronize(event); },
      [&] { return cudaMemcpy(&on_host, values.pointer(), 4, cudaMemcpyDeviceToHost); },
  };
  const std::size_t which = GENERATE(0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u);
  CAPTURE(which);
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaError_t elsewhere = cudaErrorUnknown;
  std::thread([&] { elsewhere = cudaStreamSynchronize(other); }).join();
  CHECK(elsewhere == cudaSuccess);  // another thread may
  CHECK(calls[which]() == cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph{};
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  CHECK(graph == nullptr);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
}

TEST_CASE("nobody waits for a device whose streams capture", "[emulation]") {
  const Stream stream;
  for (const auto mode : {cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed}) {
    check(cudaStreamBeginCapture(stream, mode));
    cudaError_t elsewhere = cudaSuccess;
    std::thread([&] { elsewhere = cudaDeviceSynchronize(); }).join();
    CHECK(elsewhere == cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph{};
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  }
}

TEST_CASE("a global capture forbids such calls to other threads, too", "[emulation]") {
  const Stream stream, other;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  cudaError_t elsewhere = cudaSuccess;
  std::thread([&] { elsewhere = cudaStreamSynchronize(other); }).join();
  CHECK(elsewhere == cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph{};
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
}

}  // namespace
}  // namespace stpt::testing
