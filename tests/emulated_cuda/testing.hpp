// What the tests of the emulation share.
#pragma once

#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <vector>

#include "tests/catch.hpp"
#include "tests/emulated_cuda/emulation.hpp"

namespace stpt::testing {

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorName(error));
}

/// Floats on the current device.
class DeviceFloats {
 public:
  explicit DeviceFloats(std::size_t count) : count_(count) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, count * sizeof(float)));
    memory_.reset(static_cast<float*>(memory));
  }
  explicit DeviceFloats(const std::vector<float>& values) : DeviceFloats(values.size()) {
    check(cudaMemcpy(pointer(), values.data(), bytes(), cudaMemcpyHostToDevice));
  }
  [[nodiscard]] float* pointer() const { return memory_.get(); }
  [[nodiscard]] std::size_t bytes() const { return count_ * sizeof(float); }
  [[nodiscard]] std::vector<float> values() const {
    std::vector<float> result(count_);
    check(cudaMemcpy(result.data(), pointer(), bytes(), cudaMemcpyDeviceToHost));
    return result;
  }

 private:
  struct Free {
    void operator()(float* memory) const { cudaFree(memory); }
  };
  std::size_t count_;
  std::unique_ptr<float, Free> memory_;
};

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_{};
};

class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_{};
};

inline EmulatedCudaCounts counts() {
  EmulatedCudaCounts result;
  emulated_cuda_counts(&result);
  return result;
}

/// What a graph executes, captured from `enqueue(stream)`.
template <typename Enqueue>
std::shared_ptr<CUgraphExec_st> captured(cudaStream_t stream, Enqueue enqueue) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue(stream);
  cudaGraph_t graph{};
  check(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable{};
  check(cudaGraphInstantiate(&executable, graph, 0));
  check(cudaGraphDestroy(graph));
  return {executable, [](cudaGraphExec_t made) { cudaGraphExecDestroy(made); }};
}

/// The signal that ends a process that does `act`; 0 if none does.
template <typename Act>
int signal_that_ends(Act act) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    std::fclose(stderr);            // it explains itself there
    std::signal(SIGABRT, SIG_DFL);  // not Catch2's report
    act();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

}  // namespace stpt::testing
