// Streams, events, captures and graphs of the emulated runtime, behind CUDA's handles.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tests/emulated_cuda/state.hpp"

namespace emulated_cuda {

/// A graph's nodes, and the user objects that live as long as any launch of it.
struct GraphContent {
  std::vector<Operation> operations;
  std::vector<std::shared_ptr<const void>> retained;
};

/// A stream's deferred work; it outlives the stream in the events recorded there.
struct DeferredWork {
  explicit DeferredWork(int owner) : device(owner) {}
  const int device;
  std::mutex mutex;                        ///< of what follows
  std::deque<Operation> operations;        ///< in order
  std::uint64_t enqueued = 0;              ///< operations ever
  std::atomic<std::uint64_t> finished{0};  ///< of those
};

}  // namespace emulated_cuda

struct CUgraph_st {
  emulated_cuda::GraphContent content;
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
  explicit CUstream_st(int owner, bool is_default = false)
      : device(owner),
        legacy(is_default),
        deferred(std::make_shared<emulated_cuda::DeferredWork>(owner)) {}
  const int device;
  const bool legacy;  ///< the device's default stream
  unsigned flags = 0;
  int priority = 0;
  std::shared_ptr<emulated_cuda::Capture> capture;
  std::mutex running;
  std::atomic<emulated_cuda::Clock::time_point> busy_until;  ///< with pretended graphs
  const std::shared_ptr<emulated_cuda::DeferredWork> deferred;
  std::atomic<std::uint64_t> asked_for{0};  ///< how much of it cudaStreamQuery called not ready
};

struct CUevent_st {
  unsigned flags = 0;
  int device = 0;
  bool recorded = false;
  emulated_cuda::Clock::time_point time;
  emulated_cuda::Clock::time_point happens;               ///< behind pretended graphs
  std::shared_ptr<emulated_cuda::DeferredWork> deferred;  ///< of the stream where it was recorded,
  std::uint64_t position = 0;  ///< how much of it comes before the event,
  bool asked = false;          ///< and whether somebody was told that it has not happened yet
  // Where it was recorded last, if that was captured:
  std::shared_ptr<emulated_cuda::Capture> capture;
  cudaStream_t stream{};
  std::size_t operations = 0;
};

struct CUgraphExec_st {
  std::shared_ptr<const emulated_cuda::GraphContent> content;
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
  std::deque<CUstream_st> legacy;  ///< by device
  std::mutex captures_mutex;       ///< of all captures, and who takes part in them
  std::vector<std::shared_ptr<Capture>> captures;
  unsigned long long captures_begun = 0;

  Objects() {
    for (int device = 0; device < max_devices; ++device) legacy.emplace_back(device, true);
  }
};

Objects& objects();

/// For all that concerns captures.
[[nodiscard]] std::unique_lock<std::mutex> lock_captures();

/// Runs the first `count` deferred operations, and what they wait for, unless they have run.
cudaError_t finish(DeferredWork& work, std::uint64_t count);

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
