// Streams, events, captures and graphs of the emulated runtime, behind CUDA's handles.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tests/emulated_cuda/state.hpp"

struct CUgraph_st {
  std::vector<emulated_cuda::Operation> operations;
  std::vector<std::shared_ptr<const void>> retained;  ///< user objects
};

namespace emulated_cuda {

using Clock = std::chrono::steady_clock;

/// What is being captured, from one stream and those that it forked to. Operations of all of them
/// are kept in the order of the calls, which is one that their dependencies allow.
struct Capture {
  cudaStreamCaptureMode mode{};
  std::thread::id thread;
  cudaStream_t origin{};
  unsigned long long id = 0;
  bool invalid = false;
  std::unique_ptr<CUgraph_st> graph = std::make_unique<CUgraph_st>();
  struct Member {
    std::size_t operations = 0;
    bool joined = false;  ///< back into another stream, with all of its operations
  };
  std::unordered_map<cudaStream_t, Member> members;
};

}  // namespace emulated_cuda

struct CUstream_st {
  int device = 0;
  unsigned flags = 0;
  int priority = 0;
  std::shared_ptr<emulated_cuda::Capture> capture;
  std::mutex running;
  std::atomic<emulated_cuda::Clock::time_point> busy_until;  ///< with pretended graphs
};

struct CUevent_st {
  unsigned flags = 0;
  int device = 0;
  bool recorded = false;
  emulated_cuda::Clock::time_point time;
  emulated_cuda::Clock::time_point happens;  ///< behind pretended graphs
  // Where it was recorded last, if that was captured:
  std::shared_ptr<emulated_cuda::Capture> capture;
  cudaStream_t stream{};
  std::size_t operations = 0;
};

struct CUgraphExec_st {
  std::vector<emulated_cuda::Operation> operations;
  std::vector<std::shared_ptr<const void>> retained;
};

namespace emulated_cuda {

/// The live objects behind handles.
template <typename T>
class Handles {
 public:
  T* add(std::unique_ptr<T> object) {
    std::lock_guard lock(mutex_);
    T* handle = object.get();
    objects_.emplace(handle, std::move(object));
    return handle;
  }
  [[nodiscard]] bool contains(T* handle) const {
    std::lock_guard lock(mutex_);
    return objects_.contains(handle);
  }
  bool remove(T* handle) {
    std::lock_guard lock(mutex_);
    return objects_.erase(handle) > 0;
  }
  template <typename Action>
  void for_each(Action action) const {
    std::lock_guard lock(mutex_);
    for (const auto& entry : objects_) action(*entry.second);
  }
  template <typename Condition>
  void remove_if(Condition condition) {
    std::lock_guard lock(mutex_);
    std::erase_if(objects_, [&](const auto& entry) { return condition(*entry.second); });
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<T*, std::unique_ptr<T>> objects_;
};

/// Never destroyed: objects of other libraries may hold handles until the very end.
struct Objects {
  Handles<CUstream_st> streams;
  Handles<CUevent_st> events;
  Handles<CUgraph_st> graphs;
  Handles<CUgraphExec_st> executables;
  std::array<CUstream_st, max_devices> legacy;  ///< the default streams
  std::mutex captures_mutex;                    ///< of all captures, and who takes part in them
  std::vector<std::shared_ptr<Capture>> captures;
  unsigned long long captures_begun = 0;

  Objects() {
    for (std::size_t i = 0; i < legacy.size(); ++i) legacy[i].device = static_cast<int>(i);
  }
};

Objects& objects();

/// For all that concerns captures.
[[nodiscard]] std::unique_lock<std::mutex> lock_captures();

bool is_legacy(const CUstream_st* stream);

/// Null for a handle of no stream.
CUstream_st* resolve(cudaStream_t handle);

bool captures(const CUstream_st& stream);

/// As enqueue(), on a stream that is known.
cudaError_t enqueue_on(CUstream_st& stream, Operation operation);

/// With the captures locked: spoils the stream's capture.
cudaError_t refuse_captured(CUstream_st& stream, const char* function);

cudaError_t no_stream();

/// Runs `body(stream)` for a usable stream.
template <typename Body>
cudaError_t with_stream(cudaStream_t handle, Body body) {
  return api([&] {
    CUstream_st* stream = resolve(handle);
    if (!stream) return no_stream();
    const cudaError_t usable = check_device(stream->device);
    return usable == cudaSuccess ? body(*stream) : usable;
  });
}

}  // namespace emulated_cuda
