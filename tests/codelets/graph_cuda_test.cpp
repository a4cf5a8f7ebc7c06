#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "codelets/cuda_graph.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::cuda::GraphCache;

namespace {

struct DestroyStream {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};

std::unique_ptr<CUstream_st, DestroyStream> make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return std::unique_ptr<CUstream_st, DestroyStream>(stream);
}

/// When a capture is broken off, as by another thread.
enum class Break { never, before_copy, after_copy };

/// Copies between two buffers of 64 bytes, by the cache.
class Copying {
 public:
  /// How often the copy was enqueued, rather than replayed.
  [[nodiscard]] int enqueued() const { return enqueued_; }
  [[nodiscard]] std::size_t graphs() const { return cache_.size(); }

  void run(int worker, std::size_t work, DeviceBuffer& from, DeviceBuffer& to,
           Break capture = Break::never) {
    void* const pointers[] = {from.pointer(), to.pointer()};
    cache_.run(worker, work, pointers, stream_.get(), [&] {
      ++enqueued_;
      if (capture == Break::before_copy) cudaStreamSynchronize(stream_.get());
      check_cuda(cudaMemcpyAsync(to.pointer(), from.pointer(), 64, cudaMemcpyDeviceToDevice,
                                 stream_.get()));
      if (capture == Break::after_copy) cudaStreamSynchronize(stream_.get());
    });
    check_cuda(cudaStreamSynchronize(stream_.get()));
  }

  void fail(int worker, std::size_t work, DeviceBuffer& from, DeviceBuffer& to) {
    void* const pointers[] = {from.pointer(), to.pointer()};
    cache_.run(worker, work, pointers, stream_.get(),
               [] { throw std::runtime_error("no memory"); });
  }

 private:
  std::unique_ptr<CUstream_st, DestroyStream> stream_ = make_stream();
  GraphCache cache_;
  int enqueued_ = 0;
};

Bytes filled(int value) { return Bytes(64, static_cast<std::byte>(value)); }

}  // namespace

TEST_CASE("Work is run once, captured once, and replayed with the values of the day", "[cuda]") {
  NEEDS_GPUS(1);
  Copying copying;
  DeviceBuffer from(64), to(64);
  for (int round = 0; round < 5; ++round) {
    from.upload(filled(round));
    copying.run(3, 0, from, to);
    CHECK(to.download() == filled(round));
    CHECK(copying.enqueued() == std::min(round + 1, 2));
  }
  CHECK(copying.graphs() == 1);
}

TEST_CASE("Other addresses, workers and pieces of work have graphs of their own", "[cuda]") {
  NEEDS_GPUS(1);
  Copying copying;
  DeviceBuffer a(64), b(64), c(64);
  a.upload(filled(1));
  const auto twice = [&](int worker, std::size_t work, DeviceBuffer& from, DeviceBuffer& to) {
    const int before = copying.enqueued();
    copying.run(worker, work, from, to);
    copying.run(worker, work, from, to);
    CHECK(to.download() == from.download());
    return copying.enqueued() - before;
  };
  CHECK(twice(0, 0, a, b) == 2);  // directly, and captured
  CHECK(twice(0, 0, b, c) == 2);
  CHECK(twice(0, 0, a, b) == 0);
  CHECK(twice(1, 0, a, b) == 2);
  CHECK(twice(0, 7, a, b) == 2);
  CHECK(twice(0, 0, b, a) == 2);  // the order counts
  CHECK(copying.graphs() == 5);
}

TEST_CASE("Addresses that come once are not captured", "[cuda]") {
  NEEDS_GPUS(1);
  Copying copying;
  DeviceBuffer from(64);
  std::vector<std::unique_ptr<DeviceBuffer>> targets;
  for (int i = 0; i < 5; ++i) {
    targets.push_back(std::make_unique<DeviceBuffer>(64));
    copying.run(0, 0, from, *targets.back());
  }
  CHECK(copying.enqueued() == 5);
  CHECK(copying.graphs() == 0);
}

TEST_CASE("A worker keeps a limited number of graphs", "[cuda]") {
  NEEDS_GPUS(1);
  Copying copying;
  DeviceBuffer from(64);
  from.upload(filled(9));
  std::vector<std::unique_ptr<DeviceBuffer>> targets;
  for (std::size_t i = 0; i < GraphCache::most_sets + 10; ++i) {
    targets.push_back(std::make_unique<DeviceBuffer>(64));
    for (int round = 0; round < 2; ++round) copying.run(0, 0, from, *targets.back());
    CHECK(copying.graphs() <= GraphCache::most_sets);
    CHECK(targets.back()->download() == filled(9));
  }
  CHECK(copying.graphs() > 0);
}

TEST_CASE("A capture that fails leaves the stream as it was", "[cuda]") {
  NEEDS_GPUS(1);
  Copying copying;
  DeviceBuffer from(64), to(64);
  from.upload(filled(5));
  CHECK_THROWS_WITH(copying.fail(0, 0, from, to), "no memory");  // directly
  copying.run(0, 0, from, to);
  CHECK(copying.enqueued() == 1);  // directly, too: nothing has run yet
  CHECK_THROWS_WITH(copying.fail(0, 0, from, to), "no memory");  // while it captures
  CHECK(copying.graphs() == 0);
  to.upload(filled(0));
  copying.run(0, 0, from, to);
  CHECK(copying.graphs() == 1);
  CHECK(to.download() == filled(5));
}

TEST_CASE("A capture that is broken off runs directly, and is tried again", "[cuda]") {
  NEEDS_GPUS(1);
  Copying copying;
  DeviceBuffer from(64), to(64);
  copying.run(0, 0, from, to);
  const auto copies = [&](int value, Break capture) {
    from.upload(filled(value));
    to.upload(filled(0));
    copying.run(0, 0, from, to, capture);
    CHECK(cudaGetLastError() == cudaSuccess);
    return to.download() == filled(value);
  };
  SECTION("once") {
    CHECK(copies(1, GENERATE(Break::before_copy, Break::after_copy)));
    CHECK(copying.enqueued() == 3);  // in vain, and directly
    CHECK(copying.graphs() == 0);
    CHECK(copies(2, Break::never));
    CHECK(copies(3, Break::never));
    CHECK(copying.graphs() == 1);
    CHECK(copying.enqueued() == 4);
  }
  SECTION("but not for ever") {
    for (int i = 0; i < GraphCache::most_attempts; ++i) CHECK(copies(i, Break::before_copy));
    CHECK_THROWS_WITH(copying.run(0, 0, from, to, Break::before_copy),
                      Catch::Matchers::Contains("broken off"));
    CHECK(cudaGetLastError() == cudaSuccess);
  }
}

TEST_CASE("An error of CUDA's names what failed, and what helps where memory is short", "[cuda]") {
  using codelets::cuda::check;
  CHECK_NOTHROW(check(cudaSuccess, "conv1"));
  CHECK_THROWS_WITH(check(cudaErrorInvalidValue, "conv1"),
                    "conv1: invalid argument (cudaErrorInvalidValue)");
  CHECK_THROWS_WITH(check(cudaErrorMemoryAllocation, "conv1"),
                    "conv1: out of memory (cudaErrorMemoryAllocation); take a smaller batch or "
                    "fewer replicas on one GPU");
}
